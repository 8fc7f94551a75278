"""Systems in processes of their own, so that no library's threads and memory count for another's.

A request and its answer are a line of JSON each; `worker` is the other side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from tempfile import TemporaryFile
from typing import IO, Any

from sequoia_core.bench.model_factory import ModelFactory, Sources
from sequoia_core.bench.runs import NoSpeedError, PeerError, Run, System
from sequoia_core.bench.systems import SystemSpec
from sequoia_core.config import SamplingParams
from sequoia_core.files import decode, encode

COMMAND = ("-m", "sequoia_core.bench.worker")
END_SECONDS = 10.0


class WorkerProcess:
    """A process that loads what the sources describe and answers requests.

    The variables of `environment` are added to this process's own.
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
            self._send(encode(sources))

    def ask(self, **request: Any) -> Any:
        """Send a request and wait for the answer.

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
            raise PeerError(self._why_it_ended())
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

    def _why_it_ended(self) -> str:
        """The last line that the process wrote."""
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"its process ended: {lines[-1] if lines else f'exit code {code}'}"


class ProcessSystem(WorkerProcess):
    """A system that runs in a process of its own; see `runs.System`.

    Raises:
        PeerError: it cannot take part.
    """

    def __init__(
        self, sources: Sources, name: str, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sources, environment)
        self.name = name
        try:
            self.ask(build=name)
        except BaseException:
            self.close()
            raise

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt; the clock runs in the process."""
        answer = self.ask(prompt_ids=list(prompt_ids), params=encode(params))
        return decode(Run, answer)  # type: ignore[no-any-return]

    def peak_memory(self) -> int:
        """Most bytes the process has had in main memory."""
        return int(self.ask(peak_memory=True))


@dataclass(frozen=True, slots=True)
class StartedSystems:
    """Systems that take part, in the report's order, and why others do not, by name.

    A context, at whose end the processes have ended.
    """

    systems: list[System] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> StartedSystems:
        return self

    def __exit__(self, *_: object) -> None:
        for system in self.systems:
            if isinstance(system, ProcessSystem):
                system.close()


def start_systems(factory: ModelFactory, specs: Iterable[SystemSpec]) -> StartedSystems:
    """Build all that can be built."""
    started = StartedSystems()
    try:
        for spec in specs:
            try:
                started.systems.append(_started(factory, spec))
            except PeerError as error:
                started.absent[spec.name] = str(error)
    except BaseException:
        started.__exit__()
        raise
    return started


def _started(factory: ModelFactory, spec: SystemSpec) -> System:
    spec.check_installed()
    if spec.here:
        return spec.build(factory)
    sources = replace(factory.sources, **spec.changes)
    for name in spec.files:
        if not factory.is_made(name):  # made by a process, so that its memory is returned
            with closing(WorkerProcess(sources)) as worker:
                worker.ask(make=name)
    return ProcessSystem(sources, spec.name, spec.environment)
