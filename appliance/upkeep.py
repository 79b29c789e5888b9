"""The nouns of looking after the store: what takes its disk, what nothing uses, what is damaged, what others
may read. No behaviour.

Names of files are relative to the models folder.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one model takes, in bytes: all its blobs, those that no other model uses, and its network's bundles."""

    name: str
    size: int
    alone: int
    bundles: int


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """What the store takes, in bytes, every blob counted once, and what is left of the disk.

    `blobs` are those of models, `unused` the others; `prefixes` are beginnings of prompts kept beside bundles;
    `partial` is what is half written or half downloaded. `free` includes the `floor` that is never used.
    """

    models: tuple[ModelUsage, ...]
    blobs: int
    unused: int
    bundles: int
    prefixes: int
    partial: int
    disk: int
    free: int
    floor: int


@dataclass(frozen=True, slots=True)
class SharedManifest:
    """A manifest as another machine gets it."""

    raw: bytes
    media_type: str
    digest: str


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or folder that nothing uses, and why it is there."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be. `kept` says why only part of the store could be looked at, "" if all was."""

    leftovers: tuple[Leftover, ...]
    kept: str = ""

    @property
    def size(self) -> int:
        """Bytes of all leftovers."""
        return sum(each.size for each in self.leftovers)


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something damaged, the models that need it, and how to mend them."""

    name: str
    problem: str
    models: tuple[str, ...]
    mend: str
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """What was checked: how many files, of how many bytes, and what is wrong."""

    blobs: int
    bundles: int
    size: int
    flaws: tuple[Flaw, ...]
