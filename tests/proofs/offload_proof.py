"""Decode a model that is larger than the memory it may have, and check what offloading promises.

`make offload-proof` runs it; it takes minutes and some gigabytes of disk. Linux only, since nowhere
else can a process's data be limited and its reads be counted.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.model.loading.loader import BUNDLED_DRAFT
from sequoia_core.tree.growmap import GrowMap
from tests.proofs.offload_model import RandomLlama
from tests.proofs.offload_timeline import Overlap
from tests.proofs.offload_worker import DecodeStats, DecodeTask, WorkerResult, run_worker

MIB = 1 << 20
PROMPT_TOKENS = 16
WANTED_SPEEDUP = 2.0


@dataclass(frozen=True, slots=True)
class ProofPlan:
    """What is run.

    Attributes:
        model: its shape.
        limit: most bytes of data that a decoding process may have.
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
class ProofResult:
    """What the processes measured.

    Attributes:
        weights: number of weights.
        resident: the model in memory.
        refused: the model in memory under the limit, which must fail.
        cold: offloaded under the limit, every page read from the disk.
        warm: offloaded under the limit, with the page cache.
    """

    weights: int
    resident: WorkerResult
    refused: WorkerResult
    cold: WorkerResult
    warm: WorkerResult

    @property
    def failures(self) -> list[str]:
        """What does not hold, in words."""
        wanted = self.resident.plain.answers
        failed = [
            f"{what}: {result.error}"
            for what, result in (
                ("resident", self.resident),
                ("from disk", self.cold),
                ("from the page cache", self.warm),
            )
            if result.error is not None
        ]
        if failed:
            return failed
        if self.refused.error is None:
            failed.append("the limit does not bite: the resident model decodes under it")
        for result in (self.cold, self.warm):
            if result.plain.answers != wanted:
                failed.append("plain decoding of the offloaded model gives other tokens")
            if result.tree.answers != wanted:
                failed.append("the tree gives other tokens")
        if _speedup(self.cold) < WANTED_SPEEDUP:
            failed.append(f"the tree is less than {WANTED_SPEEDUP:g} times as fast from disk")
        return failed


def embedded_rates() -> tuple[float, ...]:
    """The embedded pair's acceptance at temperature 0, as its draft's files state it."""
    settings = json.loads((BUNDLED_DRAFT / "config.json").read_text(encoding="utf-8"))
    return tuple(settings["sequoia"]["acceptance_rates"]["greedy"])


def prove(plan: ProofPlan, directory: Path, report: Callable[[str], None]) -> ProofResult:
    """Write the model into an empty directory and decode with it.

    Raises:
        ParameterError: there is no room for it.
        SequoiaError: a process ended without an answer.
    """
    report("writing the model")
    weights = plan.model.write(directory)
    rng = random.Random(0)
    prompts = [rng.choices(range(plan.model.vocab), k=PROMPT_TOKENS) for _ in range(plan.prompts)]
    task = DecodeTask(str(directory), prompts, plan.tokens)
    report("resident")
    resident = run_worker(task)
    report("resident, under the limit")
    limited = replace(task, limit=plan.limit)
    refused = run_worker(limited)
    texts = resident.plain.answers
    offloaded = replace(
        limited,
        offload=Offload.DISK.value,
        texts=texts,
        rates=list(plan.rates),
        rows=list(plan.rows),
    )
    report("offloaded, under the limit, from the disk")
    cold = run_worker(replace(offloaded, cold=True))
    report("offloaded, under the limit, from the page cache")
    warm = run_worker(offloaded)
    return ProofResult(weights, resident, refused, cold, warm)


def lines_of(plan: ProofPlan, result: ProofResult) -> Iterator[str]:
    """The report."""
    size = 4 * result.weights
    yield f"weights   {result.weights / 1e6:.0f} M, {size / MIB:.0f} MiB in float32"
    yield f"limit     {plan.limit / MIB:.0f} MiB of data (RLIMIT_DATA)"
    yield f"refused   the resident model under the limit: {result.refused.error}"
    yield f"resident  {_speed(result.resident.plain)}; peak {result.resident.peak / MIB:.0f} MiB"
    for name, offloaded in (("disk", result.cold), ("cached", result.warm)):
        yield ""
        yield from _result_lines(name, offloaded, result.resident.plain.answers)
    yield ""
    yield from result.failures or ["all of it holds"]


def _result_lines(
    name: str, result: WorkerResult, wanted: Sequence[Sequence[int]]
) -> Iterator[str]:
    if result.error is not None:
        yield f"{name:<9} {result.error}"
        return
    yield f"{name:<9} peak {result.peak / MIB:.0f} MiB, data {result.data / MIB:.0f} MiB"
    times = ", ".join(f"{rows}: {ms:.0f}" for rows, ms in result.forward_ms.items())
    yield f"          a forward, ms by rows   {times}"
    tree = GrowMap(tuple(result.parents))
    steps = len(result.tree.seconds)
    emitted = sum(map(len, result.tree.answers))
    yield (
        f"          tree of {tree.size} nodes, depth {tree.depth}: {emitted / steps:.2f} tokens "
        f"per step, {result.expected:.2f} expected"
    )
    for label, stats in (("plain", result.plain), ("tree", result.tree)):
        shared, every = _agreement(wanted, stats.answers)
        yield (
            f"          {label:<6} {_speed(stats)}; "
            f"{shared} of {every} tokens the resident model's; "
            f"{stats.bytes_from_disk / MIB:.0f} of {stats.bytes_read / MIB:.0f} MiB from the disk"
        )
        overlap = Overlap(**stats.overlap)
        yield (
            f"                 reading {overlap.reading:.1f} s, computing "
            f"{overlap.computing:.1f} s, both at once {overlap.both:.1f} s "
            f"({overlap.hidden:.0%} of the shorter), waiting {overlap.waiting:.1f} s"
        )
        yield f"                 a step of {1e3 * stats.step:.0f} ms:"
        yield from (f"                 {line}" for line in stats.timeline)
    yield f"          speed-up {_speedup(result):.2f}"


def _speedup(result: WorkerResult) -> float:
    return result.plain.per_token / result.tree.per_token


def _speed(stats: DecodeStats) -> str:
    low, high = min(stats.seconds), max(stats.seconds)
    return (
        f"{1e3 * stats.per_token:.0f} ms/token, {1e3 * median(stats.seconds):.0f} ms/step "
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
        plan = ProofPlan(model, given.limit * MIB, given.prompts, given.tokens, embedded_rates())
        with TemporaryDirectory(prefix="offload-proof-", dir=given.folder) as directory:
            result = prove(plan, Path(directory), _report)
    except ParameterError as error:
        _report(str(error))
        return 2
    except (SequoiaError, OSError) as error:
        _report(str(error))
        return 1
    sys.stdout.writelines(f"{line}\n" for line in lines_of(plan, result))
    return 1 if result.failures else 0


def _report(message: str) -> None:
    sys.stderr.write(f"offload-proof: {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
