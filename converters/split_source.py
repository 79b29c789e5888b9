"""A GGUF model over several files as one source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from appliance.store.gguf_header import TensorInfo
from appliance.store.split_gguf import part_name, read_split
from converters.gguf_source import GGUFSource, path_digest


class SplitSource:
    """All parts of a split model, open. Raises ModelFileError unless every part is there and fits the others."""

    files: Mapping[str, Path] = {}

    def __init__(self, path: Path, parts: Iterable[Path]) -> None:
        self.path = path
        split = read_split(parts)
        self.metadata: dict[str, Any] = split.metadata
        self.tensors = {tensor.name: tensor for tensor in split.tensors}
        count = len(split.parts)
        self._named = {part_name(number, count): part for number, (part, _) in enumerate(split.parts)}
        self._stack = ExitStack()
        self._holding: dict[str, GGUFSource] = {}
        for part, header in split.parts:
            source = self._stack.enter_context(GGUFSource(part, header))
            self._holding |= {tensor.name: source for tensor in header.tensors}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def digest(self) -> str:
        """One over all parts."""
        return path_digest(self.path, self._named)

    def chunks(self, tensor: TensorInfo) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """As GGUFSource's, from the file that holds the tensor."""
        return self._holding[tensor.name].chunks(tensor)

    def values(self, tensor: TensorInfo) -> NDArray[np.float32]:
        """The whole of a small tensor, in its own shape."""
        return self._holding[tensor.name].values(tensor)
