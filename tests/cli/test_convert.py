"""`convert` runs the converters in a process of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_adapter import write_peft
from tests.tiny_encoder import random_bert, write_gguf
from tests.tiny_folder import write_tiny_folder
from tests.tiny_model import CHAT_TEMPLATE, write_tiny_gguf

from .conftest import Outcome

Run = Callable[..., Outcome]


def test_the_bundle_lies_beside_its_source(appliance: Run, tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    outcome = appliance("convert", str(source), "--recipe", "fp32")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"converted '{source}' to '{tmp_path / 'tiny.fp32'}' (")
    assert (tmp_path / "tiny.fp32" / "bundle.json").exists()
    assert "converting model" in outcome.err


def test_a_check_of_an_encoder_tells_the_cosine(appliance: Run, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "encoder.gguf", "bert", random_bert(), heads=4)
    outcome = appliance("convert", str(source), "--recipe", "int8", "--check")
    assert outcome.code == 0, outcome.err
    assert re.search(r"Against the source in float32, \d+ texts\n +cosine +0\.9\d+ +\n +least cosine", outcome.out)


def test_a_folder_too(appliance: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_tiny_folder(tmp_path / "tiny.v1", dtype="BF16"))
    outcome = appliance("convert", ".", "--recipe", "fp32")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "tiny.v1.fp32" / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_a_check_says_how_close_the_bundle_is(appliance: Run, tmp_path: Path) -> None:
    outcome = appliance("convert", str(write_tiny_gguf(tmp_path / "tiny.gguf")), "--check")
    assert outcome.code == 0, outcome.err
    rows = dict(re.findall(r"^    (\S.*?) {2,}(\S.*?) *$", outcome.out, re.MULTILINE))
    difference = float(rows["NLL"]) - float(rows["source's NLL"])
    assert float(rows["difference"]) == pytest.approx(difference, abs=2e-4)
    assert rows["same first choice"].endswith(" %")
    assert rows["bar"] == "not judged: the source cannot read the text"
    assert rows["words changed there and back"] == "0"
    assert "Largest relative errors of weights" in outcome.out


def test_an_adapter_is_merged(appliance: Run, tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    for name, more in (("plain", ()), ("adapted", ("--adapter", str(write_peft(tmp_path / "peft"))))):
        outcome = appliance("convert", str(source), "--out", str(tmp_path / name), *more)
        assert outcome.code == 0, outcome.err
    digests = {
        json.loads((tmp_path / name / "bundle.json").read_text())["source_digest"] for name in ("plain", "adapted")
    }
    assert len(digests) == 2
    outcome = appliance("convert", str(source), "--adapter", str(tmp_path / "nothing"))
    assert outcome.err == f"Error: {tmp_path / 'nothing'} does not exist\n"


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


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl+C reaches the converters too, which then clean up while they are being ended."""
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    status = '{"status": "s", "completed": 0, "total": 1}'
    (tmp_path / "python").write_text(
        f"#!/bin/sh\nmkdir {tmp_path}/tiny.fp32.partial-$$\necho '{status}'\nexec sleep 60\n"
    )
    (tmp_path / "python").chmod(0o755)
    begin = (
        f"import sys; from appliance.cli.main import main; sys.executable = {str(tmp_path / 'python')!r}; "
        f"main(['convert', {str(source)!r}, '--recipe', 'fp32'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", begin], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as cli:
        assert cli.stderr is not None
        assert cli.stderr.readline() == "s\n"
        os.killpg(cli.pid, signal.SIGINT)
        assert cli.stderr.read().endswith("Error: interrupted\n")
    assert cli.returncode == 1
    assert sorted(os.listdir(tmp_path)) == ["python", "tiny.gguf"]
