"""Model files to bundles, in a process of its own, so that the daemon's memory stays small."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from appliance import errors
from appliance.bundle import CONVERTER_VERSION, read_description
from appliance.conversion_facts import Inspection, RecipeCost
from appliance.core import Progress
from appliance.errors import ApplianceError, ConversionFailed, ModelFileError, NotEnoughDisk
from appliance.store.disk import Space

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
    """Makes bundles; asks for the same one wait for each other. `floor` bytes of the disk are left free."""

    def __init__(self, floor: int = 0) -> None:
        self._floor = floor
        self._locks: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ensure(
        self,
        source: Path,
        digest: str,
        folder: Path,
        recipe: str,
        kv: str,
        target: str = "cpu",
        adapter: Path | None = None,
    ) -> AsyncGenerator[Progress, None]:
        """Convert `source`, with an adapter merged into it, into `folder` unless a current bundle is there already.

        `digest` only names the source in the progress. Closing the generator kills the conversion.
        Raises what the converter reports: UnsupportedModel, NotGGUF, NotEnoughDisk, ConversionFailed, ...
        """
        async with self._locks[folder]:
            if await asyncio.to_thread(prepare, folder):
                return
            running = run_converter(source, folder, recipe, kv, adapter=adapter, target=target, floor=self._floor)
            async with contextlib.aclosing(running) as lines:
                async for line in lines:
                    if "status" in line:
                        total, completed = line.get("total", 0), line.get("completed", 0)
                        yield Progress(line["status"], digest if total else "", total, completed)


async def run_converter(
    source: Path,
    folder: Path,
    recipe: str,
    kv: str,
    *,
    adapter: Path | None = None,
    check: bool = False,
    target: str = "cpu",
    floor: int = 0,
) -> AsyncGenerator[dict[str, Any], None]:
    """Convert in a process of its own: yields the objects it prints, the last with "done" and the "bundle".

    Raises what it reports, and ConversionFailed when it breaks down, which is logged with all it said; NotEnoughDisk
    also when others leave less than `floor` bytes of the disk free meanwhile. Closing the generator kills it. However
    it ends, neither the process nor its partial folder stays behind.
    """
    arguments = [str(source), "--out", str(folder), "--recipe", recipe, "--kv", kv, "--target", target]
    arguments += ["--adapter", str(adapter)] if adapter else []
    arguments += ["--check"] if check else []
    arguments += ["--floor", str(floor)] if floor else []
    space = Space(folder.parent, floor)
    async with _process(arguments) as process:
        try:
            async with contextlib.aclosing(_lines(process)) as lines:
                async for line in lines:
                    if floor and folder.parent.is_dir() and (left := space.left) < 0:
                        raise NotEnoughDisk(-left, 0, floor)
                    yield line
        finally:
            await _end(process)
            partial = folder.with_name(f"{folder.name}.partial-{process.pid}")
            await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)


async def run_inspection(source: Path, adapter: Path | None = None) -> Inspection:
    """What the headers of a model say; raises as `run_converter` does."""
    async with _process([str(source), "--inspect", *(["--adapter", str(adapter)] if adapter else [])]) as process:
        async for line in _lines(process):
            facts = line
    costs = {name: RecipeCost(**cost) for name, cost in facts["inspection"].pop("recipes").items()}
    return Inspection(**facts["inspection"], recipes=costs)


async def convert_adapter(adapter: Path, base: Path, target: Path) -> None:
    """Make the GGUF file `target` of a folder of PEFT's, for the model `base`; raises as `run_converter` does."""
    async with _process([str(base), "--adapter", str(adapter), "--out", str(target), "--adapter-only"]) as process:
        async for _ in _lines(process):
            pass


@contextlib.asynccontextmanager
async def _process(arguments: Sequence[str]) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    """The converters with these arguments, killed at the end if they still run."""
    # -P: the folder that we happen to be started in must not provide modules
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "converters", *arguments, "--json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        await _end(process)


async def _lines(process: asyncio.subprocess.Process) -> AsyncGenerator[dict[str, Any], None]:
    """What the converters print, to the line with "done"; raises what they report, ConversionFailed without it."""
    assert process.stdout
    assert process.stderr
    noise = asyncio.create_task(process.stderr.read())
    done = False
    try:
        async for line in _objects(process.stdout):
            if "error" in line:
                raise reported(line)
            done = "done" in line
            yield line
        code = await process.wait()
        if code or not done:
            raise ConversionFailed(f"the conversion ended unexpectedly (status {code})")
    except ConversionFailed:
        await _end(process)
        if said := (await noise).decode(errors="replace").strip():
            log.error("the converter failed: %s", said)
        raise
    finally:
        await _end(process)
        await noise


async def _objects(stream: asyncio.StreamReader) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON objects of a stream, one a line; raises ConversionFailed for anything else, endless lines too."""
    try:
        async for raw in stream:
            line = json.loads(raw)
            if not isinstance(line, dict):
                raise ValueError("not an object")
            yield line
    except ValueError as error:
        raise ConversionFailed("the converter said something else than JSON") from error


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def reported(line: dict[str, Any]) -> ApplianceError:
    """The error that the converter's last line tells of, as its own class where it has one."""
    kind = getattr(errors, str(line.get("kind", "")), None)
    if not (isinstance(kind, type) and issubclass(kind, ApplianceError)):
        kind = ConversionFailed
    error = kind.__new__(kind)
    Exception.__init__(error, str(line["error"]))  # the converter has already put its facts into the text
    return error
