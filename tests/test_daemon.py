"""What keeps the server from starting is said in one sentence."""

from __future__ import annotations

import gc
import socket
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Settings
from appliance.daemon import bind, open_store
from appliance.errors import ApplianceError


def test_a_taken_port_is_named_and_nothing_stays_open() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ApplianceError, match=f"cannot listen on 127.0.0.1:{port}: "):
            bind("127.0.0.1", port)
    gc.collect()  # a socket that is still open warns, and warnings are errors


@pytest.mark.parametrize("host", ["a..b", "x" * 300])
def test_an_impossible_host_is_named(host: str) -> None:
    with pytest.raises(ApplianceError, match="not a host name"):
        bind(host, 0)


def test_a_name_with_both_kinds_of_address_is_served_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(*_: Any, **__: Any) -> list[Any]:
        four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)), four]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with bind("localhost", 0) as listener:
        assert listener.family == socket.AF_INET


def test_a_models_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ApplianceError, match=r"cannot use the models folder .*file: "):
        open_store(Settings(models=tmp_path / "file")).__enter__()


def test_two_servers_do_not_share_a_store(tmp_path: Path) -> None:
    settings = Settings(models=tmp_path / "models")
    taken = pytest.raises(ApplianceError, match="another appliance already serves the models in")
    with open_store(settings), taken:
        open_store(settings).__enter__()
    with open_store(settings) as store:
        assert store.root == tmp_path / "models"
