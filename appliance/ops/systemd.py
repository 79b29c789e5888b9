"""Talking to systemd: the sd_notify protocol, from sd_notify(3), without a library.

Outside of systemd (no NOTIFY_SOCKET) every call does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


def notify(*states: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send states such as "READY=1", "STOPPING=1", "STATUS=serving", "WATCHDOG=1" in one datagram.

    Returns whether something was sent. A path that starts with `@` names an abstract socket. A service manager
    that does not listen is logged, not raised: the appliance serves on.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall("\n".join(states).encode())
    except OSError as error:
        log.warning("could not notify systemd: %s", error)
        return False
    return True


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often to send "WATCHDOG=1": half of what the unit's WatchdogSec allows; None: not asked for."""
    limit_us = environ.get("WATCHDOG_USEC", "")
    pid = environ.get("WATCHDOG_PID") or str(os.getpid())
    if not limit_us.isdecimal() or int(limit_us) == 0 or pid != str(os.getpid()):
        return None
    return int(limit_us) / 2e6
