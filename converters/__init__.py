"""Offline work: model files in, ONNX bundles out. Runs as a subprocess of the daemon."""
