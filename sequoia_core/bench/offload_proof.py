"""Whether offloading keeps its promises: a model larger than the memory it is decoded in.

Owns the experiment: which processes decode what under which limit, what must hold, and the report.
`python -m sequoia_core.bench.offload_proof` runs it; it takes minutes and some gigabytes of disk.
Linux only, since nowhere else can a process be held to a limit and its reads be counted.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from sequoia_core.bench.offload_model import RandomLlama
from sequoia_core.bench.offload_timeline import Overlap
from sequoia_core.bench.offload_worker import Outcome, Task, Way, work
from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.model.loading.pair import BUNDLED_DRAFT
from sequoia_core.tree.growmap import GrowMap

MIB = 1 << 20
PROMPT_TOKENS = 16
WANTED_SPEEDUP = 2.0


@dataclass(frozen=True, slots=True)
class Proof:
    """What is run.

    Attributes:
        model: its shape.
        limit: bytes of data that a decoding process may have.
        prompts: how many.
        tokens: of each answer.
        rates: acceptance of the draft.
        rows: of the forwards that are timed before a tree is chosen.
    """

    model: RandomLlama
    limit: int
    prompts: int
    tokens: int
    rates: tuple[float, ...]
    rows: tuple[int, ...] = (1, 8, 16, 24, 32, 48, 64)

    def __post_init__(self) -> None:
        if sys.platform != "linux":
            raise ParameterError("the memory of a process can be limited on Linux only")
        if min(self.prompts, self.tokens) < 1:
            raise ParameterError("give at least one prompt and one token")


@dataclass(frozen=True, slots=True)
class Proven:
    """What the processes found.

    Attributes:
        weights: of the model, how many.
        resident: the model in memory.
        refused: the model in memory under the limit, which must not do.
        cold: offloaded under the limit, every page read from the disk.
        warm: likewise, pages kept by the system where it has room.
    """

    weights: int
    resident: Outcome
    refused: Outcome
    cold: Outcome
    warm: Outcome

    @property
    def failures(self) -> list[str]:
        """What does not hold, in words."""
        wanted = self.resident.plain.answers
        failed = [
            f"{what}: {outcome.error}"
            for what, outcome in (
                ("resident", self.resident),
                ("from disk", self.cold),
                ("from the page cache", self.warm),
            )
            if outcome.error is not None
        ]
        if failed:
            return failed
        if self.refused.error is None:
            failed.append("the limit does not bite: the resident model decodes under it")
        for outcome in (self.cold, self.warm):
            if outcome.plain.answers != wanted:
                failed.append("plain decoding of the offloaded model gives other tokens")
            if outcome.tree.answers != wanted:
                failed.append("the tree gives other tokens")
        if _speedup(self.cold) < WANTED_SPEEDUP:
            failed.append(f"the tree is less than {WANTED_SPEEDUP:g} times as fast from disk")
        return failed


def embedded_rates() -> tuple[float, ...]:
    """The embedded pair's acceptance at temperature 0, as its draft's files state it."""
    settings = json.loads((BUNDLED_DRAFT / "config.json").read_text(encoding="utf-8"))
    return tuple(settings["sequoia"]["acceptance_rates"]["greedy"])


def prove(proof: Proof, directory: Path, report: Callable[[str], None]) -> Proven:
    """Write the model into an empty directory and decode with it.

    Raises:
        ParameterError: there is no room for it.
        SequoiaError: a process ended without an answer.
    """
    report("writing the model")
    weights = proof.model.write(directory)
    rng = random.Random(0)
    prompts = [rng.choices(range(proof.model.vocab), k=PROMPT_TOKENS) for _ in range(proof.prompts)]
    task = Task(str(directory), prompts, proof.tokens)
    report("resident")
    resident = work(task)
    report("resident, under the limit")
    limited = replace(task, limit=proof.limit)
    refused = work(limited)
    texts = resident.plain.answers
    offloaded = replace(
        limited,
        offload=Offload.DISK.value,
        texts=texts,
        rates=list(proof.rates),
        rows=list(proof.rows),
    )
    report("offloaded, under the limit, from the disk")
    cold = work(replace(offloaded, cold=True))
    report("offloaded, under the limit, from the page cache")
    warm = work(offloaded)
    return Proven(weights, resident, refused, cold, warm)


def lines_of(proof: Proof, proven: Proven) -> Iterator[str]:
    """The report."""
    size = 4 * proven.weights
    yield f"weights   {proven.weights / 1e6:.0f} M, {size / MIB:.0f} MiB in float32"
    yield f"limit     {proof.limit / MIB:.0f} MiB of data (RLIMIT_DATA)"
    yield f"refused   the resident model under the limit: {proven.refused.error}"
    yield f"resident  {_speed(proven.resident.plain)}; peak {proven.resident.peak / MIB:.0f} MiB"
    for name, outcome in (("disk", proven.cold), ("cached", proven.warm)):
        yield ""
        yield from _outcome_lines(name, outcome, proven.resident.plain.answers)
    yield ""
    yield from proven.failures or ["all of it holds"]


def _outcome_lines(name: str, outcome: Outcome, wanted: Sequence[Sequence[int]]) -> Iterator[str]:
    if outcome.error is not None:
        yield f"{name:<9} {outcome.error}"
        return
    yield f"{name:<9} peak {outcome.peak / MIB:.0f} MiB, data {outcome.data / MIB:.0f} MiB"
    times = ", ".join(f"{rows}: {ms:.0f}" for rows, ms in outcome.forward_ms.items())
    yield f"          a forward, ms by rows   {times}"
    tree = GrowMap(tuple(outcome.parents))
    steps = len(outcome.tree.seconds)
    emitted = sum(map(len, outcome.tree.answers))
    yield (
        f"          tree of {tree.size} nodes, depth {tree.depth}: {emitted / steps:.2f} tokens "
        f"per step, {outcome.expected:.2f} expected"
    )
    for label, way in (("plain", outcome.plain), ("tree", outcome.tree)):
        shared, every = _agreement(wanted, way.answers)
        yield (
            f"          {label:<6} {_speed(way)}; {shared} of {every} tokens the resident model's; "
            f"{way.bytes_from_disk / MIB:.0f} of {way.bytes_read / MIB:.0f} MiB from the disk"
        )
        overlap = Overlap(**way.overlap)
        yield (
            f"                 reading {overlap.reading:.1f} s, computing "
            f"{overlap.computing:.1f} s, both at once {overlap.both:.1f} s "
            f"({overlap.hidden:.0%} of the shorter), waiting {overlap.waiting:.1f} s"
        )
        yield f"                 a step of {1e3 * way.step:.0f} ms:"
        yield from (f"                 {line}" for line in way.timeline)
    yield f"          speed-up {_speedup(outcome):.2f}"


def _speedup(outcome: Outcome) -> float:
    return outcome.plain.per_token / outcome.tree.per_token


def _speed(way: Way) -> str:
    low, high = min(way.seconds), max(way.seconds)
    return (
        f"{1e3 * way.per_token:.0f} ms/token, {1e3 * median(way.seconds):.0f} ms/step "
        f"({1e3 * low:.0f} to {1e3 * high:.0f})"
    )


def _agreement(wanted: Sequence[Sequence[int]], found: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Tokens before the first difference, over all answers, and all tokens."""
    shared = 0
    for one, other in zip(wanted, found, strict=True):
        pairs = enumerate(zip(one, other, strict=True))
        shared += next((at for at, (a, b) in pairs if a != b), len(one))
    return shared, sum(map(len, wanted))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proof; 0 if everything holds, 2 if it cannot be run as asked, else 1."""
    parser = argparse.ArgumentParser(prog="offload-proof", description=__doc__.partition("\n")[0])
    parser.add_argument("--limit", type=int, default=2048, help="MiB of data a process may have")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24, help="of each answer")
    parser.add_argument("--layers", type=int, default=RandomLlama().layers)
    parser.add_argument("--folder", type=Path, default=None, help="where the model is written")
    given = parser.parse_args(arguments)
    try:
        model = RandomLlama(layers=given.layers)
        proof = Proof(model, given.limit * MIB, given.prompts, given.tokens, embedded_rates())
        with TemporaryDirectory(prefix="offload-proof-", dir=given.folder) as directory:
            proven = prove(proof, Path(directory), _tell)
    except ParameterError as error:
        _tell(str(error))
        return 2
    except (SequoiaError, OSError) as error:
        _tell(str(error))
        return 1
    sys.stdout.writelines(f"{line}\n" for line in lines_of(proof, proven))
    return 1 if proven.failures else 0


def _tell(message: str) -> None:
    sys.stderr.write(f"offload-proof: {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
