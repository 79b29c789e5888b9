"""Where the bytes of each GGUF tensor lie in a checkpoint.

Nothing is copied or rearranged on disk: a GGUF tensor is one or several runs of whole rows. Experts that a checkpoint
keeps apart are runs one after the other, and matrices that it keeps as one are runs of its halves.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import NamedTuple

from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

from appliance.errors import ModelFileError, UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from appliance.store.safetensors_header import DTYPE_BYTES, StoredTensor
from converters.hugging_face.fields import Description

TYPES = {"F32": (0, "F32"), "F16": (1, "F16"), "BF16": (30, "BF16"), "F64": (0, "F32")}
"""GGUF's number and name of the type that a dtype is read as."""
EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")
GATE_OVER_UP = {  # granitemoe's, and what its halves are called where they are apart
    ".block_sparse_moe.input_linear.weight": "mlp.experts",
    ".shared_mlp.input_linear.weight": "mlp.shared_expert",
}
COMPUTED = re.compile(r"\.(?:rotary_emb\.inv_freq|attention\.masked_bias|attention\.bias)$")  # buffers, not weights
GAINS = "norm.weight"
HEAD = "lm_head.weight"


class Run(NamedTuple):
    """Bytes of a file that hold whole rows."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class View:
    """A GGUF tensor over a checkpoint: the runs of its rows in order, and what is added to each value."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    runs: tuple[Run, ...]
    plus: float = 0.0

    @property
    def info(self) -> TensorInfo:
        """The tensor as sources describe it; changed values are float32."""
        number, type_name = (0, "F32") if self.plus else TYPES[self.dtype]
        itemsize = {"F32": 4}.get(type_name, 2)
        return TensorInfo(self.name, self.shape, number, type_name, self.runs[0].offset, prod(self.shape) * itemsize)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, as stored."""
        return self.shape[-1] * DTYPE_BYTES[self.dtype]

    def without_rows(self, count: int) -> View:
        """The matrix without its first rows."""
        if len(self.shape) != 2 or self.shape[0] <= count:
            raise ModelFileError(f"a damaged model: tensor {self.name} has shape {self.shape}")
        (run,) = self.runs
        cut = count * self.row_bytes
        shape = (self.shape[0] - count, self.shape[1])
        return replace(self, shape=shape, runs=(Run(run.path, run.offset + cut, run.size - cut),))


def views(files: Mapping[Path, Iterable[StoredTensor]], description: Description) -> dict[str, View]:
    """The model's tensors under GGUF's names.

    Raises UnsupportedModel for a tensor that has no place in the architecture or a dtype that is not read,
    ModelFileError for one that is given twice or in pieces that do not fit each other.
    """
    found = (_view(path, tensor) for path, tensors in files.items() for tensor in tensors)
    used = (replace(view, name=description.rename(view.name)) for view in found if not COMPUTED.search(view.name))
    parts = _arranged(view for view in used if view.name)
    renamed = _renaming(description, len(parts))
    views: dict[str, View] = {}
    for part in parts:
        if part.name == HEAD and description.tied:  # a copy of the embedding, which counts
            continue
        name = renamed(part.name)
        if name in views:
            raise ModelFileError(f"a damaged model: tensor {part.name[:80]} is given twice")
        plus = 1.0 if description.gains_plus_one and name.endswith(GAINS) else 0.0
        view = replace(part, name=name, plus=plus)
        skipped = description.skipped_rows.get(name, 0)
        views[name] = view.without_rows(skipped) if skipped else view
    return views


def _view(path: Path, tensor: StoredTensor) -> View:
    if tensor.dtype not in TYPES and not COMPUTED.search(tensor.name) and not tensor.name.endswith("position_ids"):
        raise UnsupportedModel(f"dtype {tensor.dtype} of tensor {tensor.name[:80]}", tuple(TYPES))
    if not all(tensor.shape):
        raise ModelFileError(f"a damaged model: tensor {tensor.name[:80]} has shape {tensor.shape}")
    return View(tensor.name, tensor.dtype, tensor.shape or (1,), (Run(path, tensor.offset, tensor.size),))


def _arranged(parts: Iterable[View]) -> list[View]:
    """Experts stacked, and stacks of two matrices taken apart; all under names that gguf's map knows."""
    arranged: list[View] = []
    experts: defaultdict[str, dict[int, View]] = defaultdict(dict)
    for part in parts:
        if expert := EXPERT.fullmatch(part.name):
            experts[f"{expert[1]}.{expert[3]}"][int(expert[2])] = part
        elif suffix := next(filter(part.name.endswith, GATE_OVER_UP), ""):
            stem = f"{part.name.removesuffix(suffix)}.{GATE_OVER_UP[suffix]}"
            arranged += _halves(part, f"{stem}.gate_proj.weight", f"{stem}.up_proj.weight")
        else:
            arranged.append(part)
    return arranged + [_stacked(name, group) for name, group in experts.items()]


def _stacked(name: str, experts: Mapping[int, View]) -> View:
    """Matrices [N,K] as one [experts, N, K]."""
    first = experts.get(0)
    if first is None or sorted(experts) != list(range(len(experts))):
        raise ModelFileError(f"a damaged model: of the {len(experts)} experts of {name[:80]} some are missing")
    group = [experts[index] for index in range(len(experts))]
    if any((view.shape, view.dtype) != (first.shape, first.dtype) for view in group):
        raise ModelFileError(f"a damaged model: the experts of {name[:80]} differ in shape or dtype")
    return View(name, first.dtype, (len(group), *first.shape), tuple(run for view in group for run in view.runs))


def _halves(view: View, *names: str) -> list[View]:
    """A matrix [2·N, K], or a stack of them, as two of [N, K]: the first N rows of each, and the others."""
    if len(view.shape) < 2 or view.shape[-2] % 2:
        raise ModelFileError(f"a damaged model: tensor {view.name[:80]} has shape {view.shape}")
    *stack, rows, columns = view.shape
    (run,) = view.runs
    count = prod(stack)
    size = run.size // count // 2
    return [
        View(
            name,
            view.dtype,
            (*stack, rows // 2, columns),
            tuple(Run(run.path, run.offset + (2 * index + half) * size, size) for index in range(count)),
        )
        for half, name in enumerate(names)
    ]


def _renaming(description: Description, tensors: int) -> Callable[[str], str]:
    """From a checkpoint's names to GGUF's; raises UnsupportedModel for those without one."""
    architecture = description.architecture
    layers = description.metadata[f"{architecture}.block_count"]
    if layers > tensors:
        raise ModelFileError(f"a damaged model: {layers} layers, but only {tensors} tensors")
    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(MODEL_ARCH(number), layers)

    def renamed(name: str) -> str:
        # a model without its head, as embedding models are kept, has no prefix
        for known in (name, f"model.{name}"):
            if found := names.get_name(known, try_suffixes=(".weight", ".bias")):
                return str(found)
        raise UnsupportedModel(f"tensor {name[:80]} in a {architecture} model", ("those of its architecture",))

    return renamed
