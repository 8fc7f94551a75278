"""Limits the connections to the server of `sequoia web`, and closes those that request nothing."""

import asyncio
from collections.abc import Callable

FIRST_REQUEST_SECONDS = 10.0  # how long the headers of a connection's first request may take
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n"
    b"Too many connections are open: close a page and load this one again.\r\n"
)


class Connections(asyncio.Protocol):
    """The first protocol of every connection; passes it on to its own if there is room."""

    def __init__(self, limit: int, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._limit = limit
        self._protocol = protocol
        self._open: set[asyncio.Transport] = set()
        self._waiting: dict[asyncio.Transport, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self._admit(transport):
            protocol = self._protocol()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
        else:
            transport.write(_REFUSAL)
            transport.close()

    def _admit(self, transport: asyncio.Transport) -> bool:
        """Count a connection; False if too many are in use.

        The oldest of those that have sent no request yet makes room: they cannot block others.
        """
        for closed in [each for each in self._open if each.is_closing()]:
            self._forget(closed)
        if len(self._open) >= self._limit:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
            oldest.abort()
            self._forget(oldest)
        self._open.add(transport)
        loop = asyncio.get_running_loop()
        self._waiting[transport] = loop.call_later(FIRST_REQUEST_SECONDS, transport.abort)
        return True

    def requested(self, transport: asyncio.BaseTransport | None) -> None:
        """The headers of a request have arrived."""
        if isinstance(transport, asyncio.Transport) and transport in self._waiting:
            self._waiting.pop(transport).cancel()

    def _forget(self, transport: asyncio.Transport) -> None:
        self.requested(transport)
        self._open.discard(transport)
