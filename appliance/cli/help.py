"""`appliance help`: the same as --help."""

from __future__ import annotations

import rich_click as click


@click.command("help")
@click.argument("name", metavar="[COMMAND]", default="")
@click.pass_context
def command(context: click.Context, name: str) -> None:
    """Say what COMMAND does, and its flags."""
    root = context.find_root()
    if not name:
        click.echo(root.get_help())
        return
    assert isinstance(root.command, click.Group)
    found = root.command.get_command(root, name)
    if found is None:
        raise click.UsageError(f"No such command '{name}'.")
    click.echo(found.get_help(found.context_class(found, info_name=found.name, parent=root)))
