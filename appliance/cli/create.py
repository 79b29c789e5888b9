"""`appliance create`: a model from a Modelfile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from appliance.cli.completion import model_names
from appliance.errors import ApplianceError, InvalidModelfile

if TYPE_CHECKING:
    from appliance.cli.client import Client
    from appliance.cli.progress import Statuses
    from appliance.store.modelfile import Modelfile


@click.command("create")
@click.argument("model", shell_complete=model_names)
@click.option("-f", "--file", metavar="FILE", type=click.Path(path_type=Path), help="The Modelfile (./Modelfile).")
@click.option("-q", "--quantize", metavar="TYPE", default="", help="Quantize to this type (e.g. Q4_K_M).")
@click.option("--draft-quantize", metavar="TYPE", hidden=True)
@click.option("--experimental", is_flag=True, hidden=True)
def command(model: str, file: Path | None, quantize: str, draft_quantize: str | None, experimental: bool) -> None:
    """Create MODEL from a Modelfile.

    Without a Modelfile, from the model files in this folder. Files that a Modelfile names are sent to the server unless
    it has them.
    """
    if draft_quantize is not None:
        raise ApplianceError("--draft-quantize: draft models are not supported")
    if experimental:
        raise ApplianceError("--experimental is not needed here: leave it out, safetensors files are read without it")
    from appliance.cli.client import connect
    from appliance.cli.progress import Statuses

    modelfile, base = _read(file)
    for warning in modelfile.warnings:
        click.echo(warning, err=True)
    with connect() as client, Statuses() as statuses:
        statuses.show("gathering model components")
        body = {"model": model, **_request(client, modelfile, base, statuses)}
        if quantize:
            body["quantize"] = quantize
        for event in client.stream("/api/create", body):
            statuses.show(event.get("status", ""), event.get("completed", 0), event.get("total", 0))


def _read(file: Path | None) -> tuple[Modelfile, Path]:
    """The Modelfile and the folder its paths start from."""
    from appliance.store.modelfile import parse_modelfile

    path = file or Path("Modelfile")
    try:
        return parse_modelfile(path.read_bytes()), path.resolve().parent
    except FileNotFoundError as error:
        if file is not None:
            raise ApplianceError("specified Modelfile wasn't found") from error
        return parse_modelfile("FROM ."), Path.cwd()
    except InvalidModelfile as error:
        where = "" if not error.line or str(error).startswith("(line") else f"(line {error.line}): "
        raise ApplianceError(f"{path}: {where}{error}") from error


def _request(client: Client, modelfile: Modelfile, base: Path, statuses: Statuses) -> dict[str, Any]:
    """The body of /api/create without the name; the files it refers to are on the server afterwards."""
    from appliance.cli.components import existing, model_files, send

    if modelfile.draft:
        raise ApplianceError("DRAFT models are not supported")
    source = ""
    files: dict[str, Path] = {}
    for name in modelfile.sources:
        if path := existing("FROM", name, base):
            found = model_files(path)
            if twice := files.keys() & found.keys():
                raise ApplianceError(f"FROM {name}: there is another file named {min(twice)}")
            files |= found
        else:
            source = name
    adapter = existing("ADAPTER", modelfile.adapter, base) if modelfile.adapter else None
    fields = {
        "from": source,
        "files": send(client, files, statuses),
        "adapters": send(client, model_files(adapter) if adapter else {}, statuses),
        "template": modelfile.template,
        "system": modelfile.system,
        "renderer": modelfile.renderer,
        "parser": modelfile.parser,
        "requires": modelfile.requires,
        "license": list(modelfile.licenses),
        "parameters": dict(modelfile.parameters),
        "messages": [{"role": each.role, "content": each.content} for each in modelfile.messages],
    }
    return {key: value for key, value in fields.items() if value}
