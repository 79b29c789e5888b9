"""An application around a scripted service: called directly, or served on a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from litestar import Litestar
from litestar.testing import TestClient

from api.app import create_app
from tests.api.fake import FakeService, FakeSettings


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service: FakeService) -> Iterator[TestClient[Litestar]]:
    with TestClient(create_app(service, FakeSettings())) as client:
        client.follow_redirects = False
        yield client


@pytest.fixture
def port(service: FakeService) -> Iterator[int]:
    """The port of a real server around `service`."""
    config = uvicorn.Config(create_app(service, FakeSettings()), port=0, log_config=None, ws="none", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
