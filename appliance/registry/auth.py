"""What a registry's challenge is answered with: a token from its token server, or a name and a password.

A token is asked for without proof, with the name and password that the user keeps for this registry, or with a
signature by this server's key, as Ollama's registry wants it. None of it goes to another host than the registry's own.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from appliance.errors import RegistryError
from appliance.registry.transport import Place, Transport, complaint, read
from appliance.stepping import finished

log = logging.getLogger(__name__)

MAX_TOKEN_BYTES = 1 << 20
_SCHEME = re.compile(r"\s*([A-Za-z]+)\s+")
_PARAMETER = re.compile(r'\s*([A-Za-z_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')

Sign = Callable[[str], str]
"""The Authorization header that proves who asks for this URL with GET, "" for none."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """A WWW-Authenticate header."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenge(header: str) -> Challenge:
    """Read the first challenge of a header; its scheme is "" if there is none."""
    match = _SCHEME.match(header)
    if not match:
        return Challenge(header.strip().lower(), {})
    parameters, position = {}, match.end()
    while parameter := _PARAMETER.match(header, position):
        name, quoted, bare = parameter.groups()
        parameters[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare
        position = parameter.end()
    return Challenge(match[1].lower(), parameters)


def token_url(challenge: Challenge, registry: httpx.URL) -> httpx.URL:
    """Where to ask for a token; raises RegistryError for a realm on another host."""
    realm = challenge.parameters.get("realm", "")
    try:
        url = registry.join(realm)
    except httpx.InvalidURL as error:
        raise RegistryError(f"{registry.host} names a token server that has no valid address: {error}") from error
    if not realm or url.netloc != registry.netloc:
        there, here = url.netloc.decode() if realm else "", registry.netloc.decode()
        raise RegistryError(f'realm host "{there}" does not match original host "{here}"')
    if url.scheme != registry.scheme:
        raise RegistryError(f"{registry.host} names a token server of another scheme, {url.scheme}")
    for name, value in _query(challenge):
        url = url.copy_add_param(name, value)
    return url


def _query(challenge: Challenge) -> Iterator[tuple[str, str]]:
    if service := challenge.parameters.get("service"):
        yield "service", service
    for scope in challenge.parameters.get("scope", "").split():
        yield "scope", scope
    yield "ts", str(int(time.time()))
    yield "nonce", base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")


@dataclass(frozen=True)
class Authority:
    """What this server can prove to registries."""

    auth_file: Path
    sign: Sign

    async def answer(self, transport: Transport, place: Place, header: str) -> str:
        """The Authorization header for a registry that sent this challenge. Raises RegistryError, httpx's errors."""
        challenge = parse_challenge(header)
        password = await finished(password_for, self.auth_file, place.url)
        if challenge.scheme == "basic" and password:
            return f"Basic {password}"
        if challenge.scheme != "bearer":
            raise RegistryError("unauthorized: access denied")
        url = token_url(challenge, place.url)
        proof = f"Basic {password}" if password else await finished(self.sign, str(url))
        async with transport.stream("GET", Place(url), authorization=proof) as (response, _):
            if not response.is_success:
                raise RegistryError(f"unauthorized: {await complaint(response)}")
            body = await read(response, MAX_TOKEN_BYTES)
        try:
            fields = json.loads(body)
            token = fields.get("token") or fields["access_token"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(f"{url.host} answers without a token") from error
        return f"Bearer {token}"


def password_for(file: Path, registry: httpx.URL) -> str:
    """The base64 of `name:password` that a file in Podman's or Docker's form has for a registry, "" if none.

    Raises RegistryError for a file that others can read, or that has another form.
    """
    try:
        mode = file.stat().st_mode
        content = file.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise RegistryError(f"the file of registry_auth_file cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise RegistryError("the file of registry_auth_file can be read by others than its owner: chmod 600 it")
    try:
        entry = json.loads(content).get("auths", {}).get(registry.netloc.decode(), {})
        if name := entry.get("username"):
            return base64.b64encode(f"{name}:{entry['password']}".encode()).decode()
        return str(entry.get("auth", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError("the file of registry_auth_file is not of the form of Podman's auth.json") from error
