"""A GGUF model over several files, as llama.cpp's gguf-split writes it: each has a part of the tensors.

The first file has the model's metadata; every file says which it is and how many there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import ModelFileError, UnsupportedModel
from appliance.store.gguf_header import GGUFHeader, TensorInfo, read_header

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
NAME = re.compile(r"(.*?)(\d{5})-of-(\d{5})\.gguf")
MOST = 1 << 16  # split.count is a 16-bit number


@dataclass(frozen=True, slots=True)
class SplitHeader:
    """The parts of a split model, in order, and what they say together."""

    parts: tuple[tuple[Path, GGUFHeader], ...]

    @property
    def metadata(self) -> dict[str, Any]:
        """The first part's, without what tells of the parts."""
        first = self.parts[0][1].metadata
        return {key: value for key, value in first.items() if key not in (NUMBER, COUNT, TENSORS)}

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Those of all parts; offsets are each in its own file."""
        return tuple(tensor for _, header in self.parts for tensor in header.tensors)


def read_split(paths: Iterable[Path]) -> SplitHeader:
    """Read the headers of a model's parts, whatever their names and order.

    Raises ModelFileError unless each part is there once and all belong together, and what `read_header` raises.
    """
    found: dict[int, tuple[Path, GGUFHeader]] = {}
    count = total = None
    for path in paths:
        header = read_header(path)
        number, own_count, own_total = (split_facts(header.metadata).get(key) for key in (NUMBER, COUNT, TENSORS))
        if number is None or own_count is None:
            raise ModelFileError("a GGUF file that is no part of a split model, among parts of one")
        if number in found:
            raise ModelFileError(f"part {number + 1} of {own_count} of the split model is given twice")
        count, total = count or own_count, total or own_total
        if own_count != count or (own_total or total) != total:
            raise ModelFileError("the parts belong to different split models")
        found[number] = path, header
    assert count  # at least one path
    if missing := [number + 1 for number in range(count) if number not in found]:
        raise ModelFileError(f"part {missing[0]} of {count} of the split model is missing")
    split = SplitHeader(tuple(found[number] for number in range(count)))
    names = {tensor.name for tensor in split.tensors}
    if len(names) != len(split.tensors) or (total is not None and len(names) != total):
        raise ModelFileError(
            f"the parts of the split model have {len(names)} different tensors of {len(split.tensors)}, not {total}"
        )
    return split


def split_facts(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Which part of how many the metadata tells of, and of how many tensors; raises ModelFileError for nonsense."""
    facts = {key: metadata[key] for key in (NUMBER, COUNT, TENSORS) if key in metadata}
    for key, value in facts.items():
        if type(value) is not int or value < 0:
            raise ModelFileError(f"a damaged GGUF file: {key} is {str(value)[:40]}")
    if facts.get(COUNT, 1) > MOST or facts.get(NUMBER, 0) >= facts.get(COUNT, 1):
        raise ModelFileError(f"a damaged GGUF file: part {facts.get(NUMBER)} of {facts.get(COUNT)}")
    return facts


def name_in_split(metadata: Mapping[str, Any]) -> str:
    """The name of the part that has this metadata, "" if it is a whole model."""
    facts = split_facts(metadata)
    return part_name(facts.get(NUMBER, 0), facts[COUNT]) if facts.get(COUNT, 1) > 1 else ""


def part_name(number: int, count: int) -> str:
    """The name of a part, counted from 0, where nothing else names it."""
    return f"{number + 1:05}-of-{count:05}.gguf"


def siblings(path: Path) -> Sequence[Path]:
    """The files that lie beside one part of a split model and by their names are the others, itself included.

    Raises UnsupportedModel when the name does not say which they are.
    """
    match = NAME.fullmatch(path.name)
    if not match:
        raise UnsupportedModel("a part of a split model under another name", ("NAME-00001-of-00002.gguf",))
    count = int(match[3])
    named = (path.with_name(f"{match[1]}{part_name(number, count)}") for number in range(min(count, MOST)))
    return [each for each in named if each.is_file()]
