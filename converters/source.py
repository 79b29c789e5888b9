"""What a conversion reads: metadata and lazy tensors, in GGUF's vocabulary whatever kind of file they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelFileError
from appliance.store.gguf_header import TensorInfo
from appliance.store.hugging_face import CONFIG
from appliance.store.split_gguf import NAME, siblings
from converters.gguf_source import GGUFSource
from converters.safetensors_source import SafetensorsSource
from converters.split_source import SplitSource


class Source(Protocol):
    """An open model. Metadata keys are GGUF's ("llama.block_count"), tensor names too ("blk.0.attn_q.weight")."""

    @property
    def path(self) -> Path: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...

    @property
    def files(self) -> Mapping[str, Path]:
        """The files of a Hugging Face folder by their names in it; nothing for a GGUF, whose metadata has it all."""
        ...

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
    """Open the model at `path`: a GGUF file, a part of a split one with the others beside it, or a folder.

    A folder holds one GGUF model, or a Hugging Face model's config.json and safetensors files. Raises ModelFileError
    for what is no model, UnsupportedModel for what cannot be read.
    """
    if path.is_dir():
        return _open_folder(path)
    parts = siblings(path) if NAME.fullmatch(path.name) else [path]
    return SplitSource(path, parts) if len(parts) > 1 else GGUFSource(path)


def _open_folder(folder: Path) -> Source:
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        return SplitSource(folder, files)
    if files:
        return GGUFSource(files[0])
    if not (folder / CONFIG).is_file():
        raise ModelFileError(f"the folder holds neither a GGUF file nor a {CONFIG}")
    return SafetensorsSource(folder)
