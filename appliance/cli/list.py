"""`appliance list`: the installed models."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import rich_click as click

from appliance.cli.client import Client, connect
from appliance.cli.completion import model_names
from appliance.cli.formats import human_bytes, relative_time, table


@click.command("list", aliases=["ls"])
@click.argument("prefix", default="", shell_complete=model_names)
def command(prefix: str) -> None:
    """List the installed models.

    With PREFIX only those whose names start like it, in whatever case.
    """
    with connect() as client:
        print_models(client, prefix)


def print_models(client: Client, prefix: str) -> None:
    """Write the table of the server's models to stdout."""
    models = client.call("GET", "/api/tags").get("models") or []
    click.echo(models_table(models, prefix, datetime.now(UTC)), nl=False)


def models_table(models: list[dict[str, Any]], prefix: str, now: datetime) -> str:
    """The table of `list`, from the models of /api/tags; `prefix` ignores case."""
    rows = [
        (
            model["name"],
            model["digest"][:12],
            "-" if model.get("remote_model") else human_bytes(model["size"]),
            relative_time(datetime.fromisoformat(model["modified_at"]), now),
        )
        for model in models
        if model["name"].lower().startswith(prefix.lower())
    ]
    return table(("NAME", "ID", "SIZE", "MODIFIED"), rows)
