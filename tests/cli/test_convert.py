"""`convert` runs the converters in a process of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_model import write_tiny_gguf

from .conftest import Outcome

Run = Callable[..., Outcome]


def test_the_bundle_lies_beside_its_source(appliance: Run, tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    outcome = appliance("convert", str(source), "--recipe", "fp32")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"converted '{source}' to '{tmp_path / 'tiny.fp32'}' (")
    assert (tmp_path / "tiny.fp32" / "bundle.json").exists()
    assert "converting model" in outcome.err


def test_the_bundle_goes_where_it_is_wanted_and_replaces_nothing(appliance: Run, tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "there").mkdir()
    outcome = appliance("convert", str(source), "--out", str(tmp_path / "there"))
    assert outcome.code == 1
    assert "exists already" in outcome.err
    assert list((tmp_path / "there").iterdir()) == []


def test_what_the_converters_refuse_is_shown(appliance: Run, tmp_path: Path) -> None:
    source = tmp_path / "notes.gguf"
    source.write_text("not a model")
    outcome = appliance("convert", str(source))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1].startswith("Error: not a GGUF file")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "Error: the converter ended without a result (exit code 3)"),
        ("kill -9 $$", "Error: the converter ended without a result (exit code -9)"),
        (
            "echo Segmentation fault; exec sleep 60",
            "Error: the converter said something else than JSON: Segmentation fault",
        ),
    ],
)
def test_converters_that_break_down(
    appliance: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    outcome = appliance("convert", str(fake))
    assert outcome == Outcome(1, "", f"{message}\n")
