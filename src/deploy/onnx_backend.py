"""An embedding network in ONNX Runtime, and its int8 form.

    network = onnx_network('lightcnn.onnx')             # (N, C, S, S) float32 -> (N, D) float32
"""
import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple, Optional

import numpy as np

from src.data.face_format import FACE_FORMATS, FaceFormat, face_format, from_metadata
from src.data.lists import read_json
from src.embedding import Network

_DTYPES = {'tensor(float)': 'float32', 'tensor(float16)': 'float16', 'tensor(double)': 'float64',
           'tensor(uint8)': 'uint8'}
_SMALL_FACTOR = 0.1              # a factor that makes small numbers of 0..255
# (factor, offset, constant, whether the value comes first) -> (factor, offset)
_ARITHMETIC = {
    'Add': lambda a, b, c, _: (a, b + c),
    'Sub': lambda a, b, c, first: (a, b - c) if first else (-a, c - b),
    'Mul': lambda a, b, c, _: (a * c, b * c),
    'Div': lambda a, b, c, first: (a / c, b / c) if first else (np.full(1, np.nan), b),
}


def quantise(file: str, faces: np.ndarray, batch_size: int) -> None:
    """Turn an ONNX file into int8 in place, by ONNX Runtime's static quantisation: one scale a channel.

    faces: (n, 1, S, S) float32 whose smallest and largest values in every layer give the ranges; whole batches count.
    """
    import onnx
    from onnxruntime import quantization

    class Faces(quantization.CalibrationDataReader):
        def __init__(self, name):
            starts = range(0, len(faces) - batch_size + 1, batch_size)
            self.batches = iter([{name: faces[start:start + batch_size]} for start in starts])

        def get_next(self):
            return next(self.batches, None)

    model = onnx.load(file)
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = os.path.join(folder, 'plain.onnx'), os.path.join(folder, 'prepared.onnx')
        onnx.save(model, plain)
        quantization.shape_inference.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(prepared, file, Faces(model.graph.input[0].name), per_channel=True,
                                     activation_type=quantization.QuantType.QUInt8,
                                     weight_type=quantization.QuantType.QInt8)


class Taken(NamedTuple):
    """What an ONNX file takes: batch (None: any), channels and side (None: any), channels last, NumPy type of values,
    and (mean, scale) by which it normalises 0..255 itself, None if it does not."""

    batch: Optional[int]
    channels: Optional[int]
    side: Optional[int]
    channels_last: bool
    dtype: str
    scaling: Optional[tuple]


def onnx_network(file: str, face: Optional[str] = None) -> Network:
    """Return an ONNX file of anybody whose input is a face as a `Network` in ONNX Runtime.

    Batch size, layout (NCHW or NHWC), size, channels and type are read from the file. face: the name of the face
    format that it takes; None: what the metadata beside the file say, else grey LightCNN faces for one channel. Values
    are scaled as the format says, unless the file does that itself: then it gets 0..255. Raises FileNotFoundError, or
    ValueError for a file that is no such network, or does not say what it takes.
    """
    session = _session(file)
    taken = _taken(file, session)
    held = _format(file, taken, face)
    if taken.scaling:
        held = replace(held, mean=0.0, scale=1.0)
    name = session.get_inputs()[0].name

    def run(images: np.ndarray) -> np.ndarray:
        """(N, C, S, S) float32 -> (N, D) float32."""
        values = images.transpose(0, 2, 3, 1) if taken.channels_last else images
        values = np.ascontiguousarray(np.rint(values) if taken.dtype == 'uint8' else values).astype(taken.dtype)
        size = taken.batch or len(values)
        parts = []
        for start in range(0, len(values), size):
            part = values[start:start + size]
            whole = np.concatenate([part, part[-1:].repeat(size - len(part), 0)])          # a fixed batch is filled up
            parts.append(_features(file, session, name, whole)[:len(part)])
        return np.concatenate(parts)

    return Network(run, name='ONNX', face_format=held, image_size=taken.side or held.test_side, file=file,
                   runtime='ONNX Runtime')


def _features(file, session, name, values):
    try:
        found = np.asarray(session.run(None, {name: values})[0])
    except Exception as error:                           # a class of its own for every kind of failure
        raise ValueError(f"{file}: ONNX Runtime cannot run it on {values.shape} ({_line(error)})") from None
    flat = found.reshape(len(found), -1) if found.ndim else found
    if flat.ndim != 2 or len(flat) != len(values) or flat.shape[1] < 2:
        raise ValueError(f"{file}: its first output has the shape {found.shape} for {len(values)} faces, expected an "
                         "embedding of each, (N, D)")
    return flat.astype(np.float32)


def _taken(file: str, session: Any) -> Taken:
    """Return what a file takes. ValueError says what about its input is not that of a face."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ValueError(f"{file}: takes {len(inputs)} inputs, expected one, a face")
    kind = _DTYPES.get(inputs[0].type)
    shape = [side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape]
    if kind is None or len(shape) != 4:
        raise ValueError(f"{file}: takes {inputs[0].type} {inputs[0].shape}, expected faces as (N, C, S, S) or "
                         "(N, S, S, C); export.py writes such a file")
    last = shape[1] not in (1, 3) and shape[3] in (1, 3)
    batch, channels = shape[0], shape[3 if last else 1]
    height, width = shape[1:3] if last else shape[2:]
    if channels not in (1, 3, None) or (height or width) != (width or height) or not 16 <= (height or 16) <= 1024:
        raise ValueError(f"{file}: takes {inputs[0].shape}, expected faces of 1 or 3 channels, as high as wide, as "
                         "(N, C, S, S) or (N, S, S, C)")
    return Taken(batch, channels, height or width, last, kind, scaling_inside(file, kind))


def _format(file: str, taken: Taken, face: Optional[str]) -> FaceFormat:
    """Return the face format of an ONNX file. ValueError names what neither it nor the user says."""
    metadata = _metadata(file)
    fits = [held for held in FACE_FORMATS.values() if taken.channels in (None, held.num_channels)]
    if face is None and not metadata and taken.channels != 1:
        size = f'{taken.side}x{taken.side}' if taken.side else 'any size'
        names = ', '.join(held.name for held in fits)
        values = f'it scales 0..255 itself, by {_words(taken.scaling)}' if taken.scaling else 'value range'
        raise ValueError(f"{file}: takes faces of {taken.channels or 'any'} channels and {size}; alignment and colour "
                         f"order are not told ({values}): name the format with --face_format ({names})")
    held = face_format(face) if face else from_metadata(metadata, file)
    if taken.channels not in (None, held.num_channels):
        raise ValueError(f"{file}: takes {taken.channels} channels, the face format {held.name} has "
                         f"{held.num_channels}; --face_format says what it takes")
    return held


def _words(scaling):
    return f'(x - {scaling[0]:g}) / {scaling[1]:g}' if scaling[1] else 'constants'


def scaling_inside(file: str, dtype: str = 'float32') -> Optional[tuple]:
    """Return (mean, scale) if the first operations of a file make (x - mean) / scale of 0..255, else None.

    scale is 0 where the constants are several, one a channel. A file that takes bytes scales them itself.
    """
    try:
        with suppress(ImportError):
            import mindspore                             # noqa: F401  after onnx it cannot load any more
        import onnx
        graph = onnx.load(file, load_external_data=False).graph
    except Exception:                                    # without the package nothing is known; the session decides
        return (0.0, 1.0) if dtype == 'uint8' else None
    constants = {held.name: held for held in graph.initializer}
    constants.update((node.output[0], node.attribute[0].t) for node in graph.node
                     if node.op_type == 'Constant' and node.attribute and node.attribute[0].name == 'value')
    value = next((held.name for held in graph.input if held.name not in constants), None)
    factor, offset = np.ones(1), np.zeros(1)             # factor * x + offset
    for node in graph.node:
        if node.op_type == 'Constant' or value not in node.input:
            continue
        other = [constants[name] for name in node.input if name in constants]
        if node.op_type in _ARITHMETIC and len(node.input) == 2 and other and _is_small(other[0]):
            held = onnx.numpy_helper.to_array(other[0]).astype(np.float64).ravel()
            factor, offset = _ARITHMETIC[node.op_type](factor, offset, held, node.input[0] == value)
        elif node.op_type not in ('Cast', 'Transpose', 'Identity'):
            break
        value = node.output[0]
    if dtype != 'uint8' and not (np.abs(factor).max() <= _SMALL_FACTOR and np.isfinite(factor).all()):
        return None
    if factor.size > 1 or offset.size > 1:
        return 0.0, 0.0
    return (float(-offset[0] / factor[0]), float(1 / factor[0])) if factor[0] else (0.0, 0.0)


def _is_small(tensor):
    return int(np.prod(tensor.dims)) in (1, 3) and tensor.data_location == 0


def _metadata(file: str) -> dict:
    """Return the metadata that export.py writes beside a file, {} where there are none."""
    beside = os.path.splitext(file)[0] + '.json'
    return read_json(beside) if os.path.isfile(beside) else {}


def _session(file: str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError("ONNX needs two more packages: pip install onnx onnxruntime") from None
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file}: no such ONNX file; export.py --file_format ONNX writes it")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
    except Exception as error:                           # a class of its own for every kind of broken file
        raise ValueError(f"{file}: ONNX Runtime cannot load it ({_line(error)})") from None


def _line(error):
    return ' '.join(str(error).split())[:160]
