"""The embedding network in ONNX Runtime: two to three times as fast on a CPU as MindSpore.

    network = OnnxNetwork('lightcnn.onnx')          # called like a MindSpore network: (N, 1, S, S) -> (N, 256)
"""
import os
import tempfile


def quantise(file, faces, batch_size):
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


class Features:
    """A NumPy array that answers to `asnumpy`, as MindSpore's tensors do."""

    def __init__(self, array):
        self.array = array

    def asnumpy(self):
        return self.array


class OnnxNetwork:
    """An ONNX file as a network: takes tensors or arrays (N, 1, S, S) float32, returns features (N, D).

    Raises ValueError for a file that is no such network, or another number of images than it takes.
    """

    runtime = 'ONNX Runtime'

    def __init__(self, file):
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
            self.session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
        except Exception as error:                       # a class of its own for every kind of broken file
            reason = ' '.join(str(error).split())[:160]
            raise ValueError(f"{file}: ONNX Runtime cannot load it ({reason})") from None
        self.input = self.session.get_inputs()[0]
        batch, *face = self.input.shape
        if len(face) != 3 or face[0] != 1 or face[1] != face[2] or not isinstance(face[1], int):
            raise ValueError(f"{file}: takes {self.input.shape}, expected (N, 1, S, S); export.py writes such a file")
        self.file, self.image_size = file, face[1]
        self.batch_size = batch if isinstance(batch, int) else None          # None: any

    def __call__(self, images):
        array = images.asnumpy() if hasattr(images, 'asnumpy') else images
        if self.batch_size not in (None, len(array)):
            raise ValueError(f"{self.file}: takes {self.batch_size} images a call: --batch_size {self.batch_size}, or "
                             "export it with --batch_size dynamic")
        return Features(self.session.run(None, {self.input.name: array})[0])
