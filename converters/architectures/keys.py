"""Reading an architecture's metadata and holding its tensors against it; what would be ignored is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.errors import NotGGUF, UnsupportedModel
from appliance.store.gguf_header import TensorInfo

LARGEST = 1 << 24  # of any dimension
Shapes = dict[str, tuple[int, ...]]


class Keys:
    """The metadata of the architecture `name`, which remembers what has been read.

    Values that are missing or absurd raise NotGGUF, those that a graph cannot express UnsupportedModel.
    """

    def __init__(self, name: str, metadata: Mapping[str, Any]) -> None:
        self.name = name
        self.metadata = metadata
        self._read: set[str] = set()

    def integer(self, key: str, default: int | None = None) -> int:
        """A dimension: a whole number from 1 on (the default may be 0)."""
        value = self._required(key, default)
        if isinstance(value, list):
            raise UnsupportedModel(f"{self.name}.{key} that differs by layer", ("one value for all layers",))
        if value != default and not (type(value) is int and 0 < value < LARGEST):
            raise self._damaged(key, value)
        return int(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number (the default may be 0, and a 0 in the file then means it)."""
        value = self._required(key, default)
        if type(value) not in (int, float) or not (0 < value < float("inf") or value == default):
            raise self._damaged(key, value)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A truth value."""
        value = self._required(key, default)
        if type(value) is not bool:
            raise self._damaged(key, value)
        return value

    def choice(self, key: str, default: str, known: tuple[str, ...]) -> str:
        """One of the words `known`."""
        value = self._required(key, default)
        if value not in known:
            raise UnsupportedModel(f"{self.name}.{key} = {str(value)[:40]}", known)
        return str(value)

    def vocabulary(self) -> int:
        """How many tokens there are: those that a GGUF lists, else the number that a configuration gives."""
        listed = len(self.metadata.get("tokenizer.ggml.tokens", ()))
        if not listed:
            return self.integer("vocab_size")
        self.ignore("vocab_size")
        return listed

    def any(self, key: str) -> Any:
        """The value as it is, or None."""
        self._read.add(key)
        return self.metadata.get(f"{self.name}.{key}")

    def ignore(self, *keys: str) -> None:
        """These change nothing, whatever their values."""
        self._read.update(keys)

    def refuse_others(self, neutral: Mapping[str, tuple[Any, ...]]) -> None:
        """Refuse every key that was not read, unless it has one of the values that `neutral` says change nothing."""
        for key, value in self.metadata.items():
            name = key.removeprefix(f"{self.name}.")
            if name == key or name in self._read:
                continue
            if name not in neutral:
                raise UnsupportedModel(key[:80], tuple(f"{self.name}.{known}" for known in sorted(self._read)))
            if value not in neutral[name]:
                raise UnsupportedModel(f"{key} = {str(value)[:40]}", tuple(map(str, neutral[name])))

    def _required(self, key: str, default: Any) -> Any:
        value = self.any(key)
        if value is None and default is None:
            raise NotGGUF(f"a damaged model: metadata {self.name}.{key} is missing")
        return default if value is None else value

    def _damaged(self, key: str, value: Any) -> NotGGUF:
        return NotGGUF(f"a damaged model: {self.name}.{key} is {str(value)[:40]}")


def in_layers(layers: int, shapes: Shapes) -> Shapes:
    """The tensors that every one of so many layers has, by their whole names."""
    return {f"blk.{index}.{name}": shape for index in range(layers) for name, shape in shapes.items()}


def check_layers(layers: int, tensors: Mapping[str, TensorInfo]) -> None:
    """Raises NotGGUF for a number of layers that cannot be."""
    if layers > len(tensors):
        raise NotGGUF(f"a damaged model: {layers} layers, but only {len(tensors)} tensors")


def check_tensors(name: str, tensors: Mapping[str, TensorInfo], expected: Shapes, optional: Shapes) -> None:
    """Raises NotGGUF for tensors that are missing or have another shape, UnsupportedModel for any other tensor."""
    for tensor, shape in expected.items():
        if tensor not in tensors:
            raise NotGGUF(f"a damaged model: tensor {tensor} is missing")
        _check_shape(tensors[tensor], shape)
    for tensor, info in tensors.items():
        if tensor in optional:
            _check_shape(info, optional[tensor])
        elif tensor not in expected:
            known = {each.split(".")[-2] for each in (*expected, *optional)}
            raise UnsupportedModel(f"tensor {tensor[:80]} in a {name} model", tuple(sorted(known)))


def _check_shape(tensor: TensorInfo, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise NotGGUF(f"a damaged model: tensor {tensor.name} has shape {tensor.shape}, not {shape}")
