"""What the tests show, collected and not written: which test proves an architecture, and which a case of Ollama's API.

A test marked `proves(source, target)` proves an architecture from a kind of source on a target. The architecture is
that of its parameter among the oracle's cases, or is named by the mark; the target may be its parameter `target`. A
test marked `spec(number, ...)` shows cases of scripts/cases.py. Only files with such marks are collected, by a pytest
of their own that runs nothing and has this module as a plugin.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
MARKS = ("mark.proves(", "mark.spec(")
Cell = tuple[str, str, str]
"""Architecture, source, target."""


def proofs() -> Mapping[Cell, Sequence[str]]:
    """The ids of the tests that prove a cell, without their parameters, in the order of the files."""
    return _grouped(
        ((architecture, source, target), test) for architecture, source, target, test in _collect()["proves"]
    )


def shown() -> Mapping[int, Sequence[str]]:
    """The ids of the tests that show a case of Ollama's API, by its number, likewise."""
    return _grouped(_collect()["spec"])


def _grouped(rows: Iterable[tuple[Any, str]]) -> Mapping[Any, Sequence[str]]:
    found: defaultdict[Any, dict[str, None]] = defaultdict(dict)
    for key, test in rows:
        found[key][test] = None
    return {key: tuple(tests) for key, tests in found.items()}


@cache
def _collect() -> Mapping[str, Any]:
    texts = {path: path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    files = [str(path) for path, text in texts.items() if any(mark in text for mark in MARKS)]
    with tempfile.NamedTemporaryFile("r", suffix=".json") as found:
        command = [sys.executable, "-m", "pytest", "-p", "scripts.proofs", "--proofs", found.name, "--collect-only"]
        run = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(f"the tests cannot be collected:\n{run.stdout}{run.stderr}")
        return json.load(found)  # type: ignore[no-any-return]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", metavar="FILE", help="write what the collected tests prove to this file")


def pytest_collection_finish(session: pytest.Session) -> None:
    proves = [
        (architecture, mark.kwargs["source"], _target(item, mark), _id(item))
        for item in session.items
        for mark in item.iter_markers("proves")
        for architecture in _architectures(item, mark)
    ]
    spec = [(number, _id(item)) for item in session.items for mark in item.iter_markers("spec") for number in mark.args]
    Path(session.config.getoption("--proofs")).write_text(json.dumps({"proves": proves, "spec": spec}))


def _id(item: pytest.Item) -> str:
    return item.nodeid.split("[")[0].removeprefix("tests/")


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
