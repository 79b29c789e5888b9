"""The project's own files: documents, unit, scripts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "systemd" / "appliance.service"
WORST_EXPOSURE = 3.0  # systemd calls 2 to 4 "OK", 0 to 2 "safe"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def unit_lines() -> dict[str, list[str]]:
    """The unit's values by key."""
    lines: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            lines.setdefault(key, []).append(value)
    return lines


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    start = unit_lines()["ExecStart"][0]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(start, "/bin/true"))  # the installed program need not be here
    result = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copy)
    assert (result.returncode, result.stderr) == (0, "")


@needs_systemd
def test_the_unit_is_hardened() -> None:
    threshold = f"--threshold={WORST_EXPOSURE * 10:.0f}"
    result = run("systemd-analyze", "security", "--offline=true", "--no-pager", threshold, UNIT)
    assert result.returncode == 0, result.stdout[-300:]


def test_the_unit_starts_the_command_that_the_project_installs() -> None:
    lines = unit_lines()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    program, command = lines["ExecStart"][0].split()
    assert Path(program).name in scripts
    assert command == "serve"
    assert lines["Type"] == ["notify"]
    assert lines["DynamicUser"] == ["yes"]


def test_the_units_variables_are_settings() -> None:
    from appliance.config import setting_fields

    known = {each.metadata["variable"] for each in setting_fields()} | {"XDG_CONFIG_HOME", "HOME"}
    assert {line.split("=")[0] for line in unit_lines()["Environment"]} <= known


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            assert target.startswith("https://") or (document.parent / target).exists(), f"{document.name}: {target}"


def imported(code: str) -> set[str]:
    """The modules that this code imports."""
    result = run(sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules, sep='\\n')")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines())


def command_line(*arguments: str) -> str:
    return f"from appliance.cli.main import main\ntry: main({arguments!r})\nexcept SystemExit: pass"


HEAVY = {"onnxruntime", "litestar", "uvicorn", "numpy", "torch", "transformers", "tokenizers", "jinja2", "asyncio"}


def test_the_command_line_starts_without_engine_and_web_framework() -> None:
    assert not imported(command_line("--help")) & (HEAVY | {"httpx"})
    modules = imported(command_line("list"))
    assert "httpx" in modules
    assert not modules & HEAVY
    assert {name for name in modules if name.startswith("appliance.cli.")} == {
        f"appliance.cli.{name}" for name in ("main", "absent", "list", "client", "completion", "formats")
    }


def test_the_server_starts_without_what_only_commands_need() -> None:
    modules = imported("import appliance.cli.main, appliance.cli.serve, appliance.daemon")
    assert {"onnxruntime", "litestar"} <= modules
    assert {name for name in modules if name.startswith("appliance.cli.")} == {
        f"appliance.cli.{name}" for name in ("main", "absent", "serve")
    }
    assert not modules & {"rich.progress", "rich.console", "readline"}


def test_scripts_can_be_run() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if not path.suffix and path.is_file()]
    assert {"up", "test", "check", "docs", "install", "wheels"} <= {path.name for path in scripts}
    for path in (*scripts, ROOT / ".ci" / "run"):
        assert os.access(path, os.X_OK), path.name
        if "bash" in path.read_text().splitlines()[0]:
            result = run("bash", "-n", path)
            assert result.returncode == 0, result.stderr


def install(tmp_path: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/install in a project that has nothing yet, with this program as Python."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "install", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{python}\n")
    fake.chmod(0o755)
    environ = {**os.environ, "PYTHON": str(fake)}
    return subprocess.run(
        [tmp_path / "scripts" / "install"], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_install_refuses_an_old_python(tmp_path: Path) -> None:
    result = install(tmp_path, 'test "$1" = --version && echo Python 3.9.2; exit 1')
    assert result.returncode == 1
    assert "Python 3.9.2 is too old; Python 3.11 or newer is needed" in result.stderr


def test_install_says_how_to_get_venv(tmp_path: Path) -> None:
    result = install(tmp_path, 'test "$1" != -m')
    assert result.returncode == 1
    assert "apt install python3-venv" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_install_says_that_there_is_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "install", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setenv("PYTHON", str(tmp_path / "missing"))
    result = run(tmp_path / "scripts" / "install")
    assert result.returncode == 1
    assert "is not installed" in result.stderr
