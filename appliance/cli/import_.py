"""`appliance import`: models from a file that `appliance export` wrote."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path

import rich_click as click

from appliance.cli.here import caretaker, server
from appliance.cli.progress import Statuses
from appliance.errors import ApplianceError

CHUNK_BYTES = 1 << 20


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Install the models of FILE, which `appliance export` wrote; - is the standard input.

    Nothing is installed unless all of FILE is as it was written.
    """
    if str(file) == "-":
        if sys.stdin.isatty():
            raise ApplianceError("the standard input is a terminal: name a file, or redirect it")
        with open(sys.stdin.fileno(), "rb", closefd=False) as source:
            names = _import(source, None)
    else:
        with file.open("rb") as source:
            names = _import(source, file.stat().st_size if file.is_file() else None)
    for name in names:
        click.echo(f"imported {name}")


def _import(source: BufferedReader, size: int | None) -> Sequence[str]:
    with server() as client, Statuses() as statuses:
        chunks = _shown(source, size, statuses)
        if client:
            names: list[str] = client.send("/api/import", chunks, size)["models"]
            return names
        with caretaker(changing=True, new=True) as care:
            unpacking = care.unpack()
            try:
                for chunk in chunks:
                    unpacking.write(chunk)
                return unpacking.commit()
            finally:
                unpacking.abort()


def _shown(source: BufferedReader, size: int | None, statuses: Statuses) -> Iterator[bytes]:
    done = 0
    while chunk := source.read1(CHUNK_BYTES):
        yield chunk
        done += len(chunk)
        statuses.show("importing", done, size or 0, in_bytes=True)
