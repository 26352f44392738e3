/** The adapters of a published checkpoint: adapters.pth. */
import type { PthFile, PthNode, PthTensor, PthTree } from '../checkpoint/pth.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { adapterShapes, type LoraSize, type Role, roles } from '../lora/adapters.ts'
import type { DecoderConfig } from '../model/config.ts'
import { EMBEDDING, HEAD } from './network.ts'

/**
 * All roles' adapters, by PEFT name, float32. A missing query reasoner is a copy of the encoder adapter.
 * @throws ClaraError when another role is missing, or a parameter is missing, unknown, or of another shape than the model's.
 */
export async function readAdapters(
  file: PthFile,
  decoder: DecoderConfig,
  lora: LoraSize,
): Promise<ReadonlyMap<Role, ReadonlyMap<string, HostTensor>>> {
  const adapters = new Map<Role, ReadonlyMap<string, HostTensor>>()
  for (const role of roles) {
    const tree = file.root.get(role)
    if (isTree(tree)) adapters.set(role, await readAdapter(file.path, tree, decoder, lora, role))
    else if (role !== 'query_reasoner_adapter') {
      throw new ClaraError(`"${file.path}" has no ${role}.`, {
        received: [...file.root.keys()].join(', ') || 'nothing',
        hint: 'The file must hold the adapters of a CLaRa checkpoint.',
      })
    }
  }
  const encoder = adapters.get('encoder_adapter')
  if (encoder && !adapters.has('query_reasoner_adapter')) {
    const copies = [...encoder].map(([name, { dtype, dims, data }]): [string, HostTensor] => [
      name.replace('encoder_adapter', 'query_reasoner_adapter'),
      { dtype, dims, data: data.slice() },
    ])
    adapters.set('query_reasoner_adapter', new Map(copies))
  }
  return adapters
}

async function readAdapter(
  path: string,
  tree: PthTree,
  decoder: DecoderConfig,
  lora: LoraSize,
  role: Role,
): Promise<ReadonlyMap<string, HostTensor>> {
  const adapter = new Map<string, HostTensor>()
  const unread = new Set(tree.keys())
  for (const [name, dims] of adapterShapes(decoder, lora, role)) {
    // within its own dictionary the published code leaves the role out of the name
    const stored = [name.replace(`.${role}.`, '.'), name].find((candidate) => tree.has(candidate))
    const node = stored === undefined ? undefined : tree.get(stored)
    if (stored === undefined || !isTensor(node)) {
      throw new ClaraError(`The ${role} of "${path}" lacks "${name.replace(`.${role}.`, '.')}".`, {
        expected: `an adapter on every linear layer of ${decoder.num_hidden_layers} layers`,
        received: `${tree.size} tensors`,
      })
    }
    unread.delete(stored)
    adapter.set(name, await readShaped(path, `${role}/${stored}`, node, dims))
  }
  for (const table of [EMBEDDING, HEAD]) unread.delete(table)
  const [unknown] = unread
  if (unknown !== undefined) {
    throw new ClaraError(`The ${role} of "${path}" holds "${unknown}", which has no place in the model.`, {
      expected: `adapters on the linear layers of ${decoder.num_hidden_layers} layers`,
      hint: 'Does the base model belong to this checkpoint?',
    })
  }
  return adapter
}

/** A parameter as float32, when it has the shape that it should have. */
export async function readShaped(
  path: string,
  name: string,
  tensor: PthTensor,
  dims: readonly number[],
): Promise<HostTensor> {
  if (tensor.dims.join() !== dims.join()) {
    throw new ClaraError(`"${name}" of "${path}" has the wrong shape.`, {
      expected: `[${dims.join(', ')}], which the configurations and the tokenizer say`,
      received: `[${tensor.dims.join(', ')}]`,
    })
  }
  const value = await tensor.read()
  if (value.dtype === 'float32') return value
  throw new ClaraError(`"${name}" of "${path}" is not floating point.`, { received: tensor.storedType })
}

export const isTree = (node: PthNode | undefined): node is PthTree => node instanceof Map
export const isTensor = (node: PthNode | undefined): node is PthTensor =>
  typeof node === 'object' && node !== null && 'read' in node
