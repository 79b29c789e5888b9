"""`appliance cp`: a second name for a model."""

from __future__ import annotations

import rich_click as click

from appliance.cli.client import connect
from appliance.cli.completion import model_names


@click.command("cp")
@click.argument("source", shell_complete=model_names)
@click.argument("destination")
def command(source: str, destination: str) -> None:
    """Copy the model SOURCE to the name DESTINATION."""
    with connect() as client:
        client.call("POST", "/api/copy", {"source": source, "destination": destination})
    click.echo(f"copied '{source}' to '{destination}'")
