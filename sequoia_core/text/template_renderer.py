"""Chat templates rendered in a process with limits, so that a hostile one does no harm."""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from sequoia_core.errors import ParameterError

LONGEST_REASON = 200  # characters of a template's own words in a message

_WORKER = Path(__file__).with_name("template_worker.py")


class TemplateRenderer:
    """Renders in a process, which is replaced when it ends; usable from any thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()

    def start(self) -> None:
        """Start the process, so that the first rendering does not wait for it."""
        with self._lock:
            self._started()

    def render(
        self,
        template: str,
        messages: Sequence[Mapping[str, str]],
        tokens: Mapping[str, Any],
        add_generation_prompt: bool,
    ) -> str:
        """A conversation as a Jinja chat template writes it; `tokens` are texts of named tokens.

        With `add_generation_prompt` the text ends where the answer begins. Raises ParameterError if
        the template refuses the conversation, is faulty, or takes too much time or memory.
        """
        variables = {
            **tokens, "messages": messages, "tools": None, "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }  # fmt: skip
        request = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        with self._lock:
            reply = json.loads(self._exchanged(request))
        if "text" in reply:
            return str(reply["text"])
        what, words = "the chat template refuses this conversation", reply.get("refusal")
        if words is None:
            what, words = "the model's chat template cannot be used", reply["error"]
        reason = " ".join(words.split())
        if len(reason) > LONGEST_REASON:
            reason = reason[: LONGEST_REASON - 1] + "…"
        raise ParameterError(f"{what}: {reason}")

    def close(self) -> None:
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
        assert process.stdout is not None
        reply = b""
        try:
            process.stdin.write(request)
            process.stdin.flush()
            reply = process.stdout.readline()
        except OSError:
            pass
        finally:
            if not reply.endswith(b"\n"):  # also after Ctrl-C: it would be the next one's reply
                status = self._end()
        if reply.endswith(b"\n"):
            return reply
        if status == -signal.SIGPROF:
            raise ParameterError(
                "the model's chat template takes too much time and was stopped; take another "
                "model, or another chat template for this one"
            )
        why = "no answer" if status == -signal.SIGALRM else f"status {status}"
        raise ParameterError(
            f"the model's chat template was stopped: the process that renders it ended ({why})"
        )

    def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()  # one that has ended keeps its status
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent is lost with the process
                    pipe.close()
        return process.wait()


RENDERER = TemplateRenderer()  # the one of this process

atexit.register(RENDERER.close)
