"""Fetch image URLs safely; disabled unless hosts were allowed by name.

In: an untrusted http(s) URL. Out: its bytes. The host must be allowed; its name is resolved once, every address must be
public, and the connection goes to the checked address. A redirect is checked like a new URL. Bytes, seconds and
redirects are limited: one deadline holds for name resolution, connection and every byte.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from ..errors import ImageError, UsageError

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
BLOCK = 65536
MAX_URL = 8192
"""Maximum characters of a URL."""
MAX_HEADER_BYTES = 65536
"""Maximum bytes of one response's status lines, interim responses and headers."""
RESERVED = "!#$%&'()*+,/:;=?@[]~"
"""Characters that stay unchanged in a path or a query; non-ASCII is percent-encoded."""
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/?#@:\\\[\]]+)(:\d+)?")


class ImageFetcher:
    """Fetcher of URLs from `hosts` ("example.com", or "example.com:8443").

    Limits: `byte_limit` bytes and `second_limit` seconds in all, `redirect_limit` redirects.
    """

    def __init__(
        self,
        hosts: Iterable[str] = (),
        byte_limit: int = 20_000_000,
        second_limit: float = 10.0,
        redirect_limit: int = 3,
    ) -> None:
        self.hosts = {_allowed(host) for host in hosts}
        self.byte_limit = byte_limit
        self.second_limit = second_limit
        self.redirect_limit = redirect_limit

    def __call__(self, url: str) -> bytes:
        """Fetch the bytes of a URL.

        Raises:
            ImageError: it is not allowed, or it cannot be fetched within the limits.
        """
        deadline = time.monotonic() + self.second_limit
        for _ in range(self.redirect_limit + 1):
            parts = self._checked(url)
            try:
                content, url = self._get(parts, url, deadline)
            except ImageError:
                raise
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = "it took too long" if isinstance(error, TimeoutError) else type(error).__name__
                raise ImageError(f"{_shown(parts)} cannot be fetched ({reason}). Send the image itself.") from error
            if content is not None:
                return content
        raise ImageError(f"{_shown(parts)} redirects more than {self.redirect_limit} times. Send the image itself.")

    def _checked(self, url: str) -> SplitResult:
        """Return the parts of the URL if its scheme, host and port are allowed."""
        if not self.hosts:
            raise ImageError("Images are not fetched from URLs here. Send the image itself, as a data URL.")
        if len(url) > MAX_URL:
            raise ImageError(f"The image's URL has more than {MAX_URL} characters. Send the image itself.")
        try:
            parts = urlsplit(url)
            place = (_plain_host(parts.hostname or ""), parts.port or PORTS.get(parts.scheme, 0))
        except (ValueError, UnicodeError) as error:
            raise ImageError(f"The image's URL is malformed ({error}). Send the image itself.") from error
        if parts.scheme not in PORTS or parts.username is not None or parts.password is not None:
            raise ImageError("An image's URL must be http or https, without a user name. Send the image itself.")
        if not any(place == (host, port or PORTS[parts.scheme]) for host, port in self.hosts):
            raise ImageError(f"{_shown(parts)} is not on a host that images may come from. Send the image itself.")
        return parts

    def _get(self, parts: SplitResult, url: str, deadline: float) -> tuple[bytes | None, str]:
        """Return the content, or None and the redirect's target."""
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=RESERVED)
        connection, carrier = _connect(parts, deadline)
        with carrier.connected:
            connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "visualglm"})
            response = connection.getresponse()
            if response.status in REDIRECTS:
                return None, urljoin(url, response.getheader("Location", ""))
            if response.status != 200:
                raise ImageError(f"{_shown(parts)} answered {response.status}. Send the image itself.")
            carrier.bytes_left += 2 * self.byte_limit  # the framing of small chunks may be as large as the body
            return self._read(response, parts), url

    def _read(self, response: http.client.HTTPResponse, parts: SplitResult) -> bytes:
        """Read the body; stop as soon as it is too large."""
        content = bytearray()
        while block := response.read1(BLOCK):
            content += block
            if len(content) > self.byte_limit:
                raise ImageError(f"{_shown(parts)} has more than {self.byte_limit} bytes. Send a smaller image.")
        return bytes(content)


class _Carrier:
    """A connected socket from which `http.client` may read `bytes_left` bytes until the deadline."""

    def __init__(self, connected: socket.socket, deadline: float, bytes_left: int) -> None:
        self.connected = connected
        self.deadline = deadline
        self.bytes_left = bytes_left

    def sendall(self, data: bytes) -> None:
        self.connected.settimeout(_left(self.deadline))
        self.connected.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_CarrierReader(self))

    def close(self) -> None:
        """Do nothing: `http.client` closes after the headers, but the connection is closed by its owner."""


class _CarrierReader(io.RawIOBase):
    def __init__(self, carrier: _Carrier) -> None:
        self.carrier = carrier

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.carrier.connected.settimeout(_left(self.carrier.deadline))
        count = self.carrier.connected.recv_into(buffer)
        self.carrier.bytes_left -= count
        if self.carrier.bytes_left < 0:
            raise http.client.HTTPException("more than its limit was sent")
        return count


def _allowed(host: str) -> tuple[str, int | None]:
    """Parse "host" or "host:port" from the command line."""
    try:
        parts = urlsplit(f"//{host}")
        if HOST.fullmatch(host) and parts.hostname:
            return _plain_host(parts.hostname), parts.port
    except (ValueError, UnicodeError):
        pass
    raise UsageError(f"--allow-image-domain {host} is not a host. Write for example images.example.com.")


def _plain_host(host: str) -> str:
    return host.rstrip(".").encode("idna").decode("ascii").lower()


def _connect(parts: SplitResult, deadline: float) -> tuple[http.client.HTTPConnection, _Carrier]:
    """Connect to a checked address, with the name's certificate; return the connection and its carrier."""
    host, port = _plain_host(parts.hostname or ""), parts.port or PORTS[parts.scheme]
    connection = http.client.HTTPConnection(host, port)
    connected = socket.create_connection(_resolve(host, port, deadline), timeout=_left(deadline))
    if parts.scheme == "https":
        try:
            connected.settimeout(_left(deadline))  # for the whole handshake
            connected = ssl.create_default_context().wrap_socket(connected, server_hostname=host)
        except BaseException:
            connected.close()
            raise
    connection.sock = carrier = _Carrier(connected, deadline, MAX_HEADER_BYTES)
    return connection, carrier


def _resolve(host: str, port: int, deadline: float) -> tuple[str, int]:
    """Call `public_address` until the deadline, in a thread, because the system's resolver has no time limit."""
    found: Future[tuple[str, int]] = Future()

    def resolve() -> None:
        try:
            found.set_result(public_address(host, port))
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=resolve, name="resolver", daemon=True).start()
    return found.result(_left(deadline))


def public_address(host: str, port: int) -> tuple[str, int]:
    """Resolve a name and return its first address.

    Raises:
        ImageError: one of its addresses is not public.
    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not found or not all(is_public(address) for address in found):
        raise ImageError(f"{host} is an address inside a private network. Send the image itself.")
    return found[0], port


def is_public(address: str) -> bool:
    """Return whether an address is public: not private, loopback, link-local, reserved or multicast.

    IPv6 addresses that embed an IPv4 address (mapped, 6to4, Teredo, NAT64, compatible) do not count as public.
    """
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        carries = any(ip in network for network in CARRIERS)
        return ip.is_global and not ip.is_multicast and not ip.is_site_local and not carries
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


CARRIERS = [
    ipaddress.ip_network(net)
    for net in ("::/96", "::ffff:0:0/96", "2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48")
]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it took too long")
    return left


def _shown(parts: SplitResult) -> str:
    """Format a URL for a message: without query, which may hold a key, and user name."""
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:120]
