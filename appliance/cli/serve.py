"""`appliance serve`: the server, in the foreground."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import rich_click as click

from appliance.config import load_settings, setting_fields, unread_variables

log = logging.getLogger(__name__)


@click.command("serve", aliases=["start"])
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Read this config.toml.")
def command(config: Path | None, **flags: Any) -> None:
    """Start the server; Ctrl+C stops it.

    Every flag can also be set in config.toml or by an environment variable.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs URLs, and those of downloads may be secrets
    settings = load_settings(flags, os.environ, config)
    if settings.debug:
        logging.getLogger("appliance").setLevel(logging.DEBUG)
    for variable in unread_variables(os.environ):
        log.warning("%s is set but has no effect on this server", variable)
    from appliance.daemon import run  # here, so that the other commands start without engine and web framework

    with suppress(KeyboardInterrupt):  # the server has shut down in order and then passes the signal on
        run(settings)


_PANELS = {
    "Network": ("host", "port", "origins", "max_queue", "share"),
    "Models": (
        "models", "keep_alive_s", "load_timeout_s", "context_length", "num_parallel", "max_loaded_models", "recipe",
        "kv_cache_type",
    ),
    "Memory and disk": (
        "memory_budget_bytes", "prefix_cache_bytes", "prefix_snapshot_bytes", "disk_floor_bytes", "noprune",
    ),
    "Speed": ("provider", "threads", "spinning", "speculate", "prefill_chunk_tokens", "step_ms"),
}  # fmt: skip
for _field in setting_fields():
    _switch = isinstance(_field.default, bool)
    command.params.append(
        click.RichOption(
            [f"--{_field.name.replace('_', '-')}"],
            metavar="[VALUE]" if _switch else "VALUE",
            is_flag=False,
            flag_value="1" if _switch else None,
            help=f"{_field.metadata['doc']} [{_field.metadata['variable']}]",
            panel=next((panel for panel, names in _PANELS.items() if _field.name in names), None),
        )
    )
