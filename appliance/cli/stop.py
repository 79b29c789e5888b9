"""`appliance stop`: take a model out of memory."""

from __future__ import annotations

import rich_click as click

from appliance.cli.client import Client, RequestFailed, connect
from appliance.cli.completion import loaded_names
from appliance.errors import ApplianceError


@click.command("stop")
@click.argument("model", shell_complete=loaded_names)
def command(model: str) -> None:
    """Take MODEL out of memory."""
    with connect() as client:
        try:
            unload(client, model)
        except RequestFailed as error:
            if "not found" in str(error):
                raise ApplianceError(f'couldn\'t find model "{model}" to stop') from error
            raise


def unload(client: Client, model: str) -> None:
    """Ask the server to drop the model from memory; raises RequestFailed."""
    client.call("POST", "/api/generate", {"model": model, "keep_alive": 0, "stream": False})
