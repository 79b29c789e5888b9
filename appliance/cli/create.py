"""`appliance create`: a model from a Modelfile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from appliance.cli.client import Client, connect
from appliance.cli.components import expand, model_files, send
from appliance.cli.progress import Statuses
from appliance.errors import ApplianceError
from appliance.store.modelfile import Modelfile, parse_modelfile


@click.command("create")
@click.argument("model")
@click.option("-f", "--file", metavar="FILE", type=click.Path(path_type=Path), help="The Modelfile (./Modelfile).")
@click.option("-q", "--quantize", metavar="TYPE", default="", help="Quantize to this type (e.g. Q4_K_M).")
def create(model: str, file: Path | None, quantize: str) -> None:
    """Create MODEL from a Modelfile; without one, from the model files in this folder."""
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
    path = file or Path("Modelfile")
    try:
        return parse_modelfile(path.read_bytes()), path.resolve().parent
    except FileNotFoundError as error:
        if file is not None:
            raise ApplianceError("specified Modelfile wasn't found") from error
        return parse_modelfile("FROM ."), Path.cwd()
    except OSError as error:
        raise ApplianceError(f"{path}: {error.strerror}") from error


def _request(client: Client, modelfile: Modelfile, base: Path, statuses: Statuses) -> dict[str, Any]:
    """The body of /api/create without the name; the files it refers to are on the server afterwards."""
    if modelfile.draft:
        raise ApplianceError("DRAFT models are not supported")
    source = ""
    files: dict[str, Path] = {}
    adapters: dict[str, Path] = {}
    for name in modelfile.sources:
        path = expand(name, base)
        if path.exists():
            found = model_files(path)
            if twice := files.keys() & found.keys():
                raise ApplianceError(f"FROM {name}: there is another file named {min(twice)}")
            files |= found
        else:
            source = name
    if modelfile.adapter:
        path = expand(modelfile.adapter, base)
        if not path.exists():
            raise ApplianceError(f"{modelfile.adapter}: no such file or directory")
        adapters = model_files(path)
    fields = {
        "from": source,
        "files": {name: send(client, path, statuses.show) for name, path in files.items()},
        "adapters": {name: send(client, path, statuses.show) for name, path in adapters.items()},
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
