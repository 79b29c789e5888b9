"""Offline work: model files in, ONNX bundles out. Runs as a subprocess of the daemon."""

from converters.lazy import import_lazily

# onnx_ir imports sympy for symbolic dimensions, gguf yaml for model cards: nothing that a conversion needs, and half of
# what all imports take.
import_lazily("sympy", "onnx_ir._symbolic_shapes", "yaml")
