"""`appliance completion`: what makes a shell complete commands, flags, files and the names of models."""

from __future__ import annotations

import os
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import rich_click as click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class
from click.shell_completion import split_arg_string as split_line

from appliance.errors import ApplianceError

SHELLS = ("bash", "zsh", "fish")
TIMEOUT_S = 1.0  # the longest that the Tab key may take to learn models' names


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands.

    The script of bash, zsh or fish completes commands, flags, files and the names of models. To try it:
    source <(appliance completion bash)
    """
    kind = get_completion_class(shell)
    assert kind
    click.echo(kind(context.find_root().command, {}, "appliance", "_APPLIANCE_COMPLETE").source())


def model_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The installed models whose names start like this; none when no server answers."""
    return _names("/api/tags", context, parameter, incomplete)


def loaded_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The models in memory whose names start like this."""
    return _names("/api/ps", context, parameter, incomplete)


def models_and_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Installed models, and files."""
    return [*model_names(context, parameter, incomplete), CompletionItem(incomplete, type="file")]


def _names(path: str, context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    from appliance.cli.client import connect

    quiet = redirect_stderr(StringIO())  # a warning would be written into the line that is being typed
    try:
        with quiet, connect(TIMEOUT_S) as client:
            models: list[dict[str, Any]] = client.call("GET", path).get("models") or []
    except ApplianceError:
        return []
    given = context.params.get(parameter.name or "") or ()
    names = (model["name"] for model in models)
    return [CompletionItem(name) for name in names if name.lower().startswith(incomplete.lower()) and name not in given]


class _Bash(BashComplete):
    """Bash takes the colon in a model's name for the end of a word, which click's own script does not expect."""

    source_template = """\
%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" before="" type value IFS=$'\\n'
    local current="${line##*[[:space:]]}"
    if [[ $COMP_WORDBREAKS == *:* && $current == *:* ]]; then
        before="${current%%"${current##*:}"}"
    fi
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            plain) COMPREPLY+=("${value#"$before"}") ;;
            dir) compopt -o filenames; COMPREPLY+=($(compgen -d -- "$2")) ;;
            file) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$2")) ;;
        esac
    done < <(COMP_LINE="$line" %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def source(self) -> str:
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_line(line)
        incomplete = words.pop() if line.strip() == line.lstrip() else ""
        return words[1:], incomplete


add_completion_class(_Bash)
