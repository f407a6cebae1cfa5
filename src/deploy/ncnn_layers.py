"""How each operation of a `Graph` becomes layers of ncnn; see src/deploy/ncnn_writer.py.

    NODES['Conv'](writer, node)

ncnn's numbered settings are named in comments where they are set; -23300 - n is setting n as a list.
"""
from collections.abc import Callable
from typing import Optional


from src.deploy.graph import BATCH, Graph, Node, batch_axis, elements
from src.deploy.ncnn_writer import Writer, layer_data, ncnn_axis, without_batch

_FLOAT_MAX = 3.4028234e38
_LIST = -23300
_BINARY = {'Add': 0, 'Sub': 1, 'Mul': 2, 'Div': 3, 'Max': 4, 'Min': 5}
_TURNED = {'Sub': 7, 'Div': 8}                                    # number - x, number / x
_UNARY = {'Abs': 0, 'Sqrt': 5, 'Rsqrt': 6, 'Exp': 7, 'Tanh': 16}
# ncnn's orders of axes, from the innermost: w, h, (d,) c of the input
_ORDERS = {2: 'wh hw', 3: 'whc hwc wch cwh hcw chw',
           4: 'whdc hwdc wdhc dwhc hdwc dhwc whcd hwcd wchd cwhd hcwd chwd '
              'wdch dwch wcdh cwdh dcwh cdwh hdcw dhcw hcdw chdw dchw cdhw'}


def split_attention(graph: Graph) -> None:
    """Have queries, keys and values come from linear layers of their own: ncnn has no fifth axis to hold all three."""
    producers, users = graph.producers(), {}
    for node in graph.nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    nodes = []
    for node in graph.nodes:
        nodes.append(node)
        if node.op == 'Slice' and node['axes'] == (0,):
            parts = _one_of_three(graph, node, producers, users)
            if parts:
                nodes[-1:] = parts
    graph.nodes = nodes
    graph.prune()


def _one_of_three(graph: Graph, node: Node, producers: dict, users: dict) -> Optional[list]:
    """Return [linear, reshape, transpose] that compute what a slice of (3, B, heads, T, size) and its reshape do."""
    turn = producers.get(node.inputs[0])
    shaped = producers.get(turn.inputs[0]) if turn is not None and turn.op == 'Transpose' else None
    linear = producers.get(shaped.inputs[0]) if shaped is not None and shaped.op == 'Reshape' else None
    after = users.get(node.output, [])
    if linear is None or linear.op != 'Gemm' or len(after) != 1 or after[0].op != 'Reshape':
        return None
    shape, axis, first = graph.shapes[shaped.output], turn['perm'][0], node['starts'][0]
    weight = graph.constants.get(linear.inputs[1])
    if axis == 0 or weight is None or elements(shape[axis:]) != len(weight) or node['ends'][0] != first + 1:
        return None
    size = len(weight) // shape[axis]
    rows = slice(first * size, first * size + size)
    stem = linear.inputs[1].rpartition('.')[0]
    inputs = [linear.inputs[0], *(graph.add_constant(graph.constants[name][rows], f'{stem}.part{first}.{word}')
                                  for name, word in zip(linear.inputs[1:], ('weight', 'bias')))]
    flat, own = graph.new_name('gemm'), (*shape[:axis], *shape[axis + 1:])
    graph.shapes[flat] = (graph.shapes[linear.output][0], size)
    perm = tuple(place - (place > axis) for place in turn['perm'][1:])
    reshaped = graph.new_name('reshape')
    graph.shapes[reshaped] = own
    graph.shapes[node.output] = tuple(own[place] for place in perm)
    return [Node('Gemm', inputs, flat), Node('Reshape', [flat], reshaped, {'shape': own}),
            Node('Transpose', [reshaped], node.output, {'perm': perm})]


def _activation(writer: Writer, node: Node) -> tuple:
    """Return (settings, output) of a convolution or linear layer whose ReLU or clipping is part of it."""
    user = next((n for n in writer.graph.nodes if node.output in n.inputs), None)
    if user is None or writer.users[node.output] != 1 or user.op not in ('Relu', 'Clip'):
        return {}, node
    writer.done.add(user.output)
    if user.op == 'Relu':
        return {9: 1}, user                                       # 9: kind of activation
    return {9: 3, _LIST - 10: [float(limit) for limit in _limits(user)]}, user


def _limits(node: Node) -> tuple:
    low, high = node['low'], node['high']
    return -_FLOAT_MAX if low is None else low, _FLOAT_MAX if high is None else high


def _layer_name(node: Node) -> str:
    return node.inputs[1].removesuffix('.weight').removesuffix('.folded')


def _conv(writer: Writer, node: Node) -> None:
    weight, bias = writer.graph.constants[node.inputs[1]], writer.graph.array(node, 2)
    groups, (height, width) = node['group'], weight.shape[2:]
    activation, output = _activation(writer, node)
    name = writer.name(_layer_name(node))
    writer.names[name] -= 1
    data, further = layer_data(writer, name, weight, bias, groups)
    top, left, bottom, right = node['pads']
    settings = {0: len(weight), 1: width, 11: height, 2: node['dilations'][1], 12: node['dilations'][0],
                3: node['strides'][1], 13: node['strides'][0], 4: left, 15: right, 14: top, 16: bottom,
                5: bias is not None, 6: weight.size, **({7: groups} if groups > 1 else {}), **further, **activation}
    kind = 'Convolution' if groups == 1 else 'ConvolutionDepthWise'
    writer.keep(output, writer.add(kind, [writer.blob(node.inputs[0])], settings, name=name, data=data))


def _gemm(writer: Writer, node: Node) -> None:
    weight, bias = writer.graph.constants[node.inputs[1]], writer.graph.array(node, 2)
    activation, output = _activation(writer, node)
    name = writer.name(_layer_name(node))
    writer.names[name] -= 1
    data, further = layer_data(writer, name, weight, bias)
    settings = {0: len(weight), 1: bias is not None, 2: weight.size, **further, **activation}
    writer.keep(output, writer.add('InnerProduct', [writer.blob(node.inputs[0])], settings, name=name, data=data))


def _batch_norm(writer: Writer, node: Node) -> None:
    gamma, beta, mean, variance = (writer.graph.constants[name].astype('<f4') for name in node.inputs[1:])
    data = b''.join(array.tobytes() for array in (gamma, mean, variance, beta))
    blob = writer.add('BatchNorm', [writer.blob(node.inputs[0])], {0: len(gamma), 1: float(node['epsilon'])},
                      name=node.inputs[1].rpartition('.')[0], data=data)
    writer.keep(node, blob)


def _prelu(writer: Writer, node: Node) -> None:
    slopes = writer.graph.constants[node.inputs[1]].reshape(-1)
    blob = writer.add('PReLU', [writer.blob(node.inputs[0])], {0: slopes.size}, data=slopes.astype('<f4').tobytes(),
                      name=node.inputs[1].rpartition('.')[0])
    writer.keep(node, blob)


def _layer_norm(writer: Writer, node: Node) -> None:
    """Over the last axis, whatever stands before it: (..., C) as (T, C)."""
    gamma, beta = (writer.graph.constants[name] for name in node.inputs[1:])
    dims = elements(without_batch(writer.graph.shapes[node.output])) // gamma.size, gamma.size
    settings = {0: gamma.size, 1: float(node['epsilon']), 2: 1}   # 2: with scale and shift
    data = gamma.astype('<f4').tobytes() + beta.astype('<f4').tobytes()
    writer.keep(node, writer.add('LayerNorm', [writer.blob(node.inputs[0], dims)], settings, data=data), dims)


def _each(kind: str, settings_of: Callable = lambda node: {}) -> Callable:
    """An operation on every number by itself."""
    def add(writer: Writer, node: Node) -> None:
        blob, dims = writer.held(node.inputs[0])
        writer.keep(node, writer.add(kind, [blob], settings_of(node)), dims)
    return add


def _binary(writer: Writer, node: Node) -> None:
    graph, (a, b) = writer.graph, node.inputs
    for value, other, op in ((b, a, _BINARY), (a, b, {**_BINARY, **_TURNED})):
        array = graph.constants.get(value)
        if array is not None and array.size == 1:
            blob, dims = writer.held(other)
            number = float(array.reshape(()))
            writer.keep(node, writer.add('BinaryOp', [blob], {0: op[node.op], 1: 1, 2: number}), dims)
            return
    if graph.shape(a) == graph.shape(b) and writer.held(a)[1] == writer.held(b)[1]:
        (first, dims), (second, _) = writer.held(a), writer.held(b)
        writer.keep(node, writer.add('BinaryOp', [first, second], {0: _BINARY[node.op]}), dims)
        return
    first, second, result = _broadcast(graph, node)
    writer.keep(node, writer.add('BinaryOp', [writer.blob(a, first), writer.blob(b, second)],
                                 {0: _BINARY[node.op]}), result)


def _broadcast(graph: Graph, node: Node) -> tuple:
    """Return the axes of both inputs, equally many, and of the result; axes that go together are joined beyond four."""
    shape = graph.shapes[node.output]
    batch = batch_axis(shape)
    pairs = []
    for axis, size in enumerate(shape):
        place = axis - len(shape)
        pair = tuple(given[place] if len(given) >= -place else 1 for given in map(graph.shape, node.inputs))
        if axis == batch:
            if size == BATCH:
                continue
            pair = tuple(n // BATCH if n % BATCH == 0 else n for n in pair)
        pairs.append(pair)
    if len(pairs) > 4:
        joined: list = []
        for pair in pairs:
            same = joined and [n == 1 for n in joined[-1]] == [n == 1 for n in pair]
            if pair == (1, 1):
                continue
            joined[-1:] = [tuple(n * m for n, m in zip(joined[-1], pair))] if same else [*joined[-1:], pair]
        pairs = joined
    first, second = zip(*pairs)
    return first, second, tuple(max(pair) for pair in pairs)


def _reshape(writer: Writer, node: Node) -> None:
    """Nothing is computed: the numbers lie as they did."""
    writer.blobs[node.output] = writer.held(node.inputs[0])


def _transpose(writer: Writer, node: Node) -> None:
    shape = writer.graph.shape(node.inputs[0])
    sizes = [size // BATCH if size % BATCH == 0 else size for size in shape]
    order = [axis for axis in node['perm'] if sizes[axis] > 1]
    groups: list = []                                             # axes that stay side by side move as one
    for axis in order:
        if groups and not any(size > 1 for size in sizes[groups[-1][-1] + 1:axis]) and axis > groups[-1][-1]:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    ranked = sorted(groups)
    dims = tuple(elements([sizes[axis] for axis in group]) for group in ranked)
    if groups == ranked:
        writer.blobs[node.output] = writer.held(node.inputs[0])
        return
    letters = {2: 'hw', 3: 'chw', 4: 'cdhw'}.get(len(groups))
    if letters is None:
        raise ValueError(f"--file_format NCNN: a transposition of {len(groups)} axes is more than ncnn has")
    wanted = ''.join(letters[ranked.index(group)] for group in reversed(groups))
    settings = {0: _ORDERS[len(groups)].split().index(wanted)}
    result = tuple(dims[ranked.index(group)] for group in groups)
    writer.keep(node, writer.add('Permute', [writer.blob(node.inputs[0], dims)], settings), result)


def _around(dims: tuple, axis: int) -> tuple:
    """Return (axes, place of `axis` in them): the same, or three where there are more than four."""
    if len(dims) <= 4:
        return dims, axis
    return (elements(dims[:axis]), dims[axis], elements(dims[axis + 1:])), 1


def _slice(writer: Writer, node: Node) -> None:
    shape = writer.graph.shape(node.inputs[0])
    axes = [ncnn_axis(shape, axis) for axis in node['axes']]
    dims = without_batch(shape)
    if set(node['steps']) == {-1} and len(dims) <= 4:
        writer.keep(node, writer.add('Flip', [writer.blob(node.inputs[0])], {_LIST: axes}))
    elif set(node['steps']) == {1} and len(axes) == 1:
        _cut(writer, node, axes[0])
    elif len(dims) == 3 and axes == [1, 2] and set(node['starts']) == {0}:
        steps = node['steps']                                     # every n-th pixel: the largest of one
        settings = {0: 0, 1: 1, 11: 1, 2: steps[1], 12: steps[0], 5: 1}
        writer.keep(node, writer.add('Pooling', [writer.blob(node.inputs[0])], settings))
    else:
        raise ValueError(f"--file_format NCNN: ncnn cannot slice by {node['steps']}")


def _cut(writer: Writer, node: Node, axis: int) -> None:
    """One Slice for all parts of an axis if they are there, else a Crop."""
    graph = writer.graph
    dims, place = _around(without_batch(graph.shape(node.inputs[0])), axis)
    parts = sorted((n for n in graph.nodes if n.op == 'Slice' and n.inputs[0] == node.inputs[0]
                    and n['axes'] == node['axes'] and set(n['steps']) == {1}), key=lambda n: n['starts'])
    edges = [n['starts'][0] for n in parts] + [parts[-1]['ends'][0]]
    blob = writer.blob(node.inputs[0], dims)

    def result(part: Node) -> tuple:
        return (*dims[:place], part['ends'][0] - part['starts'][0], *dims[place + 1:])
    if edges[0] == 0 and edges[-1] == dims[place] and edges[1:-1] == [n['ends'][0] for n in parts[:-1]] \
            and len(parts) > 1:
        lengths = [n['ends'][0] - n['starts'][0] for n in parts[:-1]]
        made = writer.add('Slice', [blob], {_LIST: [*lengths, -233], 1: place}, outputs=len(parts))
        for part, output in zip(parts, made):
            writer.keep(part, output, result(part))
            writer.done.add(part.output)
        return
    settings = {_LIST - 9: [node['starts'][0]], _LIST - 10: [node['ends'][0]], _LIST - 11: [place]}
    writer.keep(node, writer.add('Crop', [blob], settings), result(node))


def _concat(writer: Writer, node: Node) -> None:
    axis = ncnn_axis(writer.graph.shapes[node.output], node['axis'])
    writer.keep(node, writer.add('Concat', [writer.blob(name) for name in node.inputs], {0: axis}))


def _pool(writer: Writer, node: Node) -> None:
    top, left, bottom, right = node['pads']
    settings = {0: int(node.op == 'AveragePool'), 1: node['kernel'][1], 11: node['kernel'][0], 2: node['strides'][1],
                12: node['strides'][0], 3: left, 14: right, 13: top, 15: bottom, 5: 1,        # 5: round down
                6: int(node['counts_padding'])}
    writer.keep(node, writer.add('Pooling', [writer.blob(node.inputs[0])], settings))


def _reduce(writer: Writer, node: Node) -> None:
    shape = writer.graph.shape(node.inputs[0])
    axes = [ncnn_axis(shape, axis) for axis in node['axes']]
    dims = without_batch(shape)
    if node.op == 'ReduceMean' and len(dims) == 3 and axes == [1, 2]:
        writer.keep(node, writer.add('Pooling', [writer.blob(node.inputs[0])], {0: 1, 4: 1}), dims[:1])    # 4: of all
        return
    settings = {0: 3 if node.op == 'ReduceMean' else 0, 1: 0, 2: 1.0, _LIST - 3: axes, 4: 1, 5: 1}
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(dims))
    writer.keep(node, writer.add('Reduction', [writer.blob(node.inputs[0])], settings), kept)


def _softmax(writer: Writer, node: Node) -> None:
    shape = writer.graph.shapes[node.output]
    dims, axis = without_batch(shape), ncnn_axis(shape, node['axis'])
    if len(dims) > 2:
        outer, inner = elements(dims[:axis]), elements(dims[axis + 1:])
        dims, axis = ((outer, dims[axis]), 1) if inner == 1 else ((outer, dims[axis], inner), 1)
    writer.keep(node, writer.add('Softmax', [writer.blob(node.inputs[0], dims)], {0: axis, 1: 1}), dims)


def _matmul(writer: Writer, node: Node) -> None:
    """(..., M, K) @ (..., K, N) with everything before the last two axes as one."""
    given = [without_batch(writer.graph.shape(name)) for name in node.inputs]
    joined = [(elements(dims[:-2]), *dims[-2:]) for dims in given]
    blob = writer.add('MatMul', [writer.blob(name, dims) for name, dims in zip(node.inputs, joined)], {0: 0})
    writer.keep(node, blob, (joined[0][0], joined[0][1], joined[1][2]))


def _resize(writer: Writer, node: Node) -> None:
    nearest, (height, width) = node['mode'] == 'nearest', node['sides']
    small = writer.graph.shape(node.inputs[0])[2:]
    settings = {0: 1 if nearest else 2, 1: height / small[0], 2: width / small[1], 3: height, 4: width,
                **({} if nearest else {6: 1})}                    # 6: corners aligned
    writer.keep(node, writer.add('Interp', [writer.blob(node.inputs[0])], settings))


NODES: dict[str, Callable] = {
    'Conv': _conv, 'Gemm': _gemm, 'BatchNormalization': _batch_norm, 'PRelu': _prelu,
    'LayerNormalization': _layer_norm, **dict.fromkeys(_BINARY, _binary), 'Reshape': _reshape,
    'Transpose': _transpose, 'Slice': _slice, 'Concat': _concat, 'MaxPool': _pool, 'AveragePool': _pool,
    'ReduceMean': _reduce, 'ReduceSum': _reduce, 'Softmax': _softmax, 'MatMul': _matmul, 'Resize': _resize,
    'Relu': _each('ReLU'), 'Sigmoid': _each('Sigmoid'), 'Silu': _each('Swish'), 'Gelu': _each('GELU'),
    'Clip': _each('Clip', lambda node: dict(enumerate(map(float, _limits(node))))),
    'HardSigmoid': _each('HardSigmoid', lambda node: {0: float(node['alpha']), 1: float(node['beta'])}),
    'HardSwish': _each('HardSwish', lambda node: {0: 1 / 6, 1: 0.5}), 'Erf': _each('Erf'),
    **{op: _each('UnaryOp', lambda node, kind=kind: {0: kind}) for op, kind in _UNARY.items()}}
