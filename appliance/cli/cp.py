"""`appliance cp`: a second name for a model."""

from __future__ import annotations

import rich_click as click

from appliance.cli.client import connect


@click.command("cp")
@click.argument("source")
@click.argument("destination")
def cp(source: str, destination: str) -> None:
    """Copy the model SOURCE to the name DESTINATION."""
    with connect() as client:
        client.call("POST", "/api/copy", {"source": source, "destination": destination})
    click.echo(f"copied '{source}' to '{destination}'")
