"""`appliance pull`: a model from a registry."""

from __future__ import annotations

import rich_click as click

from appliance.cli.client import Client, connect
from appliance.cli.completion import model_names
from appliance.cli.progress import Statuses

insecure_option = click.option("--insecure", is_flag=True, help="Speak http with the registry, not https.")


@click.command("pull")
@click.argument("model", shell_complete=model_names)
@insecure_option
def command(model: str, insecure: bool) -> None:
    """Fetch MODEL from the registry that its name says, Ollama's where it says none.

    What was interrupted goes on where it ended.
    """
    with connect() as client:
        transfer(client, "/api/pull", model, insecure)


def transfer(client: Client, path: str, model: str, insecure: bool) -> None:
    """Have the server pull or push a model, and show its progress. Raises RequestFailed."""
    with Statuses() as statuses:
        for event in client.stream(path, {"model": model, "insecure": insecure}):
            status, completed, total = event.get("status", ""), event.get("completed", 0), event.get("total", 0)
            statuses.show(status, completed, total, in_bytes=True)
