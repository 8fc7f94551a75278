"""Systems in processes of their own, so that no library's threads and memory count for another's.

A request and its answer are a line of JSON each. Run as a module, this is the process's side.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from sequoia_core.bench.runs import Decode, NoSpeedError, PeerError, Run, peer_code
from sequoia_core.bench.systems import INSTALL, ModelFactory, Sources, SystemSpec, build
from sequoia_core.config import SamplingParams
from sequoia_core.errors import SequoiaError
from sequoia_core.files import decode, encode
from sequoia_core.model.malloc_trim import keep_to_one_arena

COMMAND = ("-m", "sequoia_core.bench.process")
END_SECONDS = 10.0


class WorkerProcess:
    """A process that loads what the sources describe and answers requests.

    The variables of `environment` are added to this process's own.
    """

    def __init__(self, sources: Sources, environment: Mapping[str, str] | None = None) -> None:
        threads = {"OMP_NUM_THREADS": str(sources.threads)}
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115  # as long as the process
        # a session of its own: an interrupt at the terminal is for this process to handle
        process = subprocess.Popen(
            [sys.executable, *COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | threads | dict(environment or {}),
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._requests, self._answers = process, process.stdin, process.stdout
        with suppress(BrokenPipeError):
            self._send(encode(sources))

    def ask(self, **request: Any) -> Any:
        """Send a request and wait for the answer.

        Raises NoSpeedError if a run took too few steps, PeerError if the system cannot take part or
        has broken down, or the process has ended.
        """
        line = ""
        with suppress(BrokenPipeError):
            self._send(request)
            line = self._answers.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            raise PeerError(f"its process ended: {lines[-1] if lines else f'exit code {code}'}")
        answer = json.loads(line)
        if "error" in answer:
            raise (NoSpeedError if answer["no_speed"] else PeerError)(answer["error"])
        return answer["value"]

    def decode(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode a prompt with the system that was built; the clock runs in the process."""
        answer = self.ask(prompt_ids=list(prompt_ids), params=encode(params))
        return decode(Run, answer)  # type: ignore[no-any-return]

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._errors.close()

    def _send(self, values: Mapping[str, Any]) -> None:
        self._requests.write(json.dumps(values) + "\n")
        self._requests.flush()


@dataclass(frozen=True, slots=True)
class StartedSystems:
    """Systems that take part, in the report's order, and why others do not, all by name."""

    systems: dict[str, Decode] = field(default_factory=dict)
    processes: dict[str, WorkerProcess] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


@contextmanager
def start_systems(factory: ModelFactory, specs: Iterable[SystemSpec]) -> Iterator[StartedSystems]:
    """Build all that can be built; processes end with the block."""
    started = StartedSystems()
    try:
        for spec in specs:
            try:
                _start(factory, spec, started)
            except PeerError as error:
                started.absent[spec.name] = str(error)
        yield started
    finally:
        for process in started.processes.values():
            process.close()


def _start(factory: ModelFactory, spec: SystemSpec, started: StartedSystems) -> None:
    if importlib.util.find_spec(spec.module) is None:
        raise PeerError(f"{spec.module} is not installed; install it with: {INSTALL}")
    if spec.here:
        started.systems[spec.name] = spec.build(factory)
        return
    plan = replace(factory.sources.plan, **spec.changes)
    sources = replace(factory.sources, plan=plan)
    if spec.file and not factory.place(spec.file).exists():
        # made by a process, so that its memory is returned
        with closing(WorkerProcess(sources)) as worker:
            worker.ask(make=spec.file)
    process = WorkerProcess(sources, spec.environment)
    try:
        process.ask(build=spec.name)
    except BaseException:
        process.close()
        raise
    started.processes[spec.name] = process
    started.systems[spec.name] = process.decode


def main() -> None:
    """Read the sources, then answer requests until the input ends."""
    keep_to_one_arena()  # as the command does
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    built: list[Decode] = []
    factory = ModelFactory(decode(Sources, json.loads(sys.stdin.readline())))
    for line in sys.stdin:
        try:
            answer = {"value": _answer(factory, built, json.loads(line))}
        except SequoiaError as error:
            answer = {"error": str(error), "no_speed": isinstance(error, NoSpeedError)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(factory: ModelFactory, built: list[Decode], request: Mapping[str, Any]) -> Any:
    match request:
        case {"make": name}:
            with peer_code():
                factory.made(name)
            return None
        case {"build": name}:
            built.append(build(factory, name))
            return None
        case {"peak_memory": _}:
            return peak_memory()
    params = decode(SamplingParams, request["params"])
    return encode(built[0](request["prompt_ids"], params))


def peak_memory() -> int:
    """Most bytes this process has had in main memory.

    The kernel's own counter is of this program. `getrusage` also counts what the process was before
    it became this program, which for a child is as large as its parent.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        status = ""
    if found := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
        return int(found[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
