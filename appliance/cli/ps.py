"""`appliance ps`: the loaded models."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import rich_click as click

from appliance.cli.client import connect
from appliance.cli.completion import loaded_names
from appliance.cli.formats import human_bytes, processor, relative_time, table


@click.command("ps")
@click.argument("prefix", default="", shell_complete=loaded_names)
def command(prefix: str) -> None:
    """List the models in memory.

    With PREFIX only those whose names start like it, in whatever case.
    """
    with connect() as client:
        models = client.call("GET", "/api/ps").get("models") or []
    click.echo(loaded_table(models, prefix, datetime.now(UTC)), nl=False)


def loaded_table(models: list[dict[str, Any]], prefix: str, now: datetime) -> str:
    """The table of `ps`, from the models of /api/ps; `prefix` ignores case."""
    rows = []
    for model in models:
        if not model["name"].lower().startswith(prefix.lower()):
            continue
        expires_at = datetime.fromisoformat(model["expires_at"])
        rows.append(
            (
                model["name"],
                model["digest"][:12],
                human_bytes(model["size"]),
                processor(model["size"], model["size_vram"]),
                str(model["context_length"]),
                "Stopping..." if expires_at < now else relative_time(expires_at, now),
            )
        )
    return table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)
