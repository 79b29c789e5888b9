"""Tiny models that transformers makes and runs, as references for our graphs, and the same models in GGUF.

cases.py      which models: an architecture's configuration, small, with every feature of the architecture in use
reference.py  random weights, a Hugging Face folder, reference logits
writing.py    the same weights as GGUF, named and arranged as llama.cpp's loaders expect them
"""

from tests.converters.oracle.cases import CASES, Case
from tests.converters.oracle.reference import PROMPT, Make, Reference, make

__all__ = ["CASES", "PROMPT", "Case", "Make", "Reference", "make"]
