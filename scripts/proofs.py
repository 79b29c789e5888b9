"""Which test proves that which architecture works from which kind of source on which target: collected, not written.

A test is marked `proves(source, target)`. The architecture is that of its parameter among the oracle's cases, or is
named by the mark; the target may be its parameter `target`. Only files with such marks are collected, by a pytest of
their own that runs nothing and has this module as a plugin.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
Cell = tuple[str, str, str]
"""Architecture, source, target."""


def proofs() -> Mapping[Cell, Sequence[str]]:
    """The ids of the tests that prove a cell, without their parameters, in the order of the files."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.proves" in path.read_text()]
    with tempfile.NamedTemporaryFile("r", suffix=".json") as found:
        command = [sys.executable, "-m", "pytest", "-p", "scripts.proofs", "--proofs", found.name, "--collect-only"]
        run = subprocess.run([*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"the tests cannot be collected:\n{run.stdout}{run.stderr}")
        cells: defaultdict[Cell, dict[str, None]] = defaultdict(dict)
        for architecture, source, target, test in json.load(found):
            cells[architecture, source, target][test] = None
    return {cell: tuple(tests) for cell, tests in cells.items()}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", metavar="FILE", help="write what the collected tests prove to this file")


def pytest_collection_finish(session: pytest.Session) -> None:
    rows = [
        (architecture, mark.kwargs["source"], _target(item, mark), item.nodeid.split("[")[0].removeprefix("tests/"))
        for item in session.items
        for mark in item.iter_markers("proves")
        for architecture in _architectures(item, mark)
    ]
    Path(session.config.getoption("--proofs")).write_text(json.dumps(rows))


def _parameters(item: pytest.Item) -> Mapping[str, Any]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def _target(item: pytest.Item, mark: pytest.Mark) -> str:
    return str(mark.kwargs.get("target") or _parameters(item)["target"])


def _architectures(item: pytest.Item, mark: pytest.Mark) -> Iterable[str]:
    from tests.converters.oracle.cases import CASES

    if "architecture" in mark.kwargs:
        return [mark.kwargs["architecture"]]
    values = (value for value in _parameters(item).values() if isinstance(value, str))
    return [CASES[value].architecture for value in values if value in CASES]
