"""`appliance push`: a model to a registry."""

from __future__ import annotations

import rich_click as click

from appliance.cli.client import connect
from appliance.cli.completion import model_names
from appliance.cli.pull import insecure_option, transfer


@click.command("push")
@click.argument("model", shell_complete=model_names)
@insecure_option
def command(model: str, insecure: bool) -> None:
    """Send MODEL to the registry that its name says: HOST/NAMESPACE/MODEL:TAG."""
    with connect() as client:
        transfer(client, "/api/push", model, insecure)
