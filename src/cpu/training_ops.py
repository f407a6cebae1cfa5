"""The operations of `src.cpu.training_graph`: each has a forward and a backward pass over the whole batch.

Those that write maps are `Held`. Values of one row an image, (N, F), are NumPy arrays: what comes after the last maps,
and the gates of squeeze-and-excitation.
"""
import numpy as np

from src.cpu import map_kernels, onednn
from src.cpu.convolutions import ConvShape, address, compiled, maps_shape, num_blocks, to_blocked, to_plain
from src.cpu.onednn import BLOCK, aligned
from src.cpu.trace import Node, Untraceable
from src.cpu.training_graph import Executor, Held


def conv_shape(node: Node) -> ConvShape:
    """Return the sizes of a traced convolution."""
    x, s = node.inputs[0], node.settings
    return ConvShape(x.shape[1], node.shape[1], x.shape[2:], s['kernel'], s['stride'], s['padding'], s['groups'],
                     x.data)


class Conv(Held):
    """A convolution of maps or pictures, without bias."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        if node.cell.has_bias:
            raise Untraceable('a convolution with bias')
        self.geometry = shape = conv_shape(node)
        self.source = None if shape.picture else run.views[node.inputs[0]]
        floats = int(np.prod(self.shape[1:])) + node.inputs[0].size() // run.num
        self.all_parts = run.parts(floats)
        size = self.all_parts[0].stop
        self.forward_pass = compiled('forward', shape, size)
        self.weights_pass = None if shape.is_depthwise() else compiled('backward_weights', shape, size)
        self.transposed = shape.kernel == (3, 3) and shape.stride == (1, 1) and shape.padding == (1,) * 4 \
            and shape.groups == 1 and not shape.picture
        if self.transposed:              # the gradient is a convolution itself, for which oneDNN has Winograd
            self.data_pass = compiled('forward', shape._replace(channels=shape.filters, filters=shape.channels), size)
        elif not shape.picture:
            self.data_pass = compiled('backward_data', shape, size)

    def forward(self):
        self.start()
        packed = self.forward_pass.pack(self.run.value(self.node.cell.weight))
        pictures, read = self.run.data.get(self.node.inputs[0]), self.source and self.source.reader()

        def work(part, thread):
            x = pictures[part] if read is None else read(part, self.scratch_x(part))
            self.forward_pass.run(x, packed, self.maps[part])
            self.written(part, thread)
        self.run.parallel(self.all_parts, work)
        self.finish()

    def scratch_x(self, part):
        """Return this thread's array for the inputs of a part."""
        return self.run.scratch('x', self.source.held.maps, part)

    def backward(self):
        run, gradient, weight = self.run, self.gradient(), self.run.value(self.node.cell.weight)
        pictures, read = run.data.get(self.node.inputs[0]), self.source and self.source.reader()
        edge = self.source and self.source.edge()
        if edge:
            packed = self.data_pass.pack(np.ascontiguousarray(onednn.transposed(weight)) if self.transposed else weight)
        sums = [None] * run.num_threads

        def work(part, thread):
            dy = gradient(part, run.scratch('dy', self.maps, part))
            x = pictures[part] if read is None else read(part, self.scratch_x(part))
            sums[thread] = self.add_weights(sums[thread], x, dy)
            if edge:
                self.data_pass.run(dy, packed, edge.array[part])
                edge.written(part, thread)
        run.parallel(self.all_parts, work)
        self.drop_terms()
        if edge:
            edge.finish()
        run.give(self.node.cell.weight, self.unpacked([total for total in sums if total is not None]))

    def add_weights(self, total, x, dy):
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

    def unpacked(self, totals):
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

    def forward(self):
        self.start()
        (first, one), (second, other) = ((view.held.maps, view.vectors()) for view in self.sources)

        def work(part, thread):
            map_kernels.sum_of_views(first[part], *one, second[part], *other, self.maps[part])
            self.written(part, thread)
        self.run.parallel(self.all_parts, work)
        self.finish()

    def backward(self):
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

    def forward(self):
        self.start()
        read = self.source.reader()

        def work(part, thread):
            read(part, self.maps[part])
            self.written(part, thread)
        self.run.parallel(self.all_parts, work)
        self.finish()

    def backward(self):
        gradient, edge = self.gradient(), self.source.edge()

        def work(part, thread):
            found = gradient(part, edge.array[part])
            if address(found) != address(edge.array[part]):          # a gradient that needs no sums comes as it is
                edge.array[part] = found
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

    def factors(self):
        """Return the gate as (N, C / BLOCK, BLOCK), or as maps."""
        value = self.run.data[self.gate] if self.gate.data else self.run.flat[self.gate]
        if self.whole:
            return to_blocked(value)
        value = np.broadcast_to(value.reshape(len(value), -1), self.node.shape[:2])
        return to_blocked(value[:, :, None, None]).reshape(len(value), -1, BLOCK)

    def forward(self):
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

    def backward(self):
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


class Flat:
    """An operation whose result is a NumPy array (N, F)."""

    def __init__(self, run: Executor, node: Node):
        self.run, self.node, self.source = run, node, node.inputs[0]
        self.view = run.views.get(self.source)

    def forward(self):
        self.run.flat[self.node] = self.value(self.run.flat.get(self.source))

    def backward(self):
        gradient = self.run.dflat.pop(self.node, None)
        if gradient is not None:
            self.run.add_flat(self.source, self.gradient(gradient))

    def backward_to_maps(self, write):
        """Give the maps a gradient: write(part, array) fills a part of it."""
        edge, view = self.view.edge(), self.view

        def work(part, thread):
            write(part, edge.array[part])
            edge.written(part, thread)
        self.run.parallel(self.run.parts(2 * int(np.prod(view.held.shape[1:]))), work)
        edge.finish()


class Flatten(Flat):
    """All maps of an image in a row, channel after channel."""

    def value(self, x):
        if self.view is None:
            return x
        everything = slice(0, self.run.num)
        read = self.view.reader()(everything, np.empty(self.view.held.shape, np.float32))
        return to_plain(read, self.source.shape[1]).reshape(self.run.num, -1)

    def backward(self):
        gradient = self.run.dflat.pop(self.node)
        if self.view is None:
            self.run.add_flat(self.source, gradient)
            return
        blocked = to_blocked(gradient.reshape(self.source.shape))
        self.backward_to_maps(lambda part, out: np.copyto(out, blocked[part]))


class Mean(Flat):
    """The mean of each map."""

    def value(self, x):
        out, vectors = np.empty((self.run.num, self.view.held.shape[1], BLOCK), np.float32), self.view.vectors()
        self.run.parallel(self.run.parts(int(np.prod(self.view.held.shape[1:]))), lambda part, thread: map_kernels.means(
            self.view.held.maps[part], *vectors, out[part]))
        return out.reshape(self.run.num, -1)[:, :self.source.shape[1]]

    def backward(self):
        pixels = np.float32(1 / np.prod(self.source.shape[2:]))
        gradient = self.run.dflat.pop(self.node).reshape(*self.source.shape[:2], 1, 1) * pixels
        values = to_blocked(gradient).reshape(self.run.num, num_blocks(self.source.shape[1]), BLOCK)
        self.backward_to_maps(lambda part, out: map_kernels.spread(values[part], out))


class Linear(Flat):
    """A linear layer, or a 1x1 convolution of maps of one pixel."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        if node.op == 'conv' and (node.settings['groups'] != 1 or node.settings['kernel'] != (1, 1)):
            raise Untraceable('a convolution of single pixels in groups')

    def matrix(self):
        """Return the weight (F, C)."""
        return self.run.value(self.node.cell.weight).reshape(self.node.shape[1], -1)

    def value(self, x):
        self.x = x
        out = x @ self.matrix().T
        return out + self.run.value(self.node.cell.bias) if self.node.cell.has_bias else out

    def gradient(self, dy):
        self.run.give(self.node.cell.weight, dy.T @ self.x)
        if self.node.cell.has_bias:
            self.run.give(self.node.cell.bias, dy.sum(0, dtype=np.float64))
        return dy @ self.matrix()


class FlatNorm(Flat):
    """BatchNorm of rows."""

    def value(self, x):
        cell = self.node.cell
        x = x.astype(np.float64)
        mean, variance = x.mean(0), x.var(0)
        self.inverse = 1 / np.sqrt(variance + cell.eps)
        self.normed = (x - mean) * self.inverse
        self.run.keep_statistics(cell, mean, variance, len(x))
        return (self.normed * self.run.value(cell.gamma) + self.run.value(cell.beta)).astype(np.float32)

    def gradient(self, dy):
        cell, dy = self.node.cell, dy.astype(np.float64)
        dgamma, dbeta = (dy * self.normed).sum(0), dy.sum(0)
        self.run.give(cell.gamma, dgamma)
        self.run.give(cell.beta, dbeta)
        factor = self.run.value(cell.gamma) * self.inverse
        return (factor * (dy - (dbeta + self.normed * dgamma) / len(dy))).astype(np.float32)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


# (value, derivative) of each activation of rows
_ACTS = {
    'relu': (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(np.float32)),
    'relu6': (lambda x: np.clip(x, 0, 6), lambda x: ((x > 0) & (x < 6)).astype(np.float32)),
    'sigmoid': (_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x))),
    'silu': (lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x)))),
    'hsigmoid': (lambda x: np.clip(x / 6 + 0.5, 0, 1), lambda x: ((x > -3) & (x < 3)).astype(np.float32) / 6),
}


class FlatAct(Flat):
    """An activation of rows."""

    def value(self, x):
        self.x = x
        return _ACTS[self.node.op][0](x)

    def gradient(self, dy):
        return dy * _ACTS[self.node.op][1](self.x)


class FlatMask(Flat):
    """Rows times a mask made of noise."""

    def __init__(self, run: Executor, node: Node):
        super().__init__(run, node)
        if not node.inputs[1].data:
            raise Untraceable('a product of rows')

    def value(self, x):
        return x * self.run.data[self.node.inputs[1]].reshape(len(x), -1)

    def gradient(self, dy):
        return dy * self.run.data[self.node.inputs[1]].reshape(len(dy), -1)


class Data:
    """What is made of images and noise alone."""

    def __init__(self, run: Executor, node: Node):
        self.run, self.node = run, node

    def forward(self):
        if self.node.inputs:
            made = self.node.function(self.run.data[self.node.inputs[0]])
            self.run.data[self.node] = np.ascontiguousarray(made, np.float32)

    def backward(self):
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
    'copy': Copy, 'images': Data, 'noise': Data, 'data': Data, 'conv': _by_kind(Conv, Linear), 'add': _by_kind(Add, _refuse),
    'mul': _by_kind(Gate, FlatMask), 'flatten': Flatten, 'mean': Mean, 'linear': Linear,
    'norm': _by_kind(_refuse, FlatNorm), **{name: FlatAct for name in _ACTS},
}
