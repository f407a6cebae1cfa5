"""ONNX files of anybody: layout, size, channels, type and normalisation are read from the file or asked for."""
import mindspore  # noqa: F401  before onnx, after it cannot load any more
import numpy as np
import pytest

from src.data.face_format import face_format
from src.deploy.onnx_backend import onnx_network, scaling_inside

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

KINDS = {'float32': TensorProto.FLOAT, 'uint8': TensorProto.UINT8, 'float16': TensorProto.FLOAT16}


def write_onnx(path, shape, *, before=(), dtype='float32', last=False, constants=(), output=None):
    """Write a network that averages 8x8 blocks of a face. before: nodes from 'face' to 'x' of their own."""
    nodes = list(before) or [helper.make_node('Identity', ['face'], ['x'])]
    if last:
        nodes.append(helper.make_node('Transpose', ['x'], ['planes'], perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node('AveragePool', ['planes' if last else 'x'], ['pooled'], kernel_shape=[8, 8],
                                  strides=[8, 8]))
    nodes.append(helper.make_node('Flatten', ['pooled'], ['embedding'], axis=output if output is not None else 1))
    held = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants]
    graph = helper.make_graph(nodes, 'g', [helper.make_tensor_value_info('face', KINDS[dtype], shape)],
                              [helper.make_tensor_value_info('embedding', TensorProto.FLOAT, None)], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return str(path)


FACES = np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), np.uint8)


def expected(name, faces=FACES, scaled=True):
    face = face_format(name)
    values = face.to_input(faces) if scaled else faces.transpose(0, 3, 1, 2).astype(np.float64)
    return values.reshape(len(faces), 3, 14, 8, 14, 8).mean((3, 5)).reshape(len(faces), -1)


def embedded(network, faces=FACES):
    return network(network.face_format.to_input(faces))


@pytest.mark.parametrize('shape, last', [
    (['N', 3, 112, 112], False), (['N', 112, 112, 3], True), ([1, 3, 112, 112], False), ([2, 112, 112, 3], True),
    (['N', 3, 'H', 'W'], False), (['N', 'C', 'H', 'W'], False), ([None, 3, 112, None], False)])
@pytest.mark.parametrize('name', ['arcface', 'facexzoo'])
def test_layouts_and_batches(tmp_path, shape, last, name):
    network = onnx_network(write_onnx(tmp_path / 'a.onnx', shape, last=last), name)
    assert network.image_size == 112 and network.face_format == face_format(name)
    # an average of 64 numbers around 1 in float32
    assert np.allclose(embedded(network), expected(name), atol=64 * 2.0 ** -24)


def scaling(first, second, mean, factor):
    nodes = [helper.make_node(first, ['face', 'm'], ['y']), helper.make_node(second, ['y', 's'], ['x'])]
    return {'before': nodes, 'constants': [('m', mean), ('s', factor)]}


@pytest.mark.parametrize('held, found', [
    (scaling('Sub', 'Mul', 127.5, 0.0078125), (127.5, 128)), (scaling('Sub', 'Div', 127.5, 127.5), (127.5, 127.5)),
    (scaling('Mul', 'Sub', 1 / 127.5, 1.0), (127.5, 127.5)), (scaling('Add', 'Div', -127.5, 128.0), (127.5, 128)),
    (scaling('Sub', 'Mul', [127.5] * 3, 0.0078125) | {'constants': [('m', np.full((3, 1, 1), 127.5)), ('s', 1 / 128)]},
     (0, 0))])
def test_normalisation_inside(tmp_path, held, found):
    """The file gets 0..255, whatever the format says of values; the result is that of the format that it applies."""
    file = write_onnx(tmp_path / 'a.onnx', ['N', 3, 112, 112], **held)
    assert scaling_inside(file) == pytest.approx(found)
    network = onnx_network(file, 'facexzoo')
    assert (network.face_format.mean, network.face_format.scale, network.face_format.colour) == (0, 1, 'BGR')
    scale = found[1] or 128
    assert np.allclose(embedded(network), (expected('facexzoo', scaled=False) - 127.5) / scale,
                       atol=(64 * 255 + 255) * 2.0 ** -24 / scale)


@pytest.mark.parametrize('first, second, mean, factor', [('Sub', 'Mul', 0.5, 2.0), ('Sub', 'Mul', 0.1, 0.9),
                                                          ('Add', 'Div', 1.0, 3.0)])
def test_operations_that_are_no_normalisation(tmp_path, first, second, mean, factor):
    file = write_onnx(tmp_path / 'a.onnx', ['N', 3, 112, 112], **scaling(first, second, mean, factor))
    assert scaling_inside(file) is None and onnx_network(file, 'arcface').face_format == face_format('arcface')


def test_bytes(tmp_path):
    before = [helper.make_node('Cast', ['face'], ['x'], to=TensorProto.FLOAT)]
    network = onnx_network(write_onnx(tmp_path / 'a.onnx', ['N', 112, 112, 3], dtype='uint8', before=before, last=True),
                           'arcface')
    assert np.allclose(embedded(network), expected('arcface', scaled=False), atol=64 * 255 * 2.0 ** -24)


@pytest.mark.parametrize('shape, message', [
    (['N', 3, 112, 112], 'alignment and colour order are not told .*--face_format .*arcface, facexzoo'),
    (['N', 'C', 'H', 'W'], 'any channels and any size'), (['N', 112, 112, 3], 'takes faces of 3 channels and 112x112')])
def test_what_is_missing_is_named(tmp_path, shape, message):
    with pytest.raises(ValueError, match=message):
        onnx_network(write_onnx(tmp_path / 'a.onnx', shape))


@pytest.mark.parametrize('shape, face, message', [
    (['N', 3, 112, 96], 'arcface', 'as high as wide'), (['N', 2, 112, 112], 'arcface', '1 or 3 channels'),
    (['N', 3, 8, 8], 'arcface', '1 or 3 channels'),
    (['N', 1, 112, 112], 'arcface', 'takes 1 channels, the face format arcface has 3'),
    (['N', 3, 4096, 4096], 'arcface', 'as high as wide')])
def test_what_is_no_face(tmp_path, shape, face, message):
    with pytest.raises(ValueError, match=message):
        onnx_network(write_onnx(tmp_path / 'a.onnx', shape), face)


def test_a_network_that_gives_no_embeddings(tmp_path):
    network = onnx_network(write_onnx(tmp_path / 'a.onnx', ['N', 3, 112, 112], output=0), 'arcface')
    with pytest.raises(ValueError, match='expected an embedding of each'):
        embedded(network)
    bad = [helper.make_node('Reshape', ['face', 'shape'], ['x'])]
    file = str(tmp_path / 'b.onnx')
    graph = helper.make_graph(bad, 'g', [helper.make_tensor_value_info('face', TensorProto.FLOAT, ['N', 3, 112, 112])],
                              [helper.make_tensor_value_info('x', TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(np.array([11, -1]), 'shape')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)])
    model.ir_version = 8
    onnx.save(model, file)
    with pytest.raises(ValueError, match='ONNX Runtime cannot run it on'):
        embedded(onnx_network(file, 'arcface'))
