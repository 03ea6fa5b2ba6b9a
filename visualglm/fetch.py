"""fetch: the one safe opener of picture URLs, off unless hosts were allowed by name.

In: an http(s) URL a stranger wrote. Out: its bytes. The host must be one that was allowed; its name is resolved once,
every address must be public, and the connection goes to the address that was checked. A redirect is a new URL with the
same checks. Bytes, seconds and redirects are limited. Knows nothing about pictures.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Iterable
from urllib.parse import SplitResult, urljoin, urlsplit

from .errors import ImageError, UsageError

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
BLOCK = 65536
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/?#@:\\\[\]]+)(:\d+)?")


class PictureFetcher:
    """Fetches from `hosts` ("example.com", or "example.com:8443") and nowhere else.

    `byte_limit` bytes and `second_limit` seconds in all, `redirect_limit` redirects.
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
        """The bytes behind a URL.

        Raises:
            ImageError: it is not allowed, or it cannot be fetched within the limits.
        """
        deadline = time.monotonic() + self.second_limit
        for _ in range(self.redirect_limit + 1):
            parts = self._checked(url)
            try:
                content, url = self._get(parts, url, deadline)
            except (OSError, http.client.HTTPException) as error:
                raise ImageError(
                    f"{_shown(parts)} cannot be fetched ({_reason(error)}): send the picture itself."
                ) from error
            if content is not None:
                return content
        raise ImageError(f"{_shown(parts)} redirects more than {self.redirect_limit} times: send the picture itself.")

    def _checked(self, url: str) -> SplitResult:
        """The URL in parts, if its scheme, host and port are allowed."""
        if not self.hosts:
            raise ImageError("Pictures are not fetched from URLs here: send the picture itself, as a data URL.")
        try:
            parts = urlsplit(url)
            place = (_plain_host(parts.hostname or ""), parts.port or PORTS.get(parts.scheme, 0))
        except (ValueError, UnicodeError) as error:
            raise ImageError(f"The picture's URL is malformed ({error}): send the picture itself.") from error
        if parts.scheme not in PORTS or parts.username is not None or parts.password is not None:
            raise ImageError("A picture's URL must be http or https, without a user name: send the picture itself.")
        if not any(place == (host, port or PORTS[parts.scheme]) for host, port in self.hosts):
            raise ImageError(f"{_shown(parts)} is not on a host that pictures may come from: send the picture itself.")
        return parts

    def _get(self, parts: SplitResult, url: str, deadline: float) -> tuple[bytes | None, str]:
        """The content, or None and where it moved."""
        connection = _connect(parts, deadline)
        carrier = connection.sock  # the connection forgets it once the headers are there; its timeout still counts
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "visualglm"})
            response = connection.getresponse()
            if response.status in REDIRECTS:
                return None, urljoin(url, response.getheader("Location", ""))
            if response.status != 200:
                raise ImageError(f"{_shown(parts)} answered {response.status}: send the picture itself.")
            return self._read(response, parts, carrier, deadline), url
        finally:
            connection.close()

    def _read(
        self, response: http.client.HTTPResponse, parts: SplitResult, carrier: socket.socket, deadline: float
    ) -> bytes:
        """The body, given up as soon as it is too large or too slow."""
        content = bytearray()
        while block := response.read1(BLOCK):
            content += block
            if len(content) > self.byte_limit:
                raise ImageError(f"{_shown(parts)} has more than {self.byte_limit} bytes: send a smaller picture.")
            carrier.settimeout(_left(deadline))
        return bytes(content)


def _allowed(host: str) -> tuple[str, int | None]:
    """ "host" or "host:port" as the command line gives it."""
    try:
        parts = urlsplit(f"//{host}")
        if HOST.fullmatch(host) and parts.hostname:
            return _plain_host(parts.hostname), parts.port
    except (ValueError, UnicodeError):
        pass
    raise UsageError(f"--allow-image-domain {host} is no host: write for example images.example.com.")


def _plain_host(host: str) -> str:
    return host.rstrip(".").encode("idna").decode("ascii").lower()


def _connect(parts: SplitResult, deadline: float) -> http.client.HTTPConnection:
    """A connection to an address that was checked, with the name's certificate."""
    host, port = _plain_host(parts.hostname or ""), parts.port or PORTS[parts.scheme]
    connection = http.client.HTTPConnection(host, port, timeout=_left(deadline))
    raw = socket.create_connection(public_address(host, port), timeout=_left(deadline))
    secure = parts.scheme == "https"
    connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=host) if secure else raw
    return connection


def public_address(host: str, port: int) -> tuple[str, int]:
    """The first address of a name, which is resolved here and nowhere else.

    Raises:
        ImageError: one of its addresses is not public.
    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not found or not all(is_public(address) for address in found):
        raise ImageError(f"{host} is an address inside a private network: send the picture itself.")
    return found[0], port


def is_public(address: str) -> bool:
    """Whether an address lies in the open internet: not private, loopback, link-local, reserved, multicast.

    Addresses of version 6 that carry one of version 4 (mapped, 6to4, Teredo, NAT64, compatible) count as none.
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
    """A URL for a message: no query, which may hold a key, and no user name."""
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:120]


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return type(error).__name__
