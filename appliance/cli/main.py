"""`appliance`: the command line, one file per command. Importing it must stay cheap: no engine, no web framework."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rich_click as click
from click.exceptions import Abort, ClickException

from appliance import __version__
from appliance.cli.client import Unreachable, connect
from appliance.cli.convert import convert
from appliance.cli.cp import cp
from appliance.cli.create import create
from appliance.cli.doctor import doctor
from appliance.cli.inspect import inspect_model
from appliance.cli.list import list_models
from appliance.cli.ps import ps
from appliance.cli.rm import rm
from appliance.cli.run import run
from appliance.cli.serve import serve
from appliance.cli.show import show
from appliance.cli.stop import stop
from appliance.errors import ApplianceError


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    click.echo(f"appliance version is {__version__}")
    try:
        with connect() as client:
            click.echo(f"Ollama API version is {client.call('GET', '/api/version').get('version', 'unknown')}")
    except Unreachable:
        click.echo("Warning: could not connect to a running appliance", err=True)
    context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.option(
    "-v", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show version information.",
)  # fmt: skip
@click.pass_context
def cli(context: click.Context) -> None:
    """Local language models on ONNX Runtime, served with the Ollama API."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (serve, create, show, run, stop, list_models, ps, cp, rm, convert, inspect_model, doctor):
    cli.add_command(_command, aliases=_command.aliases)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 1 with `Error: ...` on stderr for anything else."""
    try:
        code = cli.main(args=arguments, prog_name="appliance", standalone_mode=False)
    except ApplianceError as error:
        message = str(error)
    except ClickException as error:
        message = error.format_message()
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except (Abort, KeyboardInterrupt):
        message = "interrupted"
    else:
        sys.exit(code if isinstance(code, int) else 0)
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(1)
