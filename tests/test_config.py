"""Settings: where each value comes from, and what happens to bad ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from appliance.config import Settings, config_path, load_settings, setting_fields, unread_variables
from appliance.errors import InvalidSetting
from appliance.setting_values import Address, parse_address, parse_duration_s


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment without a config file."""
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_defaults(environ: Mapping[str, str]) -> None:
    settings = load_settings({}, environ)
    assert (settings.host, settings.port) == ("127.0.0.1", 11434)
    assert settings.models == Path.home() / ".ollama" / "models"
    assert settings.keep_alive_s == 300
    assert {settings.origin_of(each.name) for each in setting_fields()} == {"default"}


@pytest.mark.parametrize("text", ["-1", "1e12", "1e300", "inf", "3000000h"])
def test_a_keep_alive_beyond_all_dates_is_for_ever(environ: dict[str, str], text: str) -> None:
    assert load_settings({}, environ | {"OLLAMA_KEEP_ALIVE": text}).keep_alive_s == math.inf


def test_each_source_wins_over_the_one_below(file: Path, environ: dict[str, str]) -> None:
    file.write_text("num_parallel = 1\nmax_queue = 1\nthreads = 1\n")
    environ |= {"OLLAMA_NUM_PARALLEL": "2", "OLLAMA_MAX_QUEUE": "2"}
    settings = load_settings({"num_parallel": "3", "debug": None}, environ, file)
    assert (settings.num_parallel, settings.max_queue, settings.threads, settings.debug) == (3, 2, 1, 0)
    assert settings.origin_of("num_parallel") == "flag"
    assert settings.origin_of("max_queue") == "environment OLLAMA_MAX_QUEUE"
    assert settings.origin_of("threads") == "config file"
    assert settings.origin_of("debug") == "default"


def test_the_default_config_file_is_read_when_it_is_there(environ: Mapping[str, str]) -> None:
    path = config_path(environ)
    path.parent.mkdir(parents=True)
    path.write_text('keep_alive_s = "1h30m"\norigins = ["http://a", "http://b"]\nnoprune = true\n')
    settings = load_settings({}, environ)
    assert settings.keep_alive_s == 5400
    assert settings.origins == ("http://a", "http://b")
    assert settings.noprune is True


def test_a_named_config_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"nowhere\.toml does not exist"):
        load_settings({}, {}, tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_paralel = 2", "unknown key 'num_paralel'"),
        ("num_parallel = 0", "num_parallel must be at least 1, not 0"),
        ("num_parallel = 1.5", "num_parallel must be a whole number, at least 1, not 1.5"),
        ("port = 70000", "port must be from 0 to 65535, not 70000"),
        ('noprune = "perhaps"', "noprune must be true or false, not 'perhaps'"),
        ('provider = "tpu"', "provider must be one of auto, cpu, cuda, directml, not 'tpu'"),
        ('keep_alive_s = "5 minutes"', "keep_alive_s must be seconds or a duration such as 5m"),
        ("host = {a = 1}", "host must be a text"),
        ("host = ", "cannot be read"),
    ],
)
def test_the_config_file_is_strict(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidSetting) as raised:
        load_settings({}, {}, file)
    assert message in str(raised.value)
    assert str(file) in str(raised.value)


def test_flags_are_strict(environ: Mapping[str, str]) -> None:
    with pytest.raises(InvalidSetting, match=r"^--threads must be a whole number, at least 0, not 'many'$"):
        load_settings({"threads": "many"}, environ)


def test_a_bad_number_in_the_environment_leaves_the_value_below_in_force(
    file: Path, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text("max_queue = 7\n")
    settings = load_settings({}, environ | {"OLLAMA_MAX_QUEUE": "lots", "OLLAMA_NUM_PARALLEL": "-2"}, file)
    assert (settings.max_queue, settings.num_parallel) == (7, 4)
    assert settings.origin_of("max_queue") == "config file"
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "OLLAMA_MAX_QUEUE" in caplog.text
    assert "OLLAMA_NUM_PARALLEL" in caplog.text


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("t", True), ("TRUE", True), ("0", False), ("False", False), ("", False), ("off", True)],
)
def test_booleans_of_the_environment(environ: dict[str, str], text: str, value: bool) -> None:
    assert load_settings({}, environ | {"OLLAMA_NOPRUNE": text}).noprune is value


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("true", 1), ("2", 2), ("false", 0), ("loud", 0)])
def test_debug_is_a_boolean_or_a_level(environ: dict[str, str], text: str, value: int) -> None:
    assert load_settings({}, environ | {"OLLAMA_DEBUG": text}).debug == value


def test_blanks_and_quotes_around_a_variable_are_dropped(environ: dict[str, str]) -> None:
    settings = load_settings({}, environ | {"OLLAMA_MODELS": ' "/srv/models" ', "OLLAMA_HOST": "'0.0.0.0'"})
    assert settings.models == Path("/srv/models")
    assert settings.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("0", 0), ("90", 90), ("-1", math.inf), ("-1m", math.inf), ("1.5h", 5400)]
)
def test_keep_alive(environ: dict[str, str], text: str, seconds: float) -> None:
    assert load_settings({}, environ | {"OLLAMA_KEEP_ALIVE": text}).keep_alive_s == seconds


@pytest.mark.parametrize(("text", "seconds"), [("0", math.inf), ("-5m", math.inf), ("30s", 30)])
def test_load_timeout(environ: dict[str, str], text: str, seconds: float) -> None:
    assert load_settings({}, environ | {"OLLAMA_LOAD_TIMEOUT": text}).load_timeout_s == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("1h2m3s", 3723), ("500ms", 0.5), ("-1.5h", -5400), (".5s", 0.5), ("42.5", 42.5), ("-1", -1)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "5 m", "5x", "1h-2m", "nan", "5m5"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="must be seconds or a duration"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", Address("http", "127.0.0.1", None, "")),
        ("1.2.3.4", Address("http", "1.2.3.4", None, "")),
        ("1.2.3.4:5678", Address("http", "1.2.3.4", 5678, "")),
        (":1234", Address("http", "0.0.0.0", 1234, "")),
        ("::1", Address("http", "::1", None, "")),
        ("[::1]", Address("http", "::1", None, "")),
        ("[0:0::1]:1337", Address("http", "::1", 1337, "")),
        ("box.local", Address("http", "box.local", None, "")),
        ("http://box.local", Address("http", "box.local", 80, "")),
        ("https://box.local", Address("https", "box.local", 443, "")),
        ("https://box.local:8443/llm/", Address("https", "box.local", 8443, "llm")),
        ("box.local/llm", Address("http", "box.local", None, "llm")),
        ("1.2.3.4:66000", Address("http", "1.2.3.4", 11434, "")),
        ("https://1.2.3.4:x", Address("https", "1.2.3.4", 443, "")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


def test_a_host_without_a_port_keeps_the_port_of_the_source_below(file: Path, environ: dict[str, str]) -> None:
    file.write_text('host = "10.0.0.1:8080"\n')
    settings = load_settings({}, environ | {"OLLAMA_HOST": "0.0.0.0"}, file)
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    assert settings.origin_of("port") == "config file"


def test_a_port_of_its_own_wins_over_the_one_in_the_host(environ: Mapping[str, str]) -> None:
    settings = load_settings({"port": "2", "host": "a:1"}, environ)
    assert (settings.host, settings.port) == ("a", 2)


def test_variables_that_change_nothing_are_found() -> None:
    environ = {"OLLAMA_HOST": "x", "OLLAMA_FLASH_ATTENTION": "1", "APPLIANCE_TREADS": "2", "PATH": "/bin"}
    assert unread_variables(environ) == ["APPLIANCE_TREADS", "OLLAMA_FLASH_ATTENTION"]


@pytest.mark.parametrize(("text", "kept"), [("q8_0", "q8_0"), ("Q8_0", "q8_0"), ("f32", "f32"), ("F16", "f32")])
def test_kv_cache_types(environ: dict[str, str], caplog: pytest.LogCaptureFixture, text: str, kept: str) -> None:
    assert load_settings({}, environ | {"OLLAMA_KV_CACHE_TYPE": text}).kv_cache_type == kept
    assert ("keys and values are kept in float32" in caplog.text) is (text == "F16")


def test_a_kv_cache_type_that_there_is_not(environ: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    assert load_settings({}, environ | {"OLLAMA_KV_CACHE_TYPE": "q4_0"}).kv_cache_type == "f32"
    assert "OLLAMA_KV_CACHE_TYPE must be one of f32, q8_0, not 'q4_0'; it is ignored" in caplog.text
    with pytest.raises(InvalidSetting, match="must be one of f32, q8_0, not 'q4_0'"):
        load_settings({"kv_cache_type": "q4_0"}, environ)


def test_settings_can_be_made_by_hand_for_tests(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path, port=0)
    assert settings.origin_of("models") == "default"
    assert settings.recipe == "auto"


@pytest.mark.parametrize("text", ["mirror.example", "ftp://mirror.example", "https://", "https://mirror.example:x", ""])
def test_an_endpoint_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"--hf_endpoint must be an address like https://huggingface\.co, not"):
        load_settings({"hf_endpoint": text}, {})
    assert load_settings({"hf_endpoint": "http://mirror.example:8080/hub/"}, {}).hf_endpoint.endswith("/hub")
