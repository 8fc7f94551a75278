"""Limits the connections to the server of `sequoia web`, and closes those that request nothing."""

import asyncio

FIRST_REQUEST_SECONDS = 10.0
"""How long the headers of a connection's first request may take."""
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n"
    b"Too many connections are open: close a page and load this one again.\r\n"
)


class Connections:
    """All connections; at most `limit` are open."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: set[asyncio.Transport] = set()
        self._waiting: dict[asyncio.Transport, asyncio.TimerHandle] = {}

    def guard(self, protocol: asyncio.Protocol) -> asyncio.Protocol:
        """Wrap the protocol of a new connection, so that it is counted."""
        return _Guarded(self, protocol)

    def opened(self, transport: asyncio.Transport) -> bool:
        """Count a connection; False if too many are in use.

        The oldest of those that have sent no request yet makes room: they cannot block others.
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

    def requested(self, transport: asyncio.BaseTransport | None) -> None:
        """The headers of a request have arrived."""
        if isinstance(transport, asyncio.Transport) and transport in self._waiting:
            self._waiting.pop(transport).cancel()

    def closed(self, transport: asyncio.Transport) -> None:
        """A connection was closed."""
        self.requested(transport)
        self._open.discard(transport)


class _Guarded(asyncio.Protocol):
    """Forwards to another protocol if there is room for its connection."""

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
