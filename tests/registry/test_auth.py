"""What registries are told about who asks."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from appliance.errors import RegistryError
from appliance.registry.auth import parse_challenge, token_url
from tests.registry.conftest import Transfers
from tests.registry.fake import FakeRegistry


@pytest.mark.spec(77)
@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        ("", "", {}),
        ('Basic realm="x"', "basic", {"realm": "x"}),
        (
            'Bearer realm="https://h/token",service="s",scope="a:b:pull,push c"',
            "bearer",
            {"realm": "https://h/token", "service": "s", "scope": "a:b:pull,push c"},
        ),
        (r'Bearer  realm = "a\"b\\" , SERVICE=plain', "bearer", {"realm": 'a"b\\', "service": "plain"}),
        ("Negotiate", "negotiate", {}),
    ],
)
def test_challenges(header: str, scheme: str, parameters: dict[str, str]) -> None:
    challenge = parse_challenge(header)
    assert (challenge.scheme, challenge.parameters) == (scheme, parameters)


def test_the_token_servers_address() -> None:
    registry = httpx.URL("https://h:5000/v2/")
    challenge = parse_challenge('Bearer realm="https://h:5000/token?x=1",service="s",scope="a:b:pull c:d:pull"')
    urls = [token_url(challenge, registry) for _ in range(2)]
    query = parse_qs(urlsplit(str(urls[0])).query)
    assert (query["x"], query["service"], query["scope"]) == (["1"], ["s"], ["a:b:pull", "c:d:pull"])
    assert query["ts"][0].isdecimal()
    nonces = [url.params["nonce"] for url in urls]
    assert nonces[0] != nonces[1]
    assert [len(base64.urlsafe_b64decode(nonce + "==")) for nonce in nonces] == [16, 16]


@pytest.mark.spec(77)
@pytest.mark.parametrize(
    ("realm", "message"),
    [
        ("https://other/token", 'realm host "other" does not match original host "h"'),
        ("https://h:444/token", 'realm host "h:444" does not match original host "h"'),
        ("", 'realm host "" does not match original host "h"'),
        ("http://h/token", "names a token server of another scheme, http"),
    ],
)
def test_realms_elsewhere_are_refused(realm: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        token_url(parse_challenge(f'Bearer realm="{realm}"'), httpx.URL("https://h/v2/"))


def test_a_token_for_nothing(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.add("lib/m", model=b"weights")
    registry.token = "secret"
    transfers.pull(f"{registry.host}/lib/m")
    asked = [each for each in registry.asked if each.path.startswith("/token")]
    assert len(asked) == 1
    assert "scope=a%3Ab%3Apull&scope=c%3Ad%3Apull" in asked[0].path


def keep_password(transfers: Transfers, entry: dict[str, str], host: str, mode: int = 0o600) -> None:
    file = Path(transfers.settings["registry_auth_file"])
    file.write_text(json.dumps({"auths": {host: entry}}))
    file.chmod(mode)


@pytest.mark.parametrize(
    "entry", [{"auth": base64.b64encode(b"me:word").decode()}, {"username": "me", "password": "word"}]
)
@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_a_password_for_a_registry(
    transfers: Transfers, registry: FakeRegistry, entry: dict[str, str], scheme: str
) -> None:
    registry.add("lib/m", model=b"weights")
    proof = f"Basic {base64.b64encode(b'me:word').decode()}"
    if scheme == "Basic":
        registry.accepted, registry.challenge = proof, 'Basic realm="x"'
    else:
        registry.token = "secret"
    keep_password(transfers, entry, registry.host)
    transfers.pull(f"{registry.host}/lib/m")
    told = [each.headers.get("authorization") for each in registry.asked if "token" in each.path or scheme == "Basic"]
    assert set(told[scheme == "Basic" :]) == {proof}


def test_another_registrys_password_is_not_told(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.accepted, registry.challenge = "Basic x", 'Basic realm="x"'
    keep_password(transfers, {"auth": "x"}, "other.example")
    with pytest.raises(RegistryError, match="pull model manifest: unauthorized: access denied"):
        transfers.pull(f"{registry.host}/lib/m")


def test_a_wrong_password(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.accepted, registry.challenge = "Basic right", 'Basic realm="x"'
    keep_password(transfers, {"auth": "wrong"}, registry.host)
    with pytest.raises(RegistryError, match="unauthorized: access denied"):
        transfers.pull(f"{registry.host}/lib/m")
    assert len(registry.asked) == 2


def test_passwords_that_others_can_read(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.token = "secret"
    keep_password(transfers, {"auth": "x"}, registry.host, 0o640)
    with pytest.raises(RegistryError, match="can be read by others than its owner: chmod 600 it"):
        transfers.pull(f"{registry.host}/lib/m")


def test_a_file_of_another_form(transfers: Transfers, registry: FakeRegistry) -> None:
    registry.token = "secret"
    keep_password(transfers, {}, registry.host)
    Path(transfers.settings["registry_auth_file"]).write_text("[1]")
    with pytest.raises(RegistryError, match=r"not of the form of Podman's auth\.json"):
        transfers.pull(f"{registry.host}/lib/m")


@pytest.mark.spec(77)
def test_a_signature_as_ollama_makes_it(transfers: Transfers, registry: FakeRegistry) -> None:
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    registry.add("lib/m", model=b"weights")
    registry.token = "secret"
    transfers.pull(f"{registry.host}/lib/m")
    asked = next(each for each in registry.asked if each.path.startswith("/token"))
    folder = transfers.store.root.parent
    public = (folder / "id_ed25519.pub").read_text()
    key, signature = asked.headers["authorization"].split(":")
    assert public == f"ssh-ed25519 {key}\n"
    assert (folder / "id_ed25519").stat().st_mode & 0o777 == 0o600
    nothing = "ZTNiMGM0NDI5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NQ=="
    text = f"GET,{registry.url}{asked.path},{nothing}".encode()
    load_ssh_public_key(public.encode()).verify(base64.b64decode(signature), text)  # raises what does not fit
    transfers.pull(f"{registry.host}/lib/m")
    assert (folder / "id_ed25519.pub").read_text() == public


def test_a_key_that_cannot_be_used(transfers: Transfers, registry: FakeRegistry) -> None:
    pytest.importorskip("cryptography")
    registry.token = "secret"
    (transfers.store.root.parent / "id_ed25519").write_text("no key")
    with pytest.raises(RegistryError, match="the key id_ed25519 beside the models cannot be used"):
        transfers.pull(f"{registry.host}/lib/m")
