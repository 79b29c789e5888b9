"""Commands of Ollama's that have no meaning here: each says so in one line."""

from __future__ import annotations

import rich_click as click

from appliance.errors import ApplianceError

_NO_ACCOUNT = "there are no accounts here; models and questions stay on this machine"
REASONS = {
    "signin": _NO_ACCOUNT,
    "signout": _NO_ACCOUNT,
    "launch": "launching other programs is not this one's work; point them at this server with OLLAMA_HOST",
}
"""The commands, and what they say."""


def absent(name: str) -> click.Command:
    """The command that says why there is no `name`, whatever its arguments."""

    def refuse() -> None:
        raise ApplianceError(f"{name}: {REASONS[name]}")

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, callback=refuse, hidden=True, context_settings=settings, help=REASONS[name])
