"""One process that decodes, perhaps within a limit on its memory.

Run as a module it reads a `DecodeTask` from standard input and writes a `WorkerResult`, as JSON.
"""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from sequoia_core.bench.process import peak_memory
from sequoia_core.config import Mode, Offload, SamplingParams, WeightFormat
from sequoia_core.decode.engine import Engine
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Step
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.model.offload.model import OffloadedLlama
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import choose_tree, expected_tokens_table
from tests.core.models import PlainCodec
from tests.proofs.offload_timeline import Overlap, Span, draw, watch
from tests.proofs.oracle_draft import OracleDraft

COMMAND = ("-m", "tests.proofs.offload_worker")
ROOT = Path(__file__).parents[2]
DEPTH = 10
DRAFT_MS = 1.0
"""Of a draft forward, about what a trained draft of the usual size takes."""


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """What to decode and how.

    Attributes:
        directory: of the model.
        prompts: token ids, one list per answer.
        tokens: of each answer.
        offload: an `Offload`.
        texts: known answers of plain decoding; if given, a tree decodes too.
        rates: acceptance of the draft.
        rows: of the forwards that are timed before the tree is chosen; 1 is among them.
        cold: drop the cached pages of the model's files before every step.
        limit: most bytes of data (RLIMIT_DATA), or None.
    """

    directory: str
    prompts: list[list[int]]
    tokens: int
    offload: str = Offload.NONE.value
    texts: list[list[int]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    cold: bool = False
    limit: int | None = None


@dataclass(slots=True)
class DecodeStats:
    """All answers decoded in one way.

    Attributes:
        answers: token ids.
        seconds: of each step.
        bytes_read: from files, cached or not.
        bytes_from_disk: of those, from the block device.
        timeline: one of the last steps, drawn.
        step: seconds of that step.
        overlap: an `Overlap` over all steps.
    """

    answers: list[list[int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    bytes_read: int = 0
    bytes_from_disk: int = 0
    timeline: list[str] = field(default_factory=list)
    step: float = 0.0
    overlap: dict[str, float] = field(default_factory=dict)

    @property
    def per_token(self) -> float:
        return sum(self.seconds) / sum(map(len, self.answers))


@dataclass(slots=True)
class WorkerResult:
    """What a worker measured.

    Attributes:
        plain: plain decoding.
        tree: decoding with a tree; empty if none was asked for.
        parents: of the tree.
        expected: its expected tokens per step.
        forward_ms: by number of rows.
        peak: most bytes in main memory.
        data: bytes of writable memory at the end, what the limit applies to.
        error: why everything else is empty, or None.
    """

    plain: DecodeStats = field(default_factory=DecodeStats)
    tree: DecodeStats = field(default_factory=DecodeStats)
    parents: list[int] = field(default_factory=list)
    expected: float = 1.0
    forward_ms: dict[str, float] = field(default_factory=dict)
    peak: int = 0
    data: int = 0
    error: str | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> "WorkerResult":
        """From the JSON of `asdict`."""
        plain, tree = (DecodeStats(**values.pop(name)) for name in ("plain", "tree"))
        return cls(plain, tree, **values)


def run_worker(task: DecodeTask) -> WorkerResult:
    """Do a task in a new process.

    Raises:
        SequoiaError: the process ended without a result.
    """
    done = subprocess.run(
        [sys.executable, *COMMAND],
        input=json.dumps(asdict(task)),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SequoiaError(f"the worker ended: {lines[-1]}")
    return WorkerResult.of(json.loads(done.stdout.splitlines()[-1]))


class OffloadWorker:
    """Does a task in this process."""

    def __init__(self, task: DecodeTask) -> None:
        self._task = task
        self._files = sorted(Path(task.directory).glob("*.safetensors"))
        self._target = load_pair(
            task.directory,
            dtype="float32",  # so that a tree gives plain decoding's tokens
            device="cpu",
            weights=WeightFormat.TORCH,
            offload=Offload(task.offload),
        ).target
        self._spans: list[Span] = []
        if isinstance(self._target, OffloadedLlama):
            watch(self._target.layer_stream, self._spans.append)

    def run(self) -> WorkerResult:
        """All answers, plain and with a tree in turns."""
        task, result = self._task, WorkerResult()
        growmap = self._choose_tree(result) if task.texts else None
        for at, prompt in enumerate(task.prompts):
            self._answer(prompt, result.plain)
            if growmap is not None:
                self._answer(prompt, result.tree, growmap, [*prompt, *task.texts[at]])
        result.peak, result.data = peak_memory(), _data_bytes()
        return result

    def _choose_tree(self, result: WorkerResult) -> GrowMap:
        """The tree that is fastest by the measured forwards."""
        cache = self._target.new_cache()
        self._target.extend(torch.tensor(self._task.prompts[0]), cache)
        length = cache.length
        for rows in self._task.rows:
            took = []
            for _ in range(2):
                self._drop_cached_pages()
                began = perf_counter()
                ids = torch.arange(rows)
                self._target.forward(ids, ids + length, None, cache)
                took.append(1e3 * (perf_counter() - began))
                cache.truncate(length)
            result.forward_ms[str(rows)] = median(took)
        times = {int(rows): ms for rows, ms in result.forward_ms.items()}
        plain_ms = times.pop(1)
        table = expected_tokens_table(self._task.rates, max(times), DEPTH, len(self._task.rates))
        plan = choose_tree(table, times.__getitem__, lambda _rows: DRAFT_MS, plain_ms, sizes=times)
        result.parents, result.expected = list(plan.tree.parents), plan.expected_tokens
        return plan.tree

    def _answer(
        self,
        prompt: Sequence[int],
        stats: DecodeStats,
        growmap: GrowMap | None = None,
        text: Sequence[int] = (),
    ) -> None:
        draft = None
        if growmap is not None:
            rates, seed = self._task.rates, len(stats.answers)
            draft = DraftModel(OracleDraft(text, self._target.vocab_size, rates, seed))
        engine = Engine(
            self._target,
            draft,
            codec=PlainCodec(),
            eos_token_ids=frozenset(),
            advisor=BundledAdvisor({}),
        )
        engine.clock = NoBaseline()
        engine.tree_choice = TreeChoice(Mode.SEQUOIA if growmap else Mode.AR, growmap)
        self._spans.clear()
        read, from_disk = _bytes_read()
        tokens: list[int] = []
        for step in self._steps(engine, prompt):
            tokens += step.token_ids
            stats.step = step.timings.total_ms / 1e3
            stats.seconds.append(stats.step)
            if self._spans:
                ended = self._spans[-1].ended
                stats.timeline = draw(self._spans, ended - stats.step, ended)
        stats.answers.append(tokens)
        read_after, from_disk_after = _bytes_read()
        stats.bytes_read += read_after - read
        stats.bytes_from_disk += from_disk_after - from_disk
        for name, seconds in asdict(Overlap.of(self._spans)).items():
            stats.overlap[name] = stats.overlap.get(name, 0.0) + seconds

    def _steps(self, engine: Engine, prompt: Sequence[int]) -> Iterator[Step]:
        params = SamplingParams(temperature=0.0, max_new_tokens=self._task.tokens)
        self._drop_cached_pages()
        for event in engine.generate(prompt, params):
            if isinstance(event, Step):
                yield event
                self._drop_cached_pages()

    def _drop_cached_pages(self) -> None:
        if self._task.cold:
            for path in self._files:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bytes_read() -> tuple[int, int]:
    """By this process so far: from files, and of those from a block device."""
    text = Path("/proc/self/io").read_text(encoding="ascii")
    found = dict(re.findall(r"^(\w+): (\d+)$", text, re.MULTILINE))
    return int(found["rchar"]), int(found["read_bytes"])


def _data_bytes() -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^VmData:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    task = DecodeTask(**json.load(sys.stdin))
    if task.limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (task.limit, task.limit))
    try:
        result = OffloadWorker(task).run()
    except (SequoiaError, MemoryError, OSError, RuntimeError) as error:  # RuntimeError: PyTorch's
        result = WorkerResult(error=str(error).strip().splitlines()[0])
    sys.stdout.write(f"{json.dumps(asdict(result))}\n")


if __name__ == "__main__":
    main()
