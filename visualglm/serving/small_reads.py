"""serving/small_reads: Read a connection in small steps, so that no client holds the event loop by its framing.

h11 handles everything of one read before any other connection gets its turn: a read of 256 KB holds 40,000 chunks of
one byte, which take half a second.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

READ_BYTES = 16_384


class SmallReads(H11Protocol):
    """uvicorn's HTTP/1.1 with at most `READ_BYTES` bytes in one read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Limits the reads of asyncio's own socket transport; another one keeps its own."""
        stream: Any = transport
        stream.max_size = READ_BYTES
        super().connection_made(transport)
