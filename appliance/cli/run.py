"""`appliance run`: one answer, or a conversation; of an embedding model, the vector of a text."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import rich_click as click

from appliance.cli.completion import model_names
from appliance.config import load_settings
from appliance.errors import ApplianceError
from appliance.setting_values import parse_duration_s

if TYPE_CHECKING:
    from appliance.cli.session import Session

ALONE = {"--think": "--think=true", "--truncate": "--truncate=true"}


class _RunCommand(click.RichCommand):
    """Lets these options stand alone: without this the word after one would be taken for its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [ALONE.get(word, word) for word in args])


@click.command("run", cls=_RunCommand)
@click.argument("model", shell_complete=model_names)
@click.argument("prompt", nargs=-1)
@click.option("--keepalive", metavar="DURATION", help="How long the model stays loaded (e.g. 5m).")
@click.option("--verbose", is_flag=True, help="Show timings after each answer.")
@click.option("--nowordwrap", is_flag=True, help="Don't break lines at words.")
@click.option("--format", "answer_format", metavar="FORMAT", help="Format of the answer: json, or a JSON schema.")
@click.option("--think", metavar="LEVEL", help="Think: true, false, low, medium, high or max; alone it means true.")
@click.option("--hidethinking", is_flag=True, help="Leave the thinking out.")
@click.option("--insecure", is_flag=True, help="If the model has to be pulled: allow a registry without TLS.")
@click.option("--truncate", type=bool, metavar="BOOL", help="Embeddings: cut what is too long (the default), or fail.")
@click.option("--dimensions", type=int, metavar="N", help="Embeddings: only the first N numbers of the vector.")
def command(
    model: str,
    prompt: tuple[str, ...],
    keepalive: str | None,
    verbose: bool,
    nowordwrap: bool,
    answer_format: str | None,
    think: str | None,
    hidethinking: bool,
    insecure: bool,
    truncate: bool | None,
    dimensions: int | None,
) -> None:
    """Answer PROMPT, or talk when there is none.

    What is piped in comes before PROMPT. A model that is not installed is pulled. Paths of images in PROMPT are shown
    to a model that sees. An embedding model prints the vector of PROMPT as a JSON array.
    """
    from appliance.cli.client import connect
    from appliance.cli.session import Session, think_value

    interactive = sys.stdin is not None and sys.stdin.isatty()
    piped = "" if interactive else _piped()
    text = " ".join(part for part in (piped, *prompt) if part)
    with connect() as client:
        session = Session(
            client,
            model,
            format=_format(answer_format),
            think=think_value(think) if think else None,
            keep_alive_s=_seconds(keepalive),
            word_wrap=not nowordwrap and not piped,
            hide_thinking=hidethinking,
            verbose=verbose,
        )
        facts = _facts(session, insecure)
        session.begin(facts)
        if "embedding" in session.capabilities:
            if not text:
                raise ApplianceError(f'embedding models need a text: appliance run {model} "your text"')
            click.echo(json.dumps(session.embed(text, truncate, dimensions), separators=(",", ":")))
        elif text or not interactive or not sys.stdout.isatty():
            try:
                session.generate(text)
            except KeyboardInterrupt:
                click.echo()
        else:
            _talk(session)


def _talk(session: Session) -> None:
    from rich.console import Console

    from appliance.cli.history import history_path
    from appliance.cli.reader import Reader
    from appliance.cli.repl import loop

    with Console(stderr=True).status(f"loading {session.model}"):
        session.load()
    keeping = not load_settings({}, os.environ).nohistory
    click.echo("Ask something; /? lists commands.", err=True)
    session.replay()
    loop(session, Reader(history_path(os.environ), keeping))


def _facts(session: Session, insecure: bool) -> dict[str, Any]:
    """The model's /api/show answer; the model is pulled if it is missing."""
    from appliance.cli.client import RequestFailed
    from appliance.cli.progress import Statuses

    try:
        return session.show()
    except RequestFailed as error:
        if error.status != 404:
            raise
    with Statuses() as statuses:
        for event in session.client.stream("/api/pull", {"model": session.model, "insecure": insecure}):
            statuses.show(event.get("status", ""), event.get("completed", 0), event.get("total", 0), in_bytes=True)
    return session.show()


def _piped() -> str:
    if sys.stdin is None:  # closed
        return ""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ApplianceError(f"standard input is not text in {error.encoding}") from error


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = parse_duration_s(text)
    except ValueError as error:
        raise ApplianceError(f'invalid value "{text}" for --keepalive: {error}') from error
    return -1 if seconds == float("inf") else seconds


def _format(text: str | None) -> Any:
    if text is None or text == "json":
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ApplianceError("invalid value for --format: neither json nor a JSON schema") from error
