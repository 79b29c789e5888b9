"""The interactive loop of `run`: what is typed is a question, or a command that starts with a slash."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import rich_click as click

from appliance.cli.list import print_models
from appliance.cli.reader import Reader
from appliance.cli.repl_help import HELP, HELP_PARAMETERS, HELP_SET, HELP_SHOW, HELPS
from appliance.cli.session import Session
from appliance.cli.show import show_text
from appliance.errors import ApplianceError
from appliance.store.modelfile import parameter_text
from appliance.store.parameters import read_parameter

_WORDS = re.compile(r'"([^"]+)"(?!\S)|(\S+)')
_NOTHING = {
    "license": "No license was specified for this model.",
    "modelfile": "",
    "system": "No system message was specified for this model.",
    "template": "No prompt template was specified for this model.",
}


def loop(session: Session, reader: Reader) -> None:
    """Ask and answer until /bye or Ctrl+D. An error ends one turn, not the loop."""
    while True:
        try:
            entry = reader.read()
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo("\nUse Ctrl + d or /bye to exit.")
            continue
        word = entry.split(maxsplit=1)[0] if entry.strip() else ""
        if word in ("/bye", "/exit"):
            return
        try:
            if not word.startswith("/") or "/" in word[1:]:  # a path may come first
                if word:
                    session.chat(entry)
            elif word in _COMMANDS:
                _COMMANDS[word](session, reader, entry.strip()[len(word) :].strip())
            else:
                click.echo(f"Unknown command '{word}'. Type /? for help")
        except ApplianceError as error:
            click.echo(f"Error: {error}", err=True)
        except KeyboardInterrupt:
            click.echo()


def _help(_: Session, __: Reader, topic: str) -> None:
    click.echo(HELPS.get(topic.removeprefix("/"), HELP))


def _load(session: Session, _: Reader, name: str) -> None:
    if not name:
        click.echo("Usage:\n  /load <modelname>")
        return
    click.echo(f"Loading model '{name}'")
    session.switch(name)
    session.replay()


def _save(session: Session, _: Reader, name: str) -> None:
    if not name:
        click.echo("Usage:\n  /save <modelname>")
        return
    session.save(name)
    click.echo(f"Created new model '{name}'")


def _clear(session: Session, _: Reader, __: str) -> None:
    session.messages.clear()
    click.echo("Cleared session context")


def _list(session: Session, _: Reader, prefix: str) -> None:
    print_models(session.client, prefix)


def _show(session: Session, _: Reader, part: str) -> None:
    if part != "info" and part != "parameters" and part not in _NOTHING:
        click.echo(HELP_SHOW)
        return
    facts = session.show()
    if part == "info":
        click.echo(show_text(facts), nl=False)
    elif part == "parameters":
        click.echo(_parameters(session, facts))
    elif part == "system" and session.system:
        click.echo(session.system)
    else:
        click.echo(facts.get(part) or _NOTHING[part])


def _parameters(session: Session, facts: Mapping[str, Any]) -> str:
    model = facts.get("parameters") or "No additional parameters were specified."
    lines = ["Model defined parameters:", *(f"  {line}" for line in model.splitlines())]
    lines += ["", "User defined parameters:"]
    for name, value in session.options.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"  {name:<30} {parameter_text(each)}" for each in values]
    return "\n".join(lines if session.options else [*lines, "  No parameters were specified"]) + "\n"


def _set(session: Session, reader: Reader, rest: str) -> None:
    name, _, value = rest.partition(" ")
    value = value.strip()
    if name == "parameter":
        _set_parameter(session, value)
    elif name == "system":
        session.system = value
        click.echo("Set system message." if value else "Cleared system message.")
    elif name == "think":
        session.set_think(value)
        click.echo(f"Set 'think' mode to '{value}'." if value else "Set 'think' mode.")
    elif name == "format":
        if value != "json":
            raise ApplianceError("the format is missing or unknown; there is '/set format json'")
        session.format = "json"
        click.echo("Set format to 'json' mode.")
    elif name in ("history", "nohistory") and not value:
        reader.keeping = name == "history"
        click.echo(f"Set '{name}' mode.")
    elif name in _MODES and not value:
        attribute, state = _MODES[name]
        setattr(session, attribute, state)
        click.echo("Disabled format." if name == "noformat" else f"Set '{name}' mode.")
    else:
        click.echo(f"Unknown command '/set {rest}'. Type /? for help" if name else HELP_SET)


def _set_parameter(session: Session, rest: str) -> None:
    name, *values = (quoted or word for quoted, word in _WORDS.findall(rest)) if rest else ("",)
    if not values:
        click.echo(HELP_PARAMETERS)
        return
    value = read_parameter(name, values[0])
    several = isinstance(value, list)
    if len(values) > 1 and not several:
        raise ApplianceError(f"parameter '{name}' takes one value")
    session.options[name] = values if several else value
    click.echo(f"Set parameter '{name}' to '{', '.join(values)}'")


_MODES: dict[str, tuple[str, Any]] = {
    "wordwrap": ("word_wrap", True),
    "nowordwrap": ("word_wrap", False),
    "verbose": ("verbose", True),
    "quiet": ("verbose", False),
    "noformat": ("format", None),
    "nothink": ("think", False),
}
_COMMANDS: dict[str, Callable[[Session, Reader, str], None]] = {
    "/set": _set,
    "/show": _show,
    "/load": _load,
    "/save": _save,
    "/clear": _clear,
    "/list": _list,
    "/ls": _list,
    "/?": _help,
    "/help": _help,
}
