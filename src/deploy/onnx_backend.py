"""An embedding network in ONNX Runtime, and its int8 form.

    network = onnx_network('lightcnn.onnx')             # (N, C, S, S) float32 -> (N, D) float32
"""
import os
import tempfile
from typing import Any, Optional

import numpy as np

from src.data.face_format import face_format, from_metadata
from src.data.lists import read_json
from src.embedding import Network


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

    model = onnx.version_converter.convert_version(onnx.load(file), 17)         # scales a channel came with 13
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = os.path.join(folder, 'plain.onnx'), os.path.join(folder, 'prepared.onnx')
        onnx.save(model, plain)
        quantization.shape_inference.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(prepared, file, Faces(model.graph.input[0].name), per_channel=True,
                                     activation_type=quantization.QuantType.QUInt8,
                                     weight_type=quantization.QuantType.QInt8)


def onnx_network(file: str, face: Optional[str] = None) -> Network:
    """Return an ONNX file as a `Network` in ONNX Runtime.

    face: the name of the face format that it takes; None: what the metadata beside the file say, else grey LightCNN
    faces. Raises FileNotFoundError, or ValueError for a file that is no such network or another number of images than
    it takes.
    """
    session = _session(file)
    taken = session.get_inputs()[0]
    batch, *shape = taken.shape
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2] or not isinstance(shape[1], int):
        raise ValueError(f"{file}: takes {taken.shape}, expected (N, C, S, S); export.py writes such a file")
    held = face_format(face) if face else from_metadata(_metadata(file), file)
    if held.num_channels != shape[0]:
        raise ValueError(f"{file}: takes {shape[0]} channels, the face format {held.name} has {held.num_channels}; "
                         "--face_format says what it takes")

    def run(images: np.ndarray) -> np.ndarray:
        if isinstance(batch, int) and batch != len(images):
            raise ValueError(f"{file}: takes {batch} images a call: --batch_size {batch}, or export it with "
                             "--batch_size dynamic")
        return session.run(None, {taken.name: images})[0]

    return Network(run, name='ONNX', face_format=held, image_size=shape[1], file=file, runtime='ONNX Runtime')


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
        reason = ' '.join(str(error).split())[:160]
        raise ValueError(f"{file}: ONNX Runtime cannot load it ({reason})") from None
