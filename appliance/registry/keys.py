"""This server's key, with which it signs for registries of Ollama's kind: the file that Ollama has too.

Needs the extra [sign], which brings `cryptography`; without it registries are asked without a signature.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import RegistryError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = logging.getLogger(__name__)

KEY_FILE = "id_ed25519"  # beside the folder of the models


def sign(file: Path, url: str) -> str:
    """The Authorization header of a GET for a token, signed by the key in `file`, which is made if it is not there.

    "" where the extra is not installed. Raises RegistryError for a key that cannot be used.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        log.info("asking for a token without a signature: cryptography is not installed (the extra [sign])")
        return ""
    try:
        if not file.exists():
            _write(file, Ed25519PrivateKey.generate())
        key = serialization.load_ssh_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise RegistryError(f"the key {file.name} beside the models cannot be used: {_reason(error)}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise RegistryError(f"the key {file.name} beside the models cannot be used: it is not of the kind Ed25519")
    return proof(url, _public(key).split(" ")[1], key.sign)


def proof(url: str, public_key: str, sign: Callable[[bytes], bytes]) -> str:
    """A signature in Ollama's form for a GET without a body; `public_key` is the base64 that OpenSSH writes."""
    empty = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    return f"{public_key}:{base64.b64encode(sign(f'GET,{url},{empty}'.encode())).decode()}"


def _write(file: Path, key: Ed25519PrivateKey) -> None:
    from cryptography.hazmat.primitives import serialization

    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(private)
        opened.flush()
        os.fsync(opened.fileno())
    file.with_suffix(".pub").write_text(f"{_public(key)}\n")
    log.info("made the key %s; registries that want to know this server get its public half: %s", file, _public(key))


def _public(key: Ed25519PrivateKey) -> str:
    """The line that OpenSSH has in a .pub file."""
    from cryptography.hazmat.primitives import serialization

    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return str(key.public_key().public_bytes(*form).decode())


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
