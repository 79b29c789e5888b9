"""`appliance rm`: remove models."""

from __future__ import annotations

import rich_click as click

from appliance.cli.client import RequestFailed, connect
from appliance.cli.completion import model_names
from appliance.cli.stop import unload


@click.command("rm")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, shell_complete=model_names)
def command(models: tuple[str, ...]) -> None:
    """Remove each MODEL, unloading it first."""
    with connect() as client:
        for model in models:
            try:
                unload(client, model)
            except RequestFailed as error:
                if "not found" not in str(error):
                    click.echo(f"Warning: unable to stop model '{model}'", err=True)
            client.call("DELETE", "/api/delete", {"model": model})
            click.echo(f"deleted '{model}'")
