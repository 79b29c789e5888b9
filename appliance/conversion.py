"""Model files to bundles, in a process of its own, so that the daemon's memory stays small."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from appliance import errors
from appliance.bundle import CONVERTER_VERSION, read_description
from appliance.core import Progress
from appliance.errors import ApplianceError, ConversionFailed, ModelFileError

log = logging.getLogger(__name__)


def prepare(folder: Path) -> bool:
    """Whether `folder` holds a bundle made by this version of the converters; if not, clear the place for one."""
    try:
        if read_description(folder).converter_version == CONVERTER_VERSION:
            return True
    except ModelFileError as error:
        log.debug("%s", error)
    if folder.exists():
        log.info("converting anew: the bundle in %s is of another version", folder)
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return False


class Converter:
    """Makes bundles; asks for the same one wait for each other."""

    def __init__(self) -> None:
        self._locks: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ensure(self, source: Path, digest: str, folder: Path, recipe: str) -> AsyncGenerator[Progress, None]:
        """Convert `source` into `folder` unless a current bundle is there already.

        `digest` only names the source in the progress. Closing the generator kills the conversion.
        Raises what the converter reports: UnsupportedModel, NotGGUF, NotEnoughDisk, ConversionFailed, ...
        """
        async with self._locks[folder]:
            if await asyncio.to_thread(prepare, folder):
                return
            async with contextlib.aclosing(run_converter(source, folder, recipe)) as lines:
                async for line in lines:
                    if "status" in line:
                        total, completed = line.get("total", 0), line.get("completed", 0)
                        yield Progress(line["status"], digest if total else "", total, completed)


async def run_converter(source: Path, folder: Path, recipe: str) -> AsyncGenerator[dict[str, Any], None]:
    """Run `python -m converters` and yield the objects it prints. Killed when the generator is closed."""
    command = (sys.executable, "-m", "converters", str(source), "--out", str(folder), "--recipe", recipe, "--json")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    noise = asyncio.create_task(process.stderr.read())
    try:
        async for raw in process.stdout:
            line = json.loads(raw)
            if "error" in line:
                raise reported(line)
            yield line
        if await process.wait():
            log.error("the converter ended with status %d: %s", process.returncode, (await noise).decode())
            raise ConversionFailed(f"the conversion ended unexpectedly (status {process.returncode})")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await noise
        for partial in folder.parent.glob(f"{folder.name}.partial-{process.pid}"):
            shutil.rmtree(partial, ignore_errors=True)


def reported(line: dict[str, Any]) -> ApplianceError:
    """The error that the converter's last line tells of, as its own class where it has one."""
    kind = getattr(errors, str(line.get("kind", "")), None)
    if not (isinstance(kind, type) and issubclass(kind, ApplianceError)):
        kind = ConversionFailed
    error = kind.__new__(kind)
    Exception.__init__(error, str(line["error"]))  # the converter has already put its facts into the text
    return error
