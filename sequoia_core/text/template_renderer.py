"""Chat templates rendered in a process with limits, so that a hostile one does no harm.

One process renders all templates. It is started with the first rendering, and again after a
template was stopped. A rendering takes well below a millisecond. Usable from any thread.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

from sequoia_core.errors import ParameterError

LONGEST_WAIT = 60.0
"""Seconds until a process that does not answer is given up, however busy the machine is."""

LONGEST_REASON = 200
"""Characters of a template's own words in a message."""

_WORKER = Path(__file__).with_name("template_worker.py")
_BLOCK = 1 << 16


class _StoppedError(Exception):
    """The process ended or does not answer; its exit status, where it has one."""

    def __init__(self, status: int | None) -> None:
        self.status = status


class TemplateRenderer:
    """Renders through a process, which is replaced when it ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()
        self._stopped: dict[str, int] = {}  # size of a request that a template took too long for

    def start(self) -> None:
        """Start the process, so that the first rendering does not wait for it."""
        with self._lock:
            self._started()

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """The text that a template makes.

        Args:
            template: Jinja source.
            variables: what JSON can hold.

        Raises:
            ParameterError: the template refuses these variables, is faulty, or takes too much time
                or memory.
        """
        request = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        if len(request) >= self._stopped.get(template, sys.maxsize):
            raise _too_slow()
        try:
            with self._lock:
                reply = json.loads(self._exchanged(request))
        except _StoppedError as error:
            if error.status == -signal.SIGPROF:
                self._stopped[template] = len(request)
                raise _too_slow() from None
            raise ParameterError(
                "the model's chat template was stopped: the process that renders it ended "
                f"({'no answer' if error.status is None else f'status {error.status}'})"
            ) from None
        if "text" in reply:
            return str(reply["text"])
        if "refusal" in reply:
            reason = _shortened(reply["refusal"])
            raise ParameterError(f"the chat template refuses this conversation: {reason}")
        raise ParameterError(
            f"the model's chat template cannot be used: {_shortened(reply['error'])}"
        )

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(_WORKER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in the terminal is not for it
                )
            except OSError as error:
                raise ParameterError(
                    f"the process that renders chat templates cannot start: {error.strerror}"
                ) from None
        return self._process

    def _exchanged(self, request: bytes) -> bytes:
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(request)
            process.stdin.flush()
            return self._line(process)
        except (OSError, _StoppedError):
            raise _StoppedError(self._end()) from None
        except (
            BaseException
        ):  # such as Ctrl-C: its answer would be read as that to the next request
            self._end()
            raise

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        pipe, until = process.stdout.fileno(), monotonic() + LONGEST_WAIT
        reply = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not reply.endswith(b"\n"):
                ready = selector.select(max(until - monotonic(), 0.0))
                block = os.read(pipe, _BLOCK) if ready else b""
                if not block:
                    raise _StoppedError(None)
                reply += block
        return bytes(reply)

    def _end(self) -> int | None:
        """End the process; its exit status, None where it was still running."""
        process, self._process = self._process, None
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent is lost with the process
                    pipe.close()
        try:
            return process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None


def _too_slow() -> ParameterError:
    return ParameterError(
        "the model's chat template takes too much time and was stopped; take another model, or "
        "another chat template for this one"
    )


def _shortened(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"


RENDERER = TemplateRenderer()
"""The one of this process."""

atexit.register(RENDERER.close)


def chat_text(
    template: str,
    messages: Sequence[Mapping[str, str]],
    tokens: Mapping[str, Any],
    add_generation_prompt: bool,
) -> str:
    """A conversation as a chat template writes it.

    Args:
        template: Jinja source.
        messages: each with `role` and `content`.
        tokens: texts of the named tokens (`bos_token`, ...).
        add_generation_prompt: end where the answer begins.

    Raises:
        ParameterError: as `TemplateRenderer.render`.
    """
    variables = {
        **tokens,
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    return RENDERER.render(template, variables)
