"""The embedding network in ONNX Runtime: two to three times as fast on a CPU as MindSpore.

    network = OnnxNetwork('lightcnn.onnx')          # called like a MindSpore network: (N, 1, S, S) -> (N, 256)
"""
import os


class Features:
    """A NumPy array that answers to `asnumpy`, as MindSpore's tensors do."""

    def __init__(self, array):
        self.array = array

    def asnumpy(self):
        return self.array


class OnnxNetwork:
    """An ONNX file as a network: takes tensors or arrays (N, 1, S, S) float32, returns features (N, D)."""

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

    @property
    def image_size(self):
        return self.input.shape[-1]

    def __call__(self, images):
        array = images.asnumpy() if hasattr(images, 'asnumpy') else images
        return Features(self.session.run(None, {self.input.name: array})[0])
