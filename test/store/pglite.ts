import { PGlite } from '@electric-sql/pglite'
import { vector } from '@electric-sql/pglite-pgvector'
import { PGLiteSocketServer } from '@electric-sql/pglite-socket'

export interface Database {
  readonly url: string
  /** Ends the server, as an operator would; the data stay. */
  stop(): Promise<void>
  /** Starts it again at the same address. */
  start(): Promise<void>
  close(): Promise<void>
}

/** A PostgreSQL in this process, with pgvector unless it is to lack it, behind a socket. All connections share one session. */
export async function openDatabase({ vectors = true }: { readonly vectors?: boolean } = {}): Promise<Database> {
  const engine = await PGlite.create(vectors ? { extensions: { vector } } : {})
  let port = 0
  let server: PGLiteSocketServer | undefined
  const start = async () => {
    server = new PGLiteSocketServer({ db: engine, host: '127.0.0.1', port, maxConnections: 100 })
    const listening = new Promise<number>((resolve) => {
      server?.addEventListener('listening', (event) => {
        resolve(event instanceof CustomEvent ? event.detail.port : 0)
      })
    })
    await server.start()
    port = await listening
  }
  const stop = async () => {
    await server?.stop()
    server = undefined
  }
  await start()
  return {
    get url() {
      return `postgresql://postgres:postgres@127.0.0.1:${port}/postgres?sslmode=disable`
    },
    start,
    stop,
    close: async () => {
      await stop()
      await engine.close()
    },
  }
}
