"""The connections to the server of `sequoia web`: none is kept open that asks for nothing.

Owns how many there may be, and how long the first request of each may take. Knows nothing of what
is asked.
"""

import asyncio

FIRST_REQUEST_SECONDS = 10.0
"""How long the headers of a connection's first request may take."""
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n"
    b"Too many connections are open: close a page and load this one again.\r\n"
)


class Connections:
    """All connections.

    Args:
        limit: how many may be open.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: set[asyncio.Transport] = set()
        self._waiting: dict[asyncio.Transport, asyncio.TimerHandle] = {}

    def guard(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        """The protocol of a new connection, which takes part in the count."""
        return _Guarded(self, protocol)

    def opened(self, transport: asyncio.Transport) -> bool:
        """Count a connection; False where there are too many that have asked for something.

        Of those that have asked for nothing yet the oldest makes room, so that they cannot keep
        anybody out.
        """
        if len(self._open) >= self.limit:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
            oldest.abort()
            self.closed(oldest)
        self._open.add(transport)
        loop = asyncio.get_running_loop()
        self._waiting[transport] = loop.call_later(FIRST_REQUEST_SECONDS, transport.abort)
        return True

    def asked(self, transport: asyncio.BaseTransport | None) -> None:
        """The headers of a request have arrived whole."""
        if isinstance(transport, asyncio.Transport) and transport in self._waiting:
            self._waiting.pop(transport).cancel()

    def closed(self, transport: asyncio.Transport) -> None:
        """A connection is no more."""
        self.asked(transport)
        self._open.discard(transport)


class _Guarded(asyncio.Protocol):
    """Passes everything on to another protocol, once its connection is counted."""

    def __init__(self, connections: Connections, protocol: asyncio.Protocol) -> None:
        self._connections = connections
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self._connections.opened(transport):
            self._transport = transport
            self._protocol.connection_made(transport)
        else:
            transport.write(_REFUSAL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._connections.closed(self._transport)
            self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._transport is None else self._protocol.eof_received()

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._protocol.resume_writing()
