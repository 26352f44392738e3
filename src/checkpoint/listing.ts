/** What lies in a weights file, from its head alone. */
import { ClaraError } from '../errors.ts'
import { openPositioned } from './file.ts'
import { openGguf } from './gguf.ts'
import { openPth, type PthTree } from './pth.ts'
import { openSafetensors } from './safetensors.ts'

export interface ListedTensor {
  /** In a PyTorch file the keys of its dictionaries, joined by "/". */
  readonly name: string
  /** F32, BF16, F16, I64, … or a block format of GGUF. */
  readonly dtype: string
  readonly shape: readonly number[]
}

export interface FileListing {
  readonly format: 'GGUF' | 'safetensors' | 'PyTorch'
  readonly tensors: readonly ListedTensor[]
  /** The file's own key-value pairs; plain data of a PyTorch file. */
  readonly metadata: ReadonlyMap<string, unknown>
}

/** The names that safetensors gives to the types of PyTorch's storages. */
const torchTypes: Readonly<Record<string, string>> = {
  Float: 'F32',
  BFloat16: 'BF16',
  Half: 'F16',
  Double: 'F64',
  Long: 'I64',
  Int: 'I32',
  Short: 'I16',
  Char: 'I8',
  Byte: 'U8',
  Bool: 'BOOL',
}

/**
 * Lists a GGUF file, a safetensors file, a folder of safetensors shards, or a PyTorch checkpoint, told apart by their first bytes. No
 * weights are read.
 *
 * @throws ClaraError when it is none of these, or damaged.
 */
export async function listTensors(path: string, isFolder = false): Promise<FileListing> {
  const format = isFolder ? 'safetensors' : await formatOf(path)
  if (format === 'GGUF') {
    await using file = await openGguf(path)
    const tensors = [...file.tensors].map(([name, { ggmlType, dims }]) => ({ name, dtype: ggmlType, shape: dims }))
    return { format, tensors, metadata: file.metadata }
  }
  if (format === 'safetensors') {
    await using file = await openSafetensors(path)
    const tensors = [...file.tensors].map(([name, { storedType, dims }]) => ({ name, dtype: storedType, shape: dims }))
    return { format, tensors, metadata: file.metadata }
  }
  await using file = await openPth(path)
  const tensors: ListedTensor[] = []
  const metadata = new Map<string, unknown>()
  function visit(tree: PthTree, prefix: string): void {
    for (const [key, node] of tree) {
      const name = prefix + key
      if (node instanceof Map) visit(node, `${name}/`)
      else if (typeof node === 'object' && node !== null && 'read' in node)
        tensors.push({ name, dtype: torchTypes[node.storedType] ?? node.storedType, shape: node.dims })
      else metadata.set(name, node)
    }
  }
  visit(file.root, '')
  return { format, tensors, metadata }
}

async function formatOf(path: string): Promise<FileListing['format']> {
  const file = await openPositioned(path)
  try {
    const start = await file.read(0, Math.min(9, file.size))
    const text = new TextDecoder('latin1').decode(start)
    if (text.startsWith('GGUF')) return 'GGUF'
    if (text.startsWith('PK')) return 'PyTorch'
    if (text[8] === '{') return 'safetensors'
    throw new ClaraError(`"${path}" is no file of weights.`, {
      expected: 'GGUF, safetensors, or a PyTorch checkpoint in the zip format',
      received: file.size === 0 ? 'an empty file' : 'something else',
    })
  } finally {
    await file.close()
  }
}
