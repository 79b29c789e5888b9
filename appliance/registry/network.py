"""Sockets to registries: through proxies, trusting the right certificates, to addresses that may be reached.

A server on the internet must not be able to send this one, by a redirect, to a machine of the LAN. So a request that
follows such a redirect is connected to a public address only, and what is checked is the very address that is
connected to: the name is resolved once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import certifi
import httpcore
import httpx

from appliance.errors import RegistryError

MAX_CONNECTIONS = 16
UNREAD_BYTES = 256 << 10  # may wait in a socket: what is lost with it when the power goes
IDLE_S = 15.0
NAT64 = ipaddress.ip_network("64:ff9b::/96")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host; raises OSError."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet, and not to this machine, its network or nobody."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not ip.is_multicast


async def resolve(host: str, port: int) -> Sequence[str]:
    """What the system says of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def trusted(ca_file: Path | None) -> ssl.SSLContext:
    """Certificates to trust: those of `ca_file` alone, else the system's and Mozilla's. Raises RegistryError."""
    try:
        if ca_file:
            return ssl.create_default_context(cafile=ca_file)
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"the certificates of ca_file cannot be read: {error.strerror or error}") from error
    return context


class Network(httpx.AsyncBaseTransport):
    """Carries httpx's requests. Use from one event loop, and close it.

    A request whose extensions say `public_only` is refused, with RegistryError, where only addresses of the LAN
    would answer it. Proxies are those of the environment as it is when the network is made; behind one, names are
    resolved there, and only what this machine resolves too is checked.
    """

    def __init__(
        self,
        ca_file: Path | None = None,
        resolve: Resolve = resolve,
        sockets: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._resolve = resolve
        self._sockets = sockets or httpcore.AnyIOBackend()
        self._proxies = getproxies_environment()
        self._pools: dict[tuple[str, bool], httpcore.AsyncConnectionPool] = {}
        self._context: ssl.SSLContext | None = None
        self._public: set[tuple[str, int]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; raises httpx's errors, and RegistryError for a place that is out of bounds."""
        public_only = bool(request.extensions.get("public_only"))
        proxy = self._proxy(request.url)
        if proxy and public_only:
            await self._check(request.url)
        pool = self._pool(proxy, public_only and not proxy)
        sent = httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx():
            answer = await pool.handle_async_request(sent)
        assert not isinstance(answer.stream, Iterator)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream), extensions=answer.extensions
        )

    def is_public(self, url: httpx.URL) -> bool:
        """Whether requests to this host have gone to the internet; behind a proxy all that are not to a LAN address."""
        if self._proxy(url):
            return not _is_local(url.host)
        return (url.host, _port(url)) in self._public

    async def addresses(self, host: str, port: int, public_only: bool) -> Sequence[str]:
        """Where to connect to. Raises RegistryError if that is out of bounds, httpcore's ConnectError if nowhere."""
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} is not known: {getattr(error, 'strerror', None) or error}") from error
        public = [address for address in found if is_public(address)]
        if public_only and not public:
            raise RegistryError(f"a redirect leads to {host}, which is not on the internet; it is not followed")
        if public:
            self._public.add((host, port))
        return public if public_only else found

    async def aclose(self) -> None:
        """Close every connection."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()

    async def _check(self, url: httpx.URL) -> None:
        with contextlib.suppress(httpcore.ConnectError):  # known to the proxy alone
            await self.addresses(url.host, _port(url), public_only=True)

    def _proxy(self, url: httpx.URL) -> str:
        """The proxy for a URL, "" for none."""
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all") or ""
        if proxy and proxy_bypass_environment(f"{url.host}:{_port(url)}", self._proxies):
            return ""
        return proxy if "://" in proxy or not proxy else f"http://{proxy}"

    def _pool(self, proxy: str, public_only: bool) -> httpcore.AsyncConnectionPool:
        if (proxy, public_only) not in self._pools:
            if self._context is None:
                self._context = trusted(self._ca_file)
            self._pools[proxy, public_only] = httpcore.AsyncConnectionPool(
                ssl_context=self._context,
                proxy=_httpcore_proxy(proxy) if proxy else None,
                max_connections=MAX_CONNECTIONS,
                keepalive_expiry=IDLE_S,
                network_backend=_Pinned(self, self._sockets, public_only),
                socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)],
            )
        return self._pools[proxy, public_only]


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to what a name resolves to, once that was checked."""

    def __init__(self, network: Network, sockets: httpcore.AsyncNetworkBackend, public_only: bool) -> None:
        self._network = network
        self._sockets = sockets
        self._public_only = public_only

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await self._network.addresses(host, port, self._public_only):
            try:
                return await self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Body(httpx.AsyncByteStream):
    """A body on its way, with httpx's errors."""

    def __init__(self, stream: httpcore.AsyncByteStream) -> None:  # type: ignore[name-defined]
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        with _as_httpx():
            await self._stream.aclose()


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except (
        httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:  # fmt: skip
        kind = getattr(httpx, type(error).__name__)  # they have the same names
        raise kind(str(error)) from error


def _httpcore_proxy(proxy: str) -> httpcore.Proxy:
    try:
        url = httpx.URL(proxy)
    except httpx.InvalidURL as error:
        raise RegistryError(f"the proxy of the environment has no valid address: {error}") from error
    if url.scheme not in ("http", "https"):
        raise RegistryError(f"the proxy of the environment is of the kind {url.scheme}; http and https are supported")
    auth = (url.username, url.password) if url.username else None
    return httpcore.Proxy(str(url.copy_with(username=None, password=None)), auth=auth)


def _port(url: httpx.URL) -> int:
    return url.port or {"http": 80, "https": 443}[url.scheme]


def _is_local(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
