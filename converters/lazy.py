"""Modules that are imported, but do not run before something in them is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType


class LazyFinder:
    """Finds the modules `names` as Python does, and leaves running them for their first use."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self.names else None
        if spec and spec.loader:
            spec.loader = LazyLoader(spec.loader)
        return spec


def import_lazily(*names: str) -> None:
    """Have these modules run at their first use, or at a second import, unless they are imported already."""
    sys.meta_path.insert(0, LazyFinder(*names))
