"""Where requests go: redirects, addresses, proxies, certificates, and what is told to whom."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest

from appliance.errors import RegistryError
from appliance.registry.network import Network, is_public
from appliance.registry.transport import Place, Transport, read
from tests.registry.conftest import Transfers
from tests.registry.fake import FakeRegistry, digest_of

PUBLIC = {"registry.example": "93.184.216.34", "cdn.example": "203.0.114.7"}


class Internet(httpcore.AsyncNetworkBackend):
    """Public addresses lead to servers of this machine."""

    def __init__(self, servers: dict[str, FakeRegistry]) -> None:
        self.servers = servers
        self.connected: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.connected.append(host)
        if host in self.servers:
            host, _, text = self.servers[host].host.partition(":")
            port = int(text)
        return await httpcore.AnyIOBackend().connect_tcp(host, port, timeout)


class Names:
    """A resolver; a name with several answers changes from one question to the next."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = {name.replace("_", "."): list(given) for name, given in answers.items()}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        given = self.answers.get(host, [host])
        return [given.pop(0) if len(given) > 1 else given[0]]


def fetch(transport: Transport, url: str, authorization: str = "") -> tuple[int, bytes]:
    async def run() -> tuple[int, bytes]:
        try:
            async with transport.stream("GET", Place(httpx.URL(url)), authorization=authorization) as (response, _):
                return response.status_code, await read(response, 1 << 20)
        finally:
            await transport.aclose()

    return asyncio.run(run())


def redirect_to(registry: FakeRegistry, storage: str) -> str:
    """Hold a blob that is elsewhere; returns its path."""
    registry.blobs[digest_of(b"x")] = b"x"
    registry.storage = storage
    return f"/v2/a/b/blobs/{digest_of(b'x')}"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("192.168.0.1", False), ("172.16.0.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("0.0.0.0", False), ("224.0.0.1", False), ("::1", False), ("::", False), ("fe80::1%eth0", False),
        ("fd00::1", False), ("::ffff:127.0.0.1", False), ("::ffff:93.184.216.34", True),
        ("64:ff9b::10.0.0.1", False), ("64:ff9b::93.184.216.34", True), ("2002:7f00:1::", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize("target", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]"])
def test_the_internet_does_not_lead_into_the_lan(registry: FakeRegistry, target: str) -> None:
    internet = Internet({PUBLIC["registry.example"]: registry})
    network = Network(resolve=Names(registry_example=[PUBLIC["registry.example"]]), sockets=internet)
    path = redirect_to(registry, f"http://{target}:{registry.host.partition(':')[2]}")
    with pytest.raises(RegistryError, match="which is not on the internet; it is not followed"):
        fetch(Transport(network, "test"), f"http://registry.example{path}")
    assert internet.connected == [PUBLIC["registry.example"]]
    assert len(registry.asked) == 1


def test_a_name_that_changes_between_check_and_connection(registry: FakeRegistry, storage: FakeRegistry) -> None:
    """Every connection goes to the address that was checked: there is no second question."""
    servers = {PUBLIC["registry.example"]: registry, PUBLIC["cdn.example"]: storage}
    names = Names(registry_example=[PUBLIC["registry.example"]], cdn_example=[PUBLIC["cdn.example"], "127.0.0.1"])
    internet = Internet(servers)
    transport = Transport(Network(resolve=names, sockets=internet), "test")
    path = redirect_to(registry, "http://cdn.example")
    storage.blobs = registry.blobs

    async def twice() -> None:
        for _ in range(2):
            async with transport.stream("GET", Place(httpx.URL(f"http://registry.example{path}"))) as (response, _):
                assert await read(response, 10) == b"x"
            for pool in transport._network._pools.values():
                await pool.aclose()
        await transport.aclose()

    with pytest.raises(RegistryError, match=r"cdn\.example, which is not on the internet"):
        asyncio.run(twice())
    assert internet.connected == [*PUBLIC.values(), PUBLIC["registry.example"]]


def test_a_host_of_the_lan_may_send_to_another(registry: FakeRegistry, storage: FakeRegistry) -> None:
    path = redirect_to(registry, storage.url)
    storage.blobs = registry.blobs
    assert fetch(Transport(Network(), "test"), registry.url + path, "Bearer secret") == (200, b"x")
    assert registry.asked[0].headers["authorization"] == "Bearer secret"
    assert "authorization" not in storage.asked[0].headers


def test_redirects_have_an_end(registry: FakeRegistry) -> None:
    path = redirect_to(registry, registry.url)
    registry.storage = f"{registry.url}/v2/a/b/blobs/{digest_of(b'x')}?"  # to itself
    with pytest.raises(RegistryError, match="more than 5 redirects"):
        fetch(Transport(Network(), "test"), registry.url + path)
    assert len(registry.asked) == 6


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://other.example/x", "redirects from https to http, to other.example; it is not followed"),
        ("file:///etc/passwd", "redirects to nowhere"),
        ("https://a:b:c/", "redirects to an address that is none"),
    ],
)
def test_redirects_that_are_not_followed(location: str, message: str) -> None:
    transport = Transport(Network(), "test")
    response = httpx.Response(307, headers={"Location": location})
    with pytest.raises(RegistryError, match=message):
        transport.follow(Place(httpx.URL("https://registry.example/v2/")), response)


class Proxy:
    """A forward proxy that fetches from one server whatever it is asked for."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.asked: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                self.asked.append((handler.path, handler.headers.get("Proxy-Authorization", "")))
                headers = {name: value for name, value in handler.headers.items() if name == "Range"}
                path = httpx.URL(handler.path).raw_path.decode()
                answer = httpx.get(f"{registry.url}{path}", headers=headers, trust_env=False)
                handler.send_response(answer.status_code)
                for name in ("content-length", "content-range", "location"):
                    if name in answer.headers:
                        handler.send_header(name, answer.headers[name])
                handler.end_headers()
                handler.wfile.write(answer.content)

            def log_message(self, *_: Any) -> None:
                """Keep the test's output clean."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"127.0.0.1:{self.http.server_port}"


@pytest.fixture
def proxy(registry: FakeRegistry) -> Iterator[Proxy]:
    proxy = Proxy(registry)
    with proxy.http:
        thread = threading.Thread(target=proxy.http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield proxy
        proxy.http.shutdown()
        thread.join()


def test_a_proxy_of_the_environment(
    transfers: Transfers, registry: FakeRegistry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("lib/m", model=b"weights")
    monkeypatch.setenv("HTTP_PROXY", f"http://user:word@{proxy.url}")
    transfers.pull("registry.example/lib/m")
    assert proxy.asked[0][0] == "http://registry.example/v2/lib/m/manifests/latest"
    assert {proof for _, proof in proxy.asked} == {"Basic dXNlcjp3b3Jk"}
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,.example")
    proxy.asked.clear()
    transfers.pull(f"{registry.host}/lib/m")
    assert proxy.asked == []


def test_a_proxy_is_no_way_into_the_lan(
    transfers: Transfers, registry: FakeRegistry, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("lib/m", model=b"weights")
    registry.storage = "http://127.0.0.1:9"
    monkeypatch.setenv("http_proxy", proxy.url)
    with pytest.raises(RegistryError, match="not on the internet"):
        transfers.pull("registry.example/lib/m")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private authority's certificate, and beside it a server's that it signed."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    try:
        openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=private", "-days", "2")
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    openssl("req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    signing = ("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    openssl(*signing, "-out", "server.pem", "-days", "2", "-extfile", "names")
    return folder / "ca.pem"


@pytest.fixture
def secure(registry: FakeRegistry, authority: Path) -> Iterator[str]:
    """The host of the registry behind TLS."""
    handler = registry.handler
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.with_name("server.pem"), authority.with_name("server.key"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        http.socket = context.wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"localhost:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_private_authority(
    transfers: Transfers, registry: FakeRegistry, secure: str, authority: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.add("lib/m", model=b"weights")
    with pytest.raises(RegistryError, match="CERTIFICATE_VERIFY_FAILED"):
        transfers.pull(f"{secure}/lib/m", insecure=False)
    transfers.settings["ca_file"] = authority
    transfers.pull(f"{secure}/lib/m", insecure=False)
    assert [model.name.host for model in transfers.store.list()] == [secure]
    with pytest.raises(RegistryError, match="CERTIFICATE_VERIFY_FAILED"):  # the name is not the certificate's
        transfers.pull(f"{secure.replace('localhost', '127.0.0.1')}/lib/n", insecure=False)


def test_certificates_that_cannot_be_read(transfers: Transfers, tmp_path: Path) -> None:
    transfers.settings["ca_file"] = tmp_path / "nowhere.pem"
    with pytest.raises(RegistryError, match="the certificates of ca_file cannot be read: No such file"):
        transfers.pull("localhost/lib/m")
