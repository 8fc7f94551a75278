"""An engine process without models: `python -m tests.app.fake_engine_process DESCRIPTOR FLAGS`."""

import socket
import sys

from app.engine.messages import Done, LoadFailed, Loading, to_line
from app.engine.server import EngineServer
from tests.app.serving import making
from tests.fakes import replay


def report(message: Loading | LoadFailed | Done) -> None:
    sys.stdout.buffer.write(to_line(message))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    listener = socket.socket(fileno=int(sys.argv[1]))
    EngineServer(listener, sys.stdin.buffer, report).serve(making(replay))
