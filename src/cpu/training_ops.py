"""The operations of `src.cpu.training_graph`: each has a forward and a backward pass over the whole batch.

Those that write maps are `Held`; `src.cpu.row_ops` has those whose results are rows, (N, F).
"""
from typing import Optional

import numpy as np

from src.cpu import map_kernels, onednn
from src.cpu.convolutions import ConvShape, address, compiled, to_blocked
from src.cpu.onednn import BLOCK, aligned
from src.cpu.trace import Node, Untraceable
from src.cpu.row_ops import ACTS, FlatAct, FlatMask, FlatNorm, Flatten, Linear, Mean
from src.cpu.training_graph import Executor, Held, vector


def conv_shape(node: Node) -> ConvShape:
    """Return the sizes of a traced convolution."""
    x, s = node.inputs[0], node.settings
    return ConvShape(x.shape[1], node.shape[1], x.shape[2:], s['kernel'], s['stride'], s['padding'], s['groups'],
                     x.data)


class Conv(Held):
    """A convolution of maps or pictures."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        self.geometry = shape = conv_shape(node)
        self.source = None if shape.picture else run.views[node.inputs[0]]
        floats = int(np.prod(self.shape[1:])) + node.inputs[0].size() // run.num
        self.all_parts = run.parts(floats)
        size = self.all_parts[0].stop
        self.forward_pass = compiled('forward', shape, size)
        if not run.training:
            return
        self.weights_pass = None if shape.is_depthwise() else compiled('backward_weights', shape, size)
        self.transposed = shape.kernel == (3, 3) and shape.stride == (1, 1) and shape.padding == (1,) * 4 \
            and shape.groups == 1 and not shape.picture
        if self.transposed:              # the gradient is a convolution itself, for which oneDNN has Winograd
            self.data_pass = compiled('forward', shape._replace(channels=shape.filters, filters=shape.channels), size)
        elif not shape.picture:
            self.data_pass = compiled('backward_data', shape, size)

    def forward(self) -> None:
        self.start()
        packed, bias = self.run.packed(self.forward_pass, self.node.cell.weight), self.bias()
        pictures, read = self.run.data.get(self.node.inputs[0]), self.source and self.source.reader()

        def work(part, thread):
            x = pictures[part] if read is None else read(part, self.scratch_x(part))
            self.forward_pass.run(x, packed, self.maps[part])
            if bias is not None:
                map_kernels.view(self.maps[part], self.ones, bias, self.ones, self.maps[part])
            self.written(part, thread)
        self.run.parallel(self.all_parts, work)
        self.finish()

    def bias(self) -> Optional[np.ndarray]:
        """Return the bias (F / BLOCK, BLOCK), None if there is none."""
        return vector(self.run.value(self.node.cell.bias)) if self.node.cell.has_bias else None

    def scratch_x(self, part: slice) -> np.ndarray:
        """Return this thread's array for the inputs of a part."""
        return self.run.scratch('x', self.source.held.maps, part)

    def backward(self) -> None:
        run, gradient, weight = self.run, self.gradient(), self.run.value(self.node.cell.weight)
        pictures, read = run.data.get(self.node.inputs[0]), self.source and self.source.reader()
        edge = self.source and self.source.edge()
        if edge:
            packed = self.data_pass.pack(np.ascontiguousarray(onednn.transposed(weight)) if self.transposed else weight)
        sums, of_bias = [None] * run.num_threads, np.zeros((run.num_threads, 2, *self.ones.shape))

        def work(part, thread):
            dy = gradient(part, run.scratch('dy', self.maps, part))
            x = pictures[part] if read is None else read(part, self.scratch_x(part))
            sums[thread] = self.add_weights(sums[thread], x, dy)
            if self.node.cell.has_bias:
                map_kernels.product_sums(dy, dy, of_bias[thread])
            if edge:
                self.data_pass.run(dy, packed, edge.array[part])
                edge.written(part, thread)
        run.parallel(self.all_parts, work)
        self.drop_terms()
        if edge:
            edge.finish()
        if self.node.cell.has_bias:
            run.give(self.node.cell.bias, of_bias.sum(0)[0].reshape(-1)[:self.geometry.filters])
        run.give(self.node.cell.weight, self.unpacked([total for total in sums if total is not None]))

    def add_weights(self, total: Optional[np.ndarray], x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Return `total` and the gradient of the weight by a part, as one array; None counts as zeros."""
        if self.weights_pass is None:
            kernel, top, left = self.geometry.kernel, self.geometry.padding[0], self.geometry.padding[2]
            total = np.zeros((self.shape[1], *kernel, BLOCK), np.float32) if total is None else total
            map_kernels.depthwise_weights(x, dy, self.geometry.stride[0], top, left, total)
            return total
        num_bytes = self.weights_pass.num_bytes
        if total is None:
            total = aligned(num_bytes).view(np.float32)
            self.weights_pass.run(x, dy, total)
            return total
        own = onednn.scratch('dw', (num_bytes // 4,))
        self.weights_pass.run(x, dy, own)
        map_kernels.add_to(own, total)
        return total

    def unpacked(self, totals: list) -> np.ndarray:
        """Return the gradient of the weight (F, C / groups, K, K) from the threads' sums."""
        for other in totals[1:]:
            totals[0] += other
        if self.weights_pass is None:
            return totals[0].transpose(0, 3, 1, 2).reshape(-1, 1, *self.geometry.kernel)[:self.geometry.filters]
        return self.weights_pass.unpack(totals[0])


class Add(Held):
    """The sum of two maps."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        self.sources = [run.views[source] for source in node.inputs]
        self.all_parts = run.parts(3 * int(np.prod(self.shape[1:])))

    def forward(self) -> None:
        self.start()
        (first, one), (second, other) = ((view.held.maps, view.vectors()) for view in self.sources)

        def work(part, thread):
            map_kernels.sum_of_views(first[part], *one, second[part], *other, self.maps[part])
            self.written(part, thread)
        self.run.parallel(self.all_parts, work)
        self.finish()

    def backward(self) -> None:
        run, gradient = self.run, self.gradient()
        whole = len(self.terms) == 1 and self.terms[0][1] is None and not self.norms
        dout = self.terms[0][0] if whole else run.pool.take(self.shape)
        shared = [view.pass_on(dout) for view in self.sources]
        edges = [own or view.edge() for own, view in zip(shared, self.sources)]

        def work(part, thread):
            if not whole:
                gradient(part, dout[part])
            for own, edge in zip(shared, edges):
                if own is None:
                    edge.array[part] = dout[part]
                edge.written(part, thread)
        run.parallel(self.all_parts, work)
        for edge in edges:
            edge.finish()
        if not whole:
            run.pool.drop(dout)
        self.drop_terms()


class Copy(Held):
    """Maps as others read them, written: made of the view of a node, and then what the node stands for."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        self.source, self.all_parts = run.views[node], run.parts(2 * int(np.prod(self.shape[1:])))

    def forward(self) -> None:
        self.start()
        read = self.source.reader()

        def work(part, thread):
            read(part, self.maps[part])
            self.written(part, thread)
        self.run.parallel(self.all_parts, work)
        self.finish()

    def backward(self) -> None:
        gradient, edge = self.gradient(), self.source.edge()

        def work(part, thread):
            found = gradient(part, edge.array[part])
            if address(found) != address(edge.array[part]):          # a gradient that needs no sums comes as it is
                edge.array[part] = found
            edge.written(part, thread)
        self.run.parallel(self.all_parts, work)
        edge.finish()
        self.drop_terms()


class Silu(Held):
    """x * sigmoid(x), written: it costs too much to be computed by each who reads it."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        self.source, self.all_parts = run.views[node.inputs[0]], run.parts(2 * int(np.prod(self.shape[1:])))

    def forward(self) -> None:
        self.start()
        source, (scale, shift, _) = self.source.held.maps, self.source.vectors()

        def work(part, thread):
            map_kernels.silu(source[part], scale, shift, self.maps[part])
            self.written(part, thread)
        self.run.parallel(self.all_parts, work)
        self.finish()

    def backward(self) -> None:
        gradient, edge = self.gradient(), self.source.edge()
        source, (scale, shift, _) = self.source.held.maps, self.source.vectors()

        def work(part, thread):
            dout = gradient(part, self.run.scratch('dy', self.maps, part))
            map_kernels.silu_grad(dout, source[part], scale, shift, edge.array[part])
            edge.written(part, thread)
        self.run.parallel(self.all_parts, work)
        edge.finish()
        self.drop_terms()


class Subsample(Held):
    """Every `stride`-th pixel."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        self.source, self.stride = run.views[node.inputs[0]], node.settings['stride']
        self.all_parts = run.parts(2 * int(np.prod(self.source.held.shape[1:])))

    def forward(self) -> None:
        self.start()
        read, stride = self.source.reader(), self.stride

        def work(part, thread):
            x = read(part, self.run.scratch('x', self.source.held.maps, part))
            self.maps[part] = x[:, :, ::stride, ::stride]
            self.written(part, thread)
        self.run.parallel(self.all_parts, work)
        self.finish()

    def backward(self) -> None:
        gradient, edge, stride = self.gradient(), self.source.edge(), self.stride

        def work(part, thread):
            edge.array[part] = 0
            edge.array[part][:, :, ::stride, ::stride] = gradient(part, self.run.scratch('dy', self.maps, part))
            edge.written(part, thread)
        self.run.parallel(self.all_parts, work)
        edge.finish()
        self.drop_terms()


class Gate(Held):
    """Maps times a number an image and channel, a number an image, or a number for everything: (N, C, H, W)."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        self.source, self.gate = run.views[node.inputs[0]], node.inputs[1]
        self.whole = self.gate.shape == node.shape and node.shape[2:] != (1, 1)
        self.all_parts = run.parts(2 * int(np.prod(self.shape[1:])))

    def factors(self) -> np.ndarray:
        """Return the gate as (N, C / BLOCK, BLOCK), or as maps."""
        value = self.run.data[self.gate] if self.gate.data else self.run.flat[self.gate]
        if self.whole:
            return to_blocked(value)
        value = np.broadcast_to(value.reshape(len(value), -1), self.node.shape[:2])
        return to_blocked(value[:, :, None, None]).reshape(len(value), -1, BLOCK)

    def forward(self) -> None:
        self.start()
        source, vectors = self.source.held.maps, self.source.vectors()
        self.kept = gate = self.factors()

        def work(part, thread):
            if self.whole:
                map_kernels.view(source[part], *vectors, self.maps[part])
                self.maps[part] *= gate[part]
            else:
                map_kernels.gated(source[part], *vectors, gate[part], self.maps[part])
            self.written(part, thread)
        self.run.parallel(self.all_parts, work)
        self.finish()

    def backward(self) -> None:
        run, gradient, edge, gate = self.run, self.gradient(), self.source.edge(), self.kept
        source, vectors = self.source.held.maps, self.source.vectors()
        dgate = np.zeros(self.shape[:2] + (BLOCK,), np.float32)

        def work(part, thread):
            dout = gradient(part, run.scratch('dy', self.maps, part))
            if self.whole:
                np.multiply(dout, gate[part], out=edge.array[part])
            else:
                map_kernels.gated_grad(dout, source[part], *vectors, gate[part], edge.array[part], dgate[part])
            edge.written(part, thread)
        run.parallel(self.all_parts, work)
        edge.finish()
        self.drop_terms()
        if not self.gate.data:
            run.add_flat(self.gate, dgate.reshape(run.num, -1)[:, :self.node.shape[1]])


class Data:
    """What is made of images and noise alone."""

    def __init__(self, run: Executor, node: Node):
        self.run, self.node = run, node

    def forward(self) -> None:
        if self.node.inputs:
            made = self.node.function(self.run.data[self.node.inputs[0]])
            self.run.data[self.node] = np.ascontiguousarray(made, np.float32)

    def backward(self) -> None:
        pass


def _by_kind(of_maps, of_rows):
    """Return what makes one of two operations: of maps, or of rows."""
    def make(run, node):
        source = node.inputs[0]
        return (of_maps if source in run.views or source.data and len(source.shape) == 4 else of_rows)(run, node)
    return make


def _refuse(run, node):
    raise Untraceable(f'{node.op} at this place')


OPERATIONS = {
    'copy': Copy, 'images': Data, 'noise': Data, 'data': Data, 'conv': _by_kind(Conv, Linear),
    'add': _by_kind(Add, _refuse), 'mul': _by_kind(Gate, FlatMask), 'flatten': Flatten, 'mean': Mean, 'linear': Linear,
    'norm': _by_kind(_refuse, FlatNorm), **dict.fromkeys(ACTS, FlatAct), 'silu': _by_kind(Silu, FlatAct),
    'subsample': _by_kind(Subsample, _refuse),
}
