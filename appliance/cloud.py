"""Whether somebody has switched Ollama's cloud off. This server never reaches one; it only tells who asks."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from appliance.setting_values import clean, parse_bool

log = logging.getLogger(__name__)

CloudSwitch = Literal["none", "env", "config", "both"]
VARIABLE = "OLLAMA_NO_CLOUD"


def switched_off_by(environ: Mapping[str, str], home: Path) -> CloudSwitch:
    """Where the cloud is switched off: the variable OLLAMA_NO_CLOUD, Ollama's own server.json, both or neither."""
    by_env, by_config = _in_environment(environ), _in_config(home / ".ollama" / "server.json")
    if by_env and by_config:
        return "both"
    return "env" if by_env else "config" if by_config else "none"


def _in_environment(environ: Mapping[str, str]) -> bool:
    text = clean(environ.get(VARIABLE, ""))
    try:
        return bool(text) and parse_bool(text)
    except ValueError:  # any other text is true, as everywhere in Ollama's environment
        return True


def _in_config(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return False
    return isinstance(found, dict) and found.get("disable_ollama_cloud") is True
