"""The composition root: settings in, a serving process out. The one place that knows every room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from api.app import create_app
from appliance import __version__
from appliance.cloud import switched_off_by
from appliance.config import Settings
from appliance.errors import ApplianceError
from appliance.memory import return_freed_memory
from appliance.ops import systemd
from appliance.ops.lock import sole_user
from appliance.service import Service
from appliance.store.store import Store

log = logging.getLogger(__name__)

BACKLOG = 2048
GRACE_S = 5
KEEP_ALIVE_S = 75


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises ApplianceError for an address or a models folder that cannot be used."""
    return_freed_memory()
    with bind(settings.host, settings.port) as listener, open_store(settings) as store:
        service = Service(settings, store, switched_off_by(os.environ, Path.home()))
        config = uvicorn.Config(
            create_app(service, settings),
            log_config=None,
            access_log=settings.debug > 0,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        host, port = listener.getsockname()[:2]
        log.info("edge appliance %s on http://%s:%d, models in %s", __version__, host, port, store.root)
        Daemon(config, service).run(sockets=[listener])


@contextlib.contextmanager
def open_store(settings: Settings) -> Iterator[Store]:
    """The store of the models folder, for this process alone. Raises ApplianceError that says why it cannot be used."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(sole_user(settings.models))
            store = Store(settings.models, settings.noprune, settings.disk_floor_bytes, settings.go_template)
        except OSError as error:
            raise ApplianceError(f"cannot use the models folder {settings.models}: {error.strerror}") from error
        yield store


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, IPv4 where a name has both. Raises ApplianceError that says what is wrong."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            stack.pop_all()
    except UnicodeError as error:
        raise ApplianceError(f"cannot listen on {host}:{port}: not a host name") from error
    except OSError as error:
        raise ApplianceError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


class Daemon(uvicorn.Server):
    """uvicorn, telling systemd how it is, and ending the models' work before it waits for connections."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._watchdog: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            systemd.notify("READY=1")
            if interval_s := systemd.watchdog_interval_s():
                self._watchdog = asyncio.create_task(keep_watchdog(interval_s))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        systemd.notify("STOPPING=1")
        if self._watchdog:
            self._watchdog.cancel()
        await self._service.close()
        await super().shutdown(sockets)


async def keep_watchdog(interval_s: float) -> None:
    """Tell systemd every `interval_s` that the event loop still turns."""
    while True:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)
