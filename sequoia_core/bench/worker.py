"""Systems in processes of their own, so that no library's threads and memory count for another's.

Owns the process and what passes between: a line of JSON a request and a line an answer. Run as a
module it is that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from tempfile import TemporaryFile
from typing import IO, Any

from sequoia_core.bench.contenders import build, make_file
from sequoia_core.bench.memory import peak_memory
from sequoia_core.bench.runs import NoSpeedError, PeerError, Run, StepParts, System
from sequoia_core.bench.workshop import Sources, Workshop
from sequoia_core.config import SamplingParams
from sequoia_core.errors import SequoiaError
from sequoia_core.model.malloc_trim import keep_to_one_arena

COMMAND = ("-m", "sequoia_core.bench.worker")
END_SECONDS = 10.0


class Worker:
    """A process that loads what the sources describe and answers requests.

    Args:
        sources: where models come from.
        environment: variables that are added to this process's own.
    """

    def __init__(self, sources: Sources, environment: Mapping[str, str] | None = None) -> None:
        threads = {"OMP_NUM_THREADS": str(sources.threads)}
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115  # as long as the process
        # a session of its own: an interrupt at the terminal is for this process to handle
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | threads | dict(environment or {}),
            start_new_session=True,
        )
        with suppress(BrokenPipeError):
            self._send(asdict(sources))

    def ask(self, **request: Any) -> Any:
        """What the process answers.

        Raises:
            NoSpeedError: a run took too few steps.
            PeerError: the system cannot take part or has broken down, or the process has ended.
        """
        assert self._process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            self._send(request)
            line = self._process.stdout.readline()
        if not line:
            raise PeerError(self._ended())
        answer = json.loads(line)
        if "error" in answer:
            raise (NoSpeedError if answer["no_speed"] else PeerError)(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _send(self, values: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(values) + "\n")
        self._process.stdin.flush()

    def _ended(self) -> str:
        """Why there is no answer: the last line that the process wrote."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"its process ended: {lines[-1] if lines else f'exit code {code}'}"


class ProcessSystem:
    """A system that runs in a process of its own; see `runs.System`.

    Args:
        sources: where models come from.
        name: of the system; see `contenders`.
        environment: variables of its process.

    Raises:
        PeerError: it cannot take part.
    """

    def __init__(
        self, sources: Sources, name: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._worker = Worker(sources, environment)
        try:
            self._worker.ask(build=name)
        except BaseException:
            self._worker.close()
            raise

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt; the clock runs in the process."""
        return _run_of(self._worker.ask(prompt_ids=list(prompt_ids), params=asdict(params)))

    def peak_memory(self) -> int:
        """Bytes the process has had in main memory at most."""
        return int(self._worker.ask(peak_memory=True))

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def make_elsewhere(sources: Sources, name: str) -> None:
    """Make a file that a system reads, in a process that ends with it; see `contenders.make_file`.

    Raises:
        PeerError: it cannot be made.
    """
    worker = Worker(sources)
    try:
        worker.ask(make=name)
    finally:
        worker.close()


def _run_of(values: dict[str, Any]) -> Run:
    parts = values.pop("parts")
    ids = tuple(values.pop("token_ids"))
    return Run(token_ids=ids, parts=StepParts(**parts) if parts else None, **values)


def _answer(workshop: Workshop, built: list[System], request: dict[str, Any]) -> Any:
    if "make" in request:
        make_file(workshop, request["make"])
        return None
    if "build" in request:
        built.append(build(workshop, request["build"]))
        return None
    if "peak_memory" in request:
        return peak_memory()
    stop = tuple(request["params"].pop("stop"))
    params = SamplingParams(**request["params"], stop=stop)
    return asdict(built[0].run(request["prompt_ids"], params))


def _serve() -> None:
    keep_to_one_arena()  # as the command does
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    built: list[System] = []
    workshop = Workshop(Sources(**json.loads(sys.stdin.readline())))
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"value": _answer(workshop, built, json.loads(line))}
        except SequoiaError as error:
            answer = {"error": str(error), "no_speed": isinstance(error, NoSpeedError)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
