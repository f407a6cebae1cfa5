"""Weight files of others; `importing` reads them."""
EXTENSIONS = ('.pt', '.pth', '.pth.tar', '.safetensors', '.params', '.param', '.bin')       # and .onnx, which can run
