"""`appliance`: the command line, one file per command. A command's file is imported when the command is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword

import rich_click as click
from click.exceptions import Abort, ClickException

from appliance import __version__
from appliance.cli.absent import REASONS, absent
from appliance.errors import ApplianceError

PANELS = {
    "Models": ("run", "list", "show", "create", "pull", "push", "cp", "rm"),
    "Server": ("serve", "ps", "stop", "doctor"),
    "Store": ("df", "prune", "verify", "export", "import"),
    "Files": ("inspect", "convert"),
    "Shell": ("completion", "help"),
}
"""Every command that help lists, in its order. `x` is the object `command` of appliance.cli.x (x_ for a keyword)."""
ALIASES = {"ls": "list", "start": "serve", "login": "signin", "logout": "signout"}


class _Commands(click.RichGroup):
    """Imports a command when it is asked for. All of them are asked for by the list in the group's own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in PANELS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name in REASONS:
            return absent(name)
        if name not in self.list_commands(ctx):
            return None
        module = f"{name}_" if iskeyword(name) else name
        command: click.Command = import_module(f"appliance.cli.{module}").command
        return command


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from appliance.cli.client import RequestFailed, Unreachable, connect

    version, api_version = __version__, None
    try:
        with connect() as client:
            api_version = client.call("GET", "/api/version").get("version", "unknown")
            version = client.call("GET", "/api/stats").get("version", __version__)
    except Unreachable:
        click.echo("Warning: could not connect to a running appliance", err=True)
    except RequestFailed:
        pass  # another server with this API: it has no /api/stats
    click.echo(f"appliance version is {version}")
    if api_version:
        click.echo(f"Ollama API version is {api_version}")
    if version != __version__:
        click.echo(f"Warning: client version is {__version__}", err=True)
    context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.option(
    "-v", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show version information.",
)  # fmt: skip
@click.pass_context
def cli(context: click.Context) -> None:
    """Local language models on ONNX Runtime, served with the Ollama API."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _panel, _names in PANELS.items():
    cli.add_panel(click.RichCommandPanel(_panel, commands=list(_names)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 1 with `Error: ...` on stderr for anything else."""
    if "_APPLIANCE_COMPLETE" in os.environ:  # set by a shell that asks what could stand next
        import_module("appliance.cli.completion")
    try:
        code = cli.main(args=arguments, prog_name="appliance", standalone_mode=False)
    except ApplianceError as error:
        message = str(error)
    except ClickException as error:
        message = error.format_message()
    except BrokenPipeError:  # who read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except (Abort, KeyboardInterrupt):
        message = "interrupted"
    else:
        sys.exit(code if isinstance(code, int) else 0)
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(1)
