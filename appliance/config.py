"""Settings: built-in defaults < config.toml < environment < flags. Each value knows where it came from.

The environment is read the way Ollama reads it (blanks and quotes stripped, Go's ParseBool, a bad number
leaves the value below it in force, with a warning). The config file and flags are ours and strict: an unknown
key or a bad value is an error that names it.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from appliance.bundle import KV_TYPES, RECIPES
from appliance.errors import InvalidSetting
from appliance.setting_values import (
    DEFAULT_PORT,
    clean,
    integer,
    one_of,
    parse_address,
    parse_bool,
    parse_endpoint,
    parse_keep_alive_s,
    parse_kv_cache_type,
    parse_level,
    parse_list,
    parse_path,
    parse_timeout_s,
)

log = logging.getLogger(__name__)

DEFAULT_STEP_MS = 150
DEFAULT_PREFIX_CACHE_BYTES = 256 * 2**20
DEFAULT_DISK_FLOOR_BYTES = 500 * 10**6
PROVIDERS = ("auto", "cpu", "cuda", "directml")
AUTO = "auto"
SPINNING = (AUTO, "on", "off")
SPECULATING = (AUTO, "on", "off")


def _setting(default: Any, variable: str, parse: Callable[[str], Any], doc: str) -> Any:
    return field(default=default, metadata={"doc": doc, "variable": variable, "parse": parse})


@dataclass(frozen=True)
class Settings:
    """All that can be set. The key in config.toml is the field's name, the flag is its name with dashes."""

    host: str = _setting(
        "127.0.0.1",
        "OLLAMA_HOST",
        str,
        "Address to listen on, also as host:port or URL; `:port` is every interface",
    )
    port: int = _setting(DEFAULT_PORT, "OLLAMA_HOST", integer(0, 65535), "Port to listen on; 0 picks a free one")
    models: Path = _setting(  # noqa: RUF009
        Path("~/.ollama/models"),
        "OLLAMA_MODELS",
        parse_path,
        "Folder of the store: manifests, blobs and converted models",
    )
    keep_alive_s: float = _setting(
        300.0,
        "OLLAMA_KEEP_ALIVE",
        parse_keep_alive_s,
        "How long a model stays loaded after its last use: a duration or seconds; negative is forever",
    )
    load_timeout_s: float = _setting(
        300.0,
        "OLLAMA_LOAD_TIMEOUT",
        parse_timeout_s,
        "How long converting a model may go on without progress; 0 or less is no limit",
    )
    context_length: int = _setting(
        0,
        "OLLAMA_CONTEXT_LENGTH",
        integer(0),
        "Context in tokens where neither request nor model sets num_ctx; 0 is 4096",
    )
    num_parallel: int = _setting(
        4, "OLLAMA_NUM_PARALLEL", integer(1), "Requests that one model answers at the same time"
    )
    max_loaded_models: int = _setting(
        0, "OLLAMA_MAX_LOADED_MODELS", integer(0), "Models loaded at the same time; 0 is 3"
    )
    max_queue: int = _setting(512, "OLLAMA_MAX_QUEUE", integer(1), "Requests that may wait; one more is answered 503")
    origins: tuple[str, ...] = _setting(
        (), "OLLAMA_ORIGINS", parse_list, "Browser origins allowed besides the local ones, separated by commas"
    )
    debug: int = _setting(
        0, "OLLAMA_DEBUG", parse_level, "1 or more logs each request, and more of what happens inside"
    )
    disk_floor_bytes: int = _setting(
        DEFAULT_DISK_FLOOR_BYTES,
        "APPLIANCE_DISK_FLOOR_BYTES",
        integer(0),
        "Disk space that is left free: what would take it is refused, with status 507; 0 uses the disk up",
    )
    noprune: bool = _setting(False, "OLLAMA_NOPRUNE", parse_bool, "Keep blobs that no model uses")
    nohistory: bool = _setting(False, "OLLAMA_NOHISTORY", parse_bool, "Keep no history of what is typed in `run`")
    go_template: bool | None = _setting(
        None,
        "OLLAMA_GO_TEMPLATE",
        parse_bool,
        "Whether a model's TEMPLATE builds its prompts, or its file's chat template; unset, whichever can do more",
    )
    provider: str = _setting(
        "auto",
        "APPLIANCE_PROVIDER",
        one_of(PROVIDERS),
        f"ONNX Runtime execution provider: {', '.join(PROVIDERS)}",
    )
    threads: int = _setting(0, "APPLIANCE_THREADS", integer(0), "Threads of one model; 0 is one per physical core")
    spinning: str = _setting(
        "auto",
        "APPLIANCE_SPINNING",
        one_of(SPINNING),
        f"Whether idle threads spin for a moment before they sleep: {', '.join(SPINNING)}; "
        "auto does unless other processes are busy while the model loads",
    )
    prefill_chunk_tokens: int = _setting(
        256,
        "APPLIANCE_PREFILL_CHUNK_TOKENS",
        integer(1),
        "Prompt tokens read in one step, at most",
    )
    step_ms: int = _setting(
        DEFAULT_STEP_MS,
        "APPLIANCE_STEP_MS",
        integer(1),
        "How long a step may read a prompt while others wait for their next token, in milliseconds",
    )
    recipe: str = _setting(
        AUTO,
        "APPLIANCE_RECIPE",
        one_of((AUTO, *RECIPES)),
        f"How models without a recipe of their own are converted: {AUTO}, {', '.join(RECIPES)}",
    )
    kv_cache_type: str = _setting(
        "f32",
        "OLLAMA_KV_CACHE_TYPE",
        parse_kv_cache_type,
        f"How keys and values are cached: {', '.join(KV_TYPES)}; f16 is taken as f32",
    )
    speculate: str = _setting(
        AUTO,
        "APPLIANCE_SPECULATE",
        one_of(SPECULATING),
        f"Guess tokens ahead and keep those that the model confirms: {', '.join(SPECULATING)}; auto does where that "
        "cannot change a text that would always be the same: not at temperature 0 with quantised weights",
    )
    memory_budget_bytes: int = _setting(
        0,
        "APPLIANCE_MEMORY_BUDGET_BYTES",
        integer(0),
        "Memory of the machine that models may use; 0 is 80 % of what is available",
    )
    prefix_cache_bytes: int = _setting(
        DEFAULT_PREFIX_CACHE_BYTES,
        "APPLIANCE_PREFIX_CACHE_BYTES",
        integer(0),
        "Most memory of each loaded model for the beginnings of past prompts; 0 shares no prompts at all",
    )
    prefix_snapshot_bytes: int = _setting(
        0,
        "APPLIANCE_PREFIX_SNAPSHOT_BYTES",
        integer(0),
        "Most disk space of each model for beginnings that many prompts share, to survive a restart; 0 keeps none",
    )
    offline: bool = _setting(
        False, "APPLIANCE_OFFLINE", parse_bool, "Neither pull nor push: never connect to another machine"
    )
    share: bool = _setting(
        False, "APPLIANCE_SHARE", parse_bool, "Let other machines pull this one's models: `/v2/`, as of a registry"
    )
    ca_file: Path | None = _setting(  # noqa: RUF009
        None,
        "SSL_CERT_FILE",
        parse_path,
        "Certificates (PEM) that registries are trusted by, instead of the system's: for a private authority",
    )
    hf_endpoint: str = _setting(
        "https://huggingface.co",
        "HF_ENDPOINT",
        parse_endpoint,
        "Where the models of hf.co are fetched from: the Hub or a mirror",
    )
    hf_token: str = field(
        default="",
        repr=False,
        metadata={
            "variable": "HF_TOKEN",
            "parse": str,
            "doc": "A token of Hugging Face, for models that are private or gated; only `hf_endpoint` sees it",
        },
    )
    registry_auth_file: Path = _setting(  # noqa: RUF009
        Path("~/.config/edge-appliance/auth.json"),
        "REGISTRY_AUTH_FILE",
        parse_path,
        "Names and passwords for registries, in the form of Podman's and Docker's auth.json; its owner's alone (0600)",
    )
    origin: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def origin_of(self, name: str) -> str:
        """Where the value of `name` came from: "default", "config file", "environment OLLAMA_X" or "flag"."""
        return self.origin.get(name, "default")


def setting_fields() -> tuple[Field[Any], ...]:
    """The fields of Settings that can be set; metadata: `doc`, `variable`, `parse` (text to value)."""
    return tuple(each for each in fields(Settings) if each.metadata)


def config_path(environ: Mapping[str, str]) -> Path:
    """Where config.toml is looked for: $XDG_CONFIG_HOME/edge-appliance/, else ~/.config/edge-appliance/."""
    base = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "edge-appliance" / "config.toml"


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str], config_file: Path | None = None) -> Settings:
    """Settings from all four sources. Flags are text by field name; None and absent flags say nothing.

    `config_file` None reads the default one if it is there. Raises InvalidSetting for a config file that is
    missing (when named), unreadable, or has an unknown key, and for a bad value in it or in a flag; logs a
    warning for a bad value in the environment.
    """
    values: dict[str, Any] = {
        each.name: each.default.expanduser() for each in setting_fields() if isinstance(each.default, Path)
    }
    origin: dict[str, str] = {}
    for name, value, source in (
        *_from_file(config_file, environ),
        *_from_environment(environ),
        *_from_flags(flags),
    ):
        values[name] = value
        origin[name] = source
    return Settings(**values, origin=origin)


def unread_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables named like ours or Ollama's that are set and change nothing here: worth a warning."""
    read = {each.metadata["variable"] for each in setting_fields()} | {"OLLAMA_NO_CLOUD"}  # see cloud.py
    return sorted(name for name in environ if name.startswith(("OLLAMA_", "APPLIANCE_")) and name not in read)


_Found = Iterator[tuple[str, Any, str]]


def _from_file(config_file: Path | None, environ: Mapping[str, str]) -> _Found:
    path = config_file or config_path(environ)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if config_file is not None:
            raise InvalidSetting(f"config file {path} does not exist") from None
        return
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"config file {path} cannot be read: {error}") from error
    yield from _strict(table, "config file", f"config file {path}: ")


def _from_flags(flags: Mapping[str, Any]) -> _Found:
    given = {name: value for name, value in flags.items() if value is not None}
    yield from _strict(given, "flag", "--")


def _strict(table: Mapping[str, Any], source: str, where: str) -> _Found:
    known = {each.name: each for each in setting_fields()}
    for name, raw in sorted(table.items()):  # host before port: a port of its own wins over the address's
        if name not in known:
            raise InvalidSetting(f"{where}unknown key {name!r}; known: {', '.join(known)}")
        try:
            yield from _parsed(known[name], _text(raw), source)
        except ValueError as error:
            raise InvalidSetting(f"{where}{name} {error}, not {raw!r}") from error


def _from_environment(environ: Mapping[str, str]) -> _Found:
    for each in setting_fields():
        variable = each.metadata["variable"]
        text = clean(environ.get(variable, ""))
        if not text or each.name == "port":  # the port comes with the host
            continue
        source = f"environment {variable}"
        try:
            yield from _parsed(each, text, source)
        except ValueError as error:
            if each.metadata["parse"] is parse_bool:
                yield each.name, True, source
            else:
                log.warning("%s %s, not %r; it is ignored", variable, error, text)


def _parsed(each: Field[Any], text: str, source: str) -> _Found:
    if each.name != "host":
        yield each.name, each.metadata["parse"](text), source
        return
    address = parse_address(text)
    yield "host", address.host, source
    if address.port is not None:
        yield "port", address.port, source


def _text(raw: Any) -> str:
    """A TOML value or a flag as the text that an environment variable would hold."""
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, (list, tuple)) and all(isinstance(part, str) for part in raw):
        return ",".join(raw)
    if isinstance(raw, (str, int, float, Path)):
        return str(raw)
    raise ValueError("must be a text, a number, a boolean or a list of texts")
