import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { ClaraError } from '../errors.ts'
import { bytesPerElement, type DType, elementCount, type HostTensor } from './dtype.ts'
import type { Attribute, Graph, GraphNode, Tensor } from './graph.ts'
import {
  type AttributeProto,
  AttributeProto_AttributeType,
  AttributeProtoSchema,
  GraphProtoSchema,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  OperatorSetIdProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProto_DataLocation,
  TensorProtoSchema,
  TensorShapeProto_DimensionSchema,
  TensorShapeProtoSchema,
  TypeProto_TensorSchema,
  TypeProtoSchema,
  type ValueInfoProto,
  ValueInfoProtoSchema,
} from './onnx_pb.ts'
import { type Shape, showShape } from './shape.ts'

/** The standard operator set that graphs are written in. */
const OPSET = 21
/** The operators that ONNX Runtime adds to the standard. */
export const MICROSOFT = 'com.microsoft'

const onnxType: Readonly<Record<DType, number>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
}

/** One ONNX node before encoding; tensors by name, '' for an omitted optional operand. */
export interface OnnxNode {
  readonly type: string
  readonly domain?: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes?: Readonly<Record<string, Attribute>>
}

/** What an operator's emission may ask for. */
export interface EmitContext {
  /** Name of an int64 constant. */
  ints(values: readonly number[], dims?: readonly number[]): string
  /** Name of a float32 constant vector. */
  floats(values: readonly number[]): string
  /** Name of an int64 vector holding a shape; nodes that read symbolic sizes from the inputs are added once per graph. */
  shapeVector(shape: Shape): string
  /** A fresh name for an intermediate. */
  temporary(): string
}

export type EmitNode = (node: GraphNode, context: EmitContext) => readonly OnnxNode[]

/** An ONNX model whose frozen weights are named but not contained. */
export interface EncodedModel {
  readonly name: string
  readonly bytes: Uint8Array
  readonly inputs: readonly { readonly name: string; readonly dtype: DType; readonly shape: Shape }[]
  readonly outputs: readonly { readonly name: string; readonly dtype: DType; readonly shape: Shape }[]
  /** Weights that must be supplied when a session opens, by name. */
  readonly weights: readonly { readonly name: string; readonly dtype: DType; readonly dims: readonly number[] }[]
}

/** The nodes that the outputs depend on, in building order. */
export function reachableNodes(graph: Graph): GraphNode[] {
  const wanted = new Set<GraphNode>()
  const stack = [...graph.outputs.values()]
  for (let tensor = stack.pop(); tensor; tensor = stack.pop()) {
    const node = tensor.producer
    if (!node || wanted.has(node)) continue
    wanted.add(node)
    for (const input of node.inputs) if (input) stack.push(input)
  }
  return graph.nodes.filter((node) => wanted.has(node))
}

/** Encodes a graph as an ONNX model. Nodes, constants and weights that no output depends on are left out. */
export function encodeModel(graph: Graph, emitNode: EmitNode): EncodedModel {
  if (graph.outputs.size === 0)
    throw new ClaraError(`Graph '${graph.name}' has no output.`, { hint: 'Call addOutput.' })
  const nodes: OnnxNode[] = []
  const extraConstants: TensorProto[] = []
  const used = new Set<string>([...graph.outputs.values()].map((tensor) => tensor.name))
  const context = emitContext(graph, nodes, extraConstants, used)

  for (const node of reachableNodes(graph)) {
    const emitted = emitNode(node, context)
    nodes.push(...emitted)
  }
  for (const node of nodes) for (const input of node.inputs) used.add(input)

  const outputs = [...graph.outputs].map(([name, tensor]) => {
    nodes.push({ type: 'Identity', inputs: [tensor.name], outputs: [`out:${name}`] })
    return { name: `out:${name}`, dtype: tensor.dtype, shape: tensor.shape }
  })
  const inputs = graph.inputs.filter((tensor) => used.has(tensor.name))
  const weights = graph.weights.filter((tensor) => used.has(tensor.name))
  const constants = [...graph.constants].filter(([tensor]) => used.has(tensor.name))

  const model = create(ModelProtoSchema, {
    irVersion: 10n,
    producerName: 'clara-ts',
    opsetImport: [
      create(OperatorSetIdProtoSchema, { domain: '', version: BigInt(OPSET) }),
      create(OperatorSetIdProtoSchema, { domain: MICROSOFT, version: 1n }),
    ],
    graph: create(GraphProtoSchema, {
      name: graph.name,
      node: nodes.map(encodeNode),
      input: inputs.map((tensor) => valueInfo(tensor.name, tensor.dtype, tensor.shape)),
      output: outputs.map(({ name, dtype, shape }) => valueInfo(name, dtype, shape)),
      initializer: [
        ...constants.map(([tensor, value]) => tensorProto(tensor.name, value)),
        ...weights.map(externalTensor),
        ...extraConstants,
      ],
    }),
  })
  return {
    name: graph.name,
    bytes: toBinary(ModelProtoSchema, model),
    inputs: inputs.map(({ name, dtype, shape }) => ({ name, dtype, shape })),
    outputs: outputs.map(({ name, dtype, shape }) => ({ name: name.slice('out:'.length), dtype, shape })),
    weights: weights.map(({ name, dtype, shape }) => ({ name, dtype, dims: shape as readonly number[] })),
  }
}

/** Where a weight's bytes lie in a file. */
export interface WeightPlace {
  /** Relative to the folder that a session is told of. */
  readonly file: string
  readonly offset: number
}

/** The encoding of a model that finds some of its weights in files; the others are supplied as before. */
export function placeWeights(model: EncodedModel, places: ReadonlyMap<string, WeightPlace>): Uint8Array {
  const decoded = fromBinary(ModelProtoSchema, model.bytes)
  const sizes = new Map(
    model.weights.map(({ name, dtype, dims }) => [name, elementCount(dims) * bytesPerElement[dtype]]),
  )
  for (const tensor of decoded.graph?.initializer ?? []) {
    const place = places.get(tensor.name)
    const size = sizes.get(tensor.name)
    if (place && size !== undefined) tensor.externalData = externalEntries(place.file, place.offset, size)
  }
  return toBinary(ModelProtoSchema, decoded)
}

function externalEntries(location: string, offset: number, length: number) {
  const entry = (key: string, value: string | number) =>
    create(StringStringEntryProtoSchema, { key, value: String(value) })
  return [entry('location', location), entry('offset', offset), entry('length', length)]
}

function emitContext(graph: Graph, nodes: OnnxNode[], constants: TensorProto[], used: Set<string>): EmitContext {
  const known = new Map<string, string>()
  let temporaries = 0
  const temporary = () => `temporary_${temporaries++}`
  const constant = (key: string, value: HostTensor) => {
    const existing = known.get(key)
    if (existing !== undefined) return existing
    const name = `literal_${known.size}`
    known.set(key, name)
    constants.push(tensorProto(name, value))
    return name
  }
  const ints = (values: readonly number[], dims: readonly number[] = [values.length]) =>
    constant(`int64:${dims.join(',')}:${values.join(',')}`, {
      dtype: 'int64',
      dims,
      data: BigInt64Array.from(values, BigInt),
    })
  const once = (key: string, type: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}) => {
    const existing = known.get(key)
    if (existing !== undefined) return existing
    const name = temporary()
    known.set(key, name)
    nodes.push({ type, inputs, outputs: [name], attributes })
    return name
  }
  /** One-element vector with the size a symbol or product of symbols stands for. */
  const symbolicSize = (dim: string): string => {
    const source = graph.symbols.get(dim)
    if (source) {
      used.add(source.input.name)
      const shape = once(`shape:${source.input.name}`, 'Shape', [source.input.name])
      return once(`dim:${dim}`, 'Gather', [shape, ints([source.axis])], { axis: 0 })
    }
    const terms = dim.split('+').map((term) =>
      term
        .split('*')
        .map((factor) =>
          /^-?\d+$/.test(factor) ? ints([Number(factor)]) : symbolicSize(requireSymbol(graph, factor, dim)),
        )
        .reduce((a, b) => once(`product:${a}:${b}`, 'Mul', [a, b])),
    )
    return terms.reduce((a, b) => once(`sum:${a}:${b}`, 'Add', [a, b]))
  }
  return {
    ints,
    temporary,
    floats: (values) =>
      constant(`float32:${values}`, { dtype: 'float32', dims: [values.length], data: Float32Array.from(values) }),
    shapeVector(shape) {
      if (shape.every((dim) => typeof dim === 'number')) return ints(shape as readonly number[])
      const parts: string[] = []
      let run: number[] = []
      for (const dim of shape) {
        if (typeof dim === 'number') run.push(dim)
        else {
          if (run.length > 0) parts.push(ints(run))
          run = []
          parts.push(symbolicSize(dim))
        }
      }
      if (run.length > 0) parts.push(ints(run))
      return parts.length === 1 ? (parts[0] as string) : once(`concat:${parts.join(',')}`, 'Concat', parts, { axis: 0 })
    },
  }
}

function requireSymbol(graph: Graph, symbol: string, dim: string): string {
  if (!graph.symbols.has(symbol)) {
    throw new ClaraError(`Graph '${graph.name}' cannot compute dimension '${dim}': no input introduces '${symbol}'.`)
  }
  return symbol
}

function encodeNode(node: OnnxNode): NodeProto {
  return create(NodeProtoSchema, {
    opType: node.type,
    domain: node.domain ?? '',
    name: node.outputs[0] ?? '',
    input: [...node.inputs],
    output: [...node.outputs],
    attribute: Object.entries(node.attributes ?? {}).map(([name, value]) => encodeAttribute(name, value)),
  })
}

function encodeAttribute(name: string, value: Attribute): AttributeProto {
  if (typeof value === 'number') {
    return create(AttributeProtoSchema, { name, type: AttributeProto_AttributeType.INT, i: BigInt(value) })
  }
  if (typeof value === 'string') {
    const s = new TextEncoder().encode(value)
    return create(AttributeProtoSchema, { name, type: AttributeProto_AttributeType.STRING, s })
  }
  if ('float' in value) {
    return create(AttributeProtoSchema, { name, type: AttributeProto_AttributeType.FLOAT, f: value.float })
  }
  return create(AttributeProtoSchema, { name, type: AttributeProto_AttributeType.INTS, ints: value.map(BigInt) })
}

function valueInfo(name: string, dtype: DType, shape: Shape): ValueInfoProto {
  return create(ValueInfoProtoSchema, {
    name,
    type: create(TypeProtoSchema, {
      value: {
        case: 'tensorType',
        value: create(TypeProto_TensorSchema, {
          elemType: onnxType[dtype],
          shape: create(TensorShapeProtoSchema, {
            dim: shape.map((dim) =>
              create(TensorShapeProto_DimensionSchema, {
                value:
                  typeof dim === 'number' ? { case: 'dimValue', value: BigInt(dim) } : { case: 'dimParam', value: dim },
              }),
            ),
          }),
        }),
      },
    }),
  })
}

function tensorProto(name: string, { dtype, dims, data }: HostTensor): TensorProto {
  return create(TensorProtoSchema, {
    name,
    dataType: onnxType[dtype],
    dims: dims.map(BigInt),
    rawData: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  })
}

function externalTensor(tensor: Tensor): TensorProto {
  const dims = tensor.shape.map((dim) => {
    if (typeof dim !== 'number') {
      throw new ClaraError(`Weight '${tensor.name}' has the symbolic shape ${showShape(tensor.shape)}.`)
    }
    return dim
  })
  const bytes = elementCount(dims) * bytesPerElement[tensor.dtype]
  return create(TensorProtoSchema, {
    name: tensor.name,
    dataType: onnxType[tensor.dtype],
    dims: dims.map(BigInt),
    dataLocation: TensorProto_DataLocation.EXTERNAL,
    externalData: externalEntries(tensor.name, 0, bytes),
  })
}
