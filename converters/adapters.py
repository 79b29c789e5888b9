"""LoRA adapters, merged into a model's matrices while they are read: W + scale · B·A (Hu et al., 2021).

An adapter is a GGUF file as llama.cpp's convert_lora_to_gguf.py writes it: `<matrix>.lora_a` [r, in] and
`<matrix>.lora_b` [out, r], general.type "adapter", and adapter.lora.alpha, which makes the scale alpha / r. peft.py
makes such a file of a PEFT folder. Merged matrices count as F32 from there on; the others keep their own blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from appliance.errors import NotGGUF, UnsupportedModel
from appliance.store.gguf_header import TensorInfo
from appliance.store.parts import adapted_digest
from converters.gguf_source import GGUFSource
from converters.source import Source

A, B = ".lora_a", ".lora_b"
ALPHA = "adapter.lora.alpha"
KNOWN = ("adapter.type", ALPHA, "adapter.lora.task_name", "adapter.lora.prompt_prefix")  # the last two only describe
INTERLEAVED = frozenset({"llama", "smollm3", "granite", "granitemoe"})
"""Architectures whose GGUF files have the rows of queries and keys so that what rotates together are neighbours."""
LOOKED_UP = ("token_embd.weight",)  # not a product with rows, so B·A would mean something else

Floats = NDArray[np.float32]


class Adapter(Protocol):
    """An open adapter, checked by itself.

    `architecture` is that of the models it is for, `matrices` are the tensors that it changes, by GGUF's names, and
    `neighbours` says whether rows are in the order of GGUF files or in that of checkpoints.
    """

    architecture: str
    matrices: tuple[str, ...]
    neighbours: bool

    def shape(self, matrix: str) -> tuple[int, int]:
        """[out, in] of the change of a matrix."""
        ...

    def factors(self, matrix: str) -> tuple[Floats, Floats]:
        """A [r, in], and B [out, r] times the scale."""
        ...

    def digest(self) -> str:
        """The "sha256:…" that names exactly this adapter."""
        ...

    def close(self) -> None: ...


class GGUFAdapter:
    """An adapter in a GGUF file."""

    neighbours = True

    def __init__(self, path: Path) -> None:
        """Raises as GGUFSource does, UnsupportedModel for what is no plain LoRA, NotGGUF for a damaged one."""
        self.file = GGUFSource(path)
        try:
            self._check_metadata()
            self.architecture = str(self.file.metadata.get("general.architecture"))
            self.matrices = self._matrices()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.file.__exit__(None, None, None)

    def digest(self) -> str:
        return self.file.digest()

    def _check_metadata(self) -> None:
        metadata = self.file.metadata
        for key, known in (("general.type", "adapter"), ("adapter.type", "lora")):
            if metadata.get(key) != known:
                raise UnsupportedModel(f"an adapter with {key} = {_shown(metadata.get(key))}", (known,))
        for key in metadata:
            if key.startswith("adapter.") and key not in KNOWN:
                raise UnsupportedModel(f"an adapter with {key[:80]}", KNOWN)
        alpha = metadata.get(ALPHA, 0.0)
        if type(alpha) not in (int, float) or not np.isfinite(alpha):
            raise NotGGUF(f"a damaged adapter: {ALPHA} is {_shown(alpha)}")

    def _matrices(self) -> tuple[str, ...]:
        tensors = self.file.tensors
        for name in tensors:
            if not name.endswith((A, B)):
                raise UnsupportedModel(f"an adapter's tensor {name[:80]!r}", (f"*{A}", f"*{B}"))
        names = tuple(name.removesuffix(A) for name in tensors if name.endswith(A))
        if not names or {*tensors} != {name + part for name in names for part in (A, B)}:
            raise NotGGUF(f"a damaged adapter: every matrix needs {A} and {B}")
        for name in names:
            a, b = tensors[name + A].shape, tensors[name + B].shape
            if len(a) != 2 or len(b) != 2 or b[1] != a[0]:
                raise NotGGUF(f"a damaged adapter: {name} has A {a} and B {b}, which have no product")
        return names

    def shape(self, matrix: str) -> tuple[int, int]:
        return self.file.tensors[matrix + B].shape[0], self.file.tensors[matrix + A].shape[1]

    def factors(self, matrix: str) -> tuple[Floats, Floats]:
        a, b = (self.file.values(self.file.tensors[matrix + part]) for part in (A, B))
        alpha = float(self.file.metadata.get(ALPHA, 0.0))
        return a, b * np.float32(alpha / len(a) if alpha else 1.0)


class Adapted:
    """A source with an adapter merged into it. Closing it closes both."""

    def __init__(self, base: Source, adapter: Adapter) -> None:
        """Both stay open where it fails. Raises UnsupportedModel for an adapter that was made for another model."""
        self.base, self.adapter = base, adapter
        self.path, self.files = base.path, base.files
        self.metadata: Mapping[str, Any] = base.metadata
        architecture = base.metadata.get("general.architecture")
        if adapter.architecture != architecture:
            raise UnsupportedModel(
                f"an adapter for the architecture {_shown(adapter.architecture)}", (_shown(architecture),)
            )
        for name in adapter.matrices:
            if name in LOOKED_UP:
                raise UnsupportedModel("an adapter for the embedding", ("matrices of the layers and the head",))
            if name not in base.tensors:
                raise UnsupportedModel(
                    f"an adapter for {name[:80]!r}, which the model lacks,", ("the model's matrices",)
                )
            if adapter.shape(name) != base.tensors[name].shape:
                shapes = f"{adapter.shape(name)} of {name[:80]}", (str(base.tensors[name].shape),)
                raise UnsupportedModel(f"an adapter with the shape {shapes[0]}", shapes[1])
        self.tensors: Mapping[str, TensorInfo] = {
            name: _merged(tensor) if name in adapter.matrices else tensor for name, tensor in base.tensors.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.adapter.close()
        self.base.__exit__(kind, error, trace)

    def digest(self) -> str:
        """The "sha256:…" of both digests."""
        return adapted_digest(self.base.digest(), self.adapter.digest())

    def chunks(self, tensor: TensorInfo) -> Iterator[tuple[NDArray[np.uint8], Floats]]:
        """As the base does, the merged ones as F32."""
        base = self.base.tensors[tensor.name]
        if tensor.name not in self.adapter.matrices:
            yield from self.base.chunks(base)
            return
        a, b = self.adapter.factors(tensor.name)
        wanted = self.metadata.get(f"{self.adapter.architecture}.rope.interleaved", True)
        if wanted != self.adapter.neighbours:
            order = neighbours if wanted else halves
            b = order(b, rotated_heads(tensor.name, self.metadata))
        start = 0
        for _, values in self.base.chunks(base):
            merged = values + b[start : start + len(values)] @ a
            start += len(values)
            yield merged.view(np.uint8), merged

    def values(self, tensor: TensorInfo) -> Floats:
        """The whole of a small tensor, in its own shape."""
        return np.concatenate([values for _, values in self.chunks(tensor)]).reshape(tensor.shape)


def rotated_heads(matrix: str, metadata: Mapping[str, Any]) -> int:
    """How many heads' rows a GGUF file has in another order than a checkpoint of the same matrix; 0 for most."""
    architecture = metadata["general.architecture"]
    if architecture not in INTERLEAVED:
        return 0
    queries = metadata[f"{architecture}.attention.head_count"]
    if matrix.endswith(".attn_q.weight"):
        return int(queries)
    return (
        int(metadata.get(f"{architecture}.attention.head_count_kv", queries))
        if matrix.endswith(".attn_k.weight")
        else 0
    )


def neighbours(rows: Floats, heads: int) -> Floats:
    """Rows [heads · size, K] in a checkpoint's order, where the halves of a head rotate together, in GGUF's."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape) if heads else rows


def halves(rows: Floats, heads: int) -> Floats:
    """The way back from `neighbours`."""
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape) if heads else rows


def _merged(tensor: TensorInfo) -> TensorInfo:
    """The tensor as it is once the adapter is in it."""
    return replace(tensor, type_name="F32", size=4 * prod(tensor.shape))


def _shown(value: Any) -> str:
    return repr(str(value)[:40]) if value is not None else "unknown"
