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
@click.option("--dry-run", is_flag=True, help="Only check FILE, and list what would be installed.")
def command(file: Path, dry_run: bool) -> None:
    """Install the models of FILE, which `appliance export` wrote; - is the standard input.

    Nothing is installed unless all of FILE is as it was written.
    """
    if str(file) == "-":
        if sys.stdin.isatty():
            raise ApplianceError("the standard input is a terminal: name a file, or redirect it")
        with open(sys.stdin.fileno(), "rb", closefd=False) as source:
            names = _import(source, None, dry_run)
    else:
        with file.open("rb") as source:
            names = _import(source, file.stat().st_size if file.is_file() else None, dry_run)
    for name in names:
        click.echo(f"would import {name}" if dry_run else f"imported {name}")


def _import(source: BufferedReader, size: int | None, dry_run: bool) -> Sequence[str]:
    with server() as client, Statuses() as statuses:
        chunks = _shown(source, size, statuses, "checking" if dry_run else "importing")
        if client:
            path = "/api/import?dry_run=true" if dry_run else "/api/import"
            names: list[str] = client.send(path, chunks, size)["models"]
            return names
        with caretaker(changing=not dry_run, new=True) as care:
            unpacking = care.unpack(dry_run)
            try:
                for chunk in chunks:
                    unpacking.write(chunk)
                return unpacking.commit()
            finally:
                unpacking.abort()


def _shown(source: BufferedReader, size: int | None, statuses: Statuses, status: str) -> Iterator[bytes]:
    done = 0
    while chunk := source.read1(CHUNK_BYTES):
        yield chunk
        done += len(chunk)
        statuses.show(status, done, size or 0, in_bytes=True)
