"""`appliance export`: models as one file."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import rich_click as click

from appliance.cli.completion import model_names
from appliance.cli.here import caretaker, server
from appliance.cli.progress import Statuses
from appliance.errors import ApplianceError


@click.command("export")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, shell_complete=model_names)
@click.argument("file", type=click.Path(path_type=Path))
def command(models: tuple[str, ...], file: Path) -> None:
    """Write MODEL, or several, to FILE, from which `appliance import` installs them on another machine.

    FILE is a tar; - is the standard output.
    """
    if str(file) == "-" and sys.stdout.isatty():
        raise ApplianceError("the standard output is a terminal: name a file, or redirect it")
    with server() as client, Statuses() as statuses:
        if client:
            with client.download("/api/export", {"models": models}) as (size, chunks):
                save(file, size, chunks, statuses)
        else:
            with caretaker(changing=False) as care:
                packing = care.pack(models)
                save(file, packing.size, packing.chunks(), statuses)


def save(file: Path, size: int, chunks: Iterator[bytes], statuses: Statuses) -> None:
    """Put `size` bytes into `file`, wholly or not at all, or into the standard output for -."""
    if str(file) == "-":
        for chunk in _shown(chunks, size, statuses):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    from appliance.store.disk import Space, abandoned, partial_path, sync_folder

    if file.is_dir():
        raise ApplianceError(f"{file} is a folder: name a file")
    space = Space(file.parent)
    for earlier in file.parent.glob(f"{glob.escape(file.name)}-*"):
        if abandoned(earlier):  # by an export that was killed
            earlier.unlink()
    partial = partial_path(file.parent, f"{file.name}-")
    try:
        with space.writing(size), partial.open("xb") as target:
            for chunk in _shown(chunks, size, statuses):
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(file.parent)


def _shown(chunks: Iterator[bytes], size: int, statuses: Statuses) -> Iterator[bytes]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        statuses.show("exporting", done, size, in_bytes=True)
