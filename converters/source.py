"""What a conversion reads: metadata and lazy tensors, in GGUF's vocabulary whatever kind of file they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from appliance.store.gguf_header import TensorInfo
from converters.gguf_source import GGUFSource


class Source(Protocol):
    """An open model. Metadata keys are GGUF's ("llama.block_count"), tensor names too ("blk.0.attn_q.weight")."""

    @property
    def path(self) -> Path: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    def digest(self) -> str:
        """The "sha256:…" that names exactly this model."""
        ...

    def chunks(self, tensor: TensorInfo) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Yield the tensor's rows in order, a few at a time: (raw blocks [rows, bytes], values [rows, columns]).

        The raw blocks are those of the tensor's type_name. Raises ModelFileError for data that cannot be used.
        """
        ...

    def values(self, tensor: TensorInfo) -> NDArray[np.float32]:
        """The whole of a small tensor, in its own shape."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(path: Path) -> Source:
    """Open the model at `path`. Raises ModelFileError for what is none, UnsupportedModel for what cannot be read."""
    return GGUFSource(path)
