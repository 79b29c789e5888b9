"""Commands that work with the server's store, or where no server runs on this machine with the store itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from appliance.cli.client import Client, RequestFailed, Unreachable, is_here, server_url
from appliance.config import load_settings
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.caretaker import Caretaker


UNKNOWN = "404 page not found"  # what a server says of a path it does not have


@contextmanager
def server() -> Iterator[Client | None]:
    """A client for the server; None if none runs, and would run on this machine. Raises Unreachable if elsewhere.

    What the server does not know raises an error that says so.
    """
    url = server_url(load_settings({}, os.environ), os.environ)
    with Client(url) as client:
        try:
            client.call("GET", "/api/version")
        except Unreachable:
            if not is_here(url):
                raise
            yield None
            return
        try:
            yield client
        except RequestFailed as error:
            if str(error) == UNKNOWN:
                raise ApplianceError(f"the server at {url} is another one, or older: it cannot do this") from error
            raise


@contextmanager
def caretaker(*, changing: bool, new: bool = False) -> Iterator[Caretaker]:
    """Who looks after the store where no server runs. To change it, it must be nobody else's meanwhile.

    Raises ApplianceError if there is none, and it may not be `new`.
    """
    from appliance import caretaker as care  # here, so that the other commands start without NumPy
    from appliance.ops.lock import sole_user
    from appliance.store.store import Store

    settings = load_settings({}, os.environ)
    if not new and not settings.models.is_dir():
        raise ApplianceError(f"there is no models folder {settings.models} yet")
    with sole_user(settings.models) if changing else contextlib.nullcontext():
        store = Store(settings.models, noprune=True, floor=settings.disk_floor_bytes, go_template=settings.go_template)
        yield care.caretaker(settings, store)
