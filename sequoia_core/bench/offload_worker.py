"""One process that decodes with a target too large for it, or is refused.

Owns the limit on its own memory, the ways it decodes, and what is counted meanwhile. Which model,
and what the figures mean, is the caller's. Run as a module it reads a task and writes an outcome.
"""

from __future__ import annotations

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

import torch

from sequoia_core.bench.agreeing_draft import AgreeingDraft
from sequoia_core.bench.memory import peak_memory
from sequoia_core.bench.offload_timeline import Overlap, draw
from sequoia_core.config import Mode, Offload, SamplingParams, WeightFormat
from sequoia_core.decode.baseline_timer import NoBaseline
from sequoia_core.decode.engine import Engine
from sequoia_core.decode.tree_choice import BundledAdvisor
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Step
from sequoia_core.model.loading.pair import Pair, load_pair
from sequoia_core.model.offload.layer_stream import Span
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import choose_tree, expected_tokens_table

COMMAND = ("-m", "sequoia_core.bench.offload_worker")
DEPTH = 10
DRAFT_MS = 1.0
"""Of a drafting pass; the draft that stands for a trained one takes about that."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to decode and how.

    Attributes:
        directory: of the model.
        prompts: token ids, one list per answer.
        tokens: of each answer.
        offload: an `Offload`.
        texts: what plain decoding is known to answer; decodes with a tree too.
        rates: acceptance of the draft for it.
        rows: of the forwards that are timed before a tree is chosen; 1 is among them.
        cold: forget the cached pages of the model's files before every step.
        limit: most bytes of data that the process may have; None is as much as it likes.
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
class Way:
    """What plain decoding, or decoding with a tree, came to over all answers.

    Attributes:
        answers: token ids.
        seconds: of each step.
        bytes_read: from files, wherever they were.
        bytes_from_disk: of those, from the block device.
        timeline: one of the last steps, drawn.
        step: its seconds.
        overlap: over all steps.
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
        """Seconds."""
        return sum(self.seconds) / sum(map(len, self.answers))


@dataclass(slots=True)
class Outcome:
    """What a worker found.

    Attributes:
        plain: plain decoding.
        tree: decoding with a tree; empty where none was asked for.
        parents: the tree's shape.
        expected: its expected tokens per step.
        forward_ms: a forward by its rows.
        peak: bytes in main memory at most.
        data: bytes of writable memory at the end, what the limit is on.
        error: why there is nothing else; None if there is.
    """

    plain: Way = field(default_factory=Way)
    tree: Way = field(default_factory=Way)
    parents: list[int] = field(default_factory=list)
    expected: float = 1.0
    forward_ms: dict[str, float] = field(default_factory=dict)
    peak: int = 0
    data: int = 0
    error: str | None = None

    @classmethod
    def of(cls, values: dict[str, object]) -> Outcome:
        """From `asdict`, by way of JSON."""
        plain, tree = (Way(**values.pop(name)) for name in ("plain", "tree"))  # type: ignore[arg-type]
        return cls(plain, tree, **values)  # type: ignore[arg-type]


def work(task: Task) -> Outcome:
    """Do a task in a process of its own.

    Raises:
        SequoiaError: the process ended without an outcome.
    """
    done = subprocess.run(
        [sys.executable, *COMMAND],
        input=json.dumps(asdict(task)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SequoiaError(f"the worker ended: {lines[-1]}")
    return Outcome.of(json.loads(done.stdout.splitlines()[-1]))


class Numbers:
    """A `TextCodec` for tokens that mean nothing."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Their ids."""
        return " ".join(map(str, token_ids))

    def token_text(self, token_id: int) -> str:
        """Its id."""
        return str(token_id)


class Worker:
    """Decodes as a task says, in this process.

    Args:
        task: what to do.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._files = sorted(Path(task.directory).glob("*.safetensors"))
        self._target = self._loaded().target
        self._spans: list[Span] = []
        if self._target.ring is not None:
            self._target.ring.watcher = self._spans.append

    def run(self) -> Outcome:
        """All answers, plain and with a tree in turns."""
        task, outcome = self._task, Outcome()
        growmap = self._choose(outcome) if task.texts else None
        for at, prompt in enumerate(task.prompts):
            self._answer(prompt, outcome.plain)
            if growmap is not None:
                self._answer(prompt, outcome.tree, growmap, [*prompt, *task.texts[at]])
        outcome.peak, outcome.data = peak_memory(), _data_bytes()
        return outcome

    def _loaded(self) -> Pair:
        task = self._task
        return load_pair(
            task.directory,
            dtype="float32",  # in which a tree's tokens are plain decoding's
            device="cpu",
            weights=WeightFormat.TORCH,
            offload=Offload(task.offload),
        )

    def _choose(self, outcome: Outcome) -> GrowMap:
        """The tree that the measured forwards make fastest."""
        cache = self._target.new_cache()
        self._target.extend(torch.tensor(self._task.prompts[0]), cache)
        length = cache.length
        for rows in self._task.rows:
            took = []
            for _ in range(2):
                self._forget_pages()
                began = perf_counter()
                ids = torch.arange(rows)
                self._target.forward(ids, ids + length, None, cache)
                took.append(1e3 * (perf_counter() - began))
                cache.truncate(length)
            outcome.forward_ms[str(rows)] = median(took)
        times = {int(rows): ms for rows, ms in outcome.forward_ms.items()}
        plain_ms = times.pop(1)
        table = expected_tokens_table(self._task.rates, max(times), DEPTH, len(self._task.rates))
        plan = choose_tree(table, times, DRAFT_MS, plain_ms)
        outcome.parents, outcome.expected = list(plan.tree.parents), plan.expected_tokens
        return plan.tree

    def _answer(
        self,
        prompt: Sequence[int],
        way: Way,
        growmap: GrowMap | None = None,
        text: Sequence[int] = (),
    ) -> None:
        draft = None
        if growmap is not None:
            rates, seed = self._task.rates, len(way.answers)
            draft = DraftModel(AgreeingDraft(text, self._target.vocab_size, rates, seed))
        engine = Engine(
            self._target,
            draft,
            codec=Numbers(),
            eos_token_ids=frozenset(),
            advisor=BundledAdvisor.default({}),
        )
        engine.clock = NoBaseline()
        engine.tree_choice = TreeChoice(Mode.SEQUOIA if growmap else Mode.AR, growmap)
        self._spans.clear()
        read, from_disk = _bytes_read()
        tokens: list[int] = []
        for step in self._steps(engine, prompt):
            tokens += step.token_ids
            way.step = step.timings.total_ms / 1e3
            way.seconds.append(way.step)
            if self._spans:
                ended = self._spans[-1].ended
                way.timeline = draw(self._spans, ended - way.step, ended)
        way.answers.append(tokens)
        read_after, from_disk_after = _bytes_read()
        way.bytes_read += read_after - read
        way.bytes_from_disk += from_disk_after - from_disk
        for name, seconds in asdict(Overlap.of(self._spans)).items():
            way.overlap[name] = way.overlap.get(name, 0.0) + seconds

    def _steps(self, engine: Engine, prompt: Sequence[int]) -> Iterator[Step]:
        params = SamplingParams(temperature=0.0, max_new_tokens=self._task.tokens)
        self._forget_pages()
        for event in engine.generate(prompt, params):
            if isinstance(event, Step):
                yield event
                self._forget_pages()

    def _forget_pages(self) -> None:
        if not self._task.cold:
            return
        for path in self._files:
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


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


def _serve() -> None:
    task = Task(**json.load(sys.stdin))
    if task.limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (task.limit, task.limit))
    try:
        outcome = Worker(task).run()
    except (SequoiaError, MemoryError, OSError, RuntimeError) as error:  # PyTorch's is the last
        outcome = Outcome(error=str(error).strip().splitlines()[0])
    sys.stdout.write(f"{json.dumps(asdict(outcome))}\n")


if __name__ == "__main__":
    _serve()
