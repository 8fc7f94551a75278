"""Work on a device that is recorded once and then replayed, with no Python between its kernels.

A recording sees neither new tensors nor new numbers: what changes from one replay to the next lies
in tensors of fixed addresses.
"""

import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Hashable
from contextlib import suppress
from enum import IntEnum
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable
from weakref import WeakSet

import torch

from sequoia_core.model.device import free_bytes
from sequoia_core.model.loading.memory_plan import RECORDING_BYTES, ROW_BUCKETS, is_out_of_memory
from sequoia_core.model.step_inputs import StepInputs

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

LEAST_SPAN = 256
KEPT_RECORDINGS = 64
LEAST_RECORDINGS = 20  # those of the steps over one span, with trees that adapt (0074)
COUNTED = 256  # keys, of which it is counted how often they came
WARM_UPS = 2  # libraries allocate workspaces, and choose their kernels, in the first calls


class Recording(Protocol[T_co]):
    @property
    def outputs(self) -> T_co:
        """Tensors at fixed addresses, which `replay` overwrites."""

    @property
    def nbytes(self) -> int:
        """Bytes by which the device's free memory became less; others may use them as well."""

    def replay(self) -> T_co:
        """Do the work on what its inputs hold now; returns `outputs`."""


@runtime_checkable
class OverLeases(Hashable, Protocol):
    """A key of what is recorded over leased memory, which is forgotten when that is left."""

    @property
    def leases(self) -> tuple[int, ...]:
        """Numbers as of `LayeredKVCache.lease_numbers`."""


class Runner(Protocol):
    def record(self, work: Callable[[], T]) -> Recording[T]:
        """Record work that only reads and writes tensors.

        It is run several times on what its inputs hold, so these are such that nothing is harmed.
        """

    def free(self) -> int:
        """Bytes that there are for further recordings."""


class EagerRecording(Generic[T]):
    nbytes = 0

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self.outputs = work()

    def replay(self) -> T:
        self.outputs = self._work()
        return self.outputs


class EagerRunner:
    """Records nothing: a replay runs the work again."""

    def record(self, work: Callable[[], T]) -> Recording[T]:
        return EagerRecording(work)

    def free(self) -> int:
        return sys.maxsize


class CudaRecording(Generic[T]):
    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: T, nbytes: int) -> None:
        self._graph, self.outputs, self.nbytes = graph, outputs, nbytes

    def replay(self) -> T:
        self._graph.replay()
        return self.outputs


class CudaRunner:
    """Captures CUDA graphs, all that live at a time in one memory pool.

    Since they run one after the other, what one needs in between may be memory of another. A pool
    whose graphs are all gone is used no more: PyTorch refuses it for as long as a tensor lies in
    it, and otherwise frees it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._side: torch.cuda.Stream | None = None  # one, since libraries have memory for each
        self._alive = WeakSet[CudaRecording[Any]]()

    def record(self, work: Callable[[], T]) -> Recording[T]:
        current = torch.cuda.current_stream(self._device)
        if self._side is None:
            self._side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        if self._pool is None or not self._alive:
            self._pool = torch.cuda.graph_pool_handle()
        side = self._side
        side.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile
        capture = torch.cuda.graph(graph, self._pool, side, capture_error_mode="thread_local")
        # around the capture as well, which waits for whichever device is the thread's current one,
        # and which does not leave the stream if it fails
        with torch.cuda.stream(side):
            try:
                for _ in range(WARM_UPS):
                    work()
            finally:
                current.wait_stream(side)
            torch.cuda.empty_cache()  # as the capture does, whose own share is what is missing then
            before = free_bytes(self._device)  # for a graph's memory is not PyTorch's alone
            try:
                with capture:
                    outputs = work()
            except BaseException:
                self._abandon_pool()
                raise
        taken = max(before - free_bytes(self._device), 0)
        found = CudaRecording(graph, outputs, taken)
        self._alive.add(found)
        return found

    def free(self) -> int:
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(
            self._device
        )
        return free_bytes(self._device) + unused

    def _abandon_pool(self) -> None:
        """Use the pool of a capture that failed no more.

        PyTorch before 2.13 goes on as if the capture was under way (pytorch #180395): it refuses
        the next one, and never again frees its unused memory where memory is short.
        """
        pool, self._pool = self._pool, None
        for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):
            if end := getattr(torch._C, name, None):
                with suppress(RuntimeError):  # it has ended
                    end(self._device.index, pool)


class Rung(IntEnum):
    """How much is recorded."""

    EAGER = 0
    FORWARDS = 1  # each forward of a model
    LOOPS = 2  # the drafting of a tree as well, as one piece


class Graphs:
    """The recordings of a pair that were used last, and how much is recorded at all.

    It steps down for good where recording fails, where a recording computes something else than
    PyTorch does without it, and where memory is short even for few recordings.
    """

    def __init__(self, runner: Runner, device: torch.device, rung: Rung = Rung.LOOPS) -> None:
        self.rung = rung
        self.inputs = StepInputs(device)
        self._runner = runner
        self._recordings = OrderedDict[Hashable, Recording[Any]]()
        self.retired: list[int] = []
        """Numbers of leased memory that is left, in whichever thread; see `OverLeases`."""
        self.dropped = 0
        """How often all was forgotten: what only they have used is then of no use."""
        self.most = KEPT_RECORDINGS
        """Recordings that are kept."""
        self._measured = deque[int](maxlen=KEPT_RECORDINGS)  # bytes of what was recorded
        self._met = Counter[Hashable]()
        self.notices: tuple[str, ...] = ()
        """Why it has stepped down, one line each."""

    def recording(
        self, key: Hashable, work: Callable[[], T], rung: Rung = Rung.FORWARDS
    ) -> Recording[T] | None:
        """The recording of a key, made of `work` where there is none yet.

        None where so much is not recorded, or no longer, since it failed; the work is then done
        without.
        """
        if self.rung < rung:
            return None
        self._forget_retired()
        found = self._recordings.get(key)
        if found is None:
            if self._runner.free() < self.recording_bytes:
                self.shrink()
                if self.rung < rung:
                    return None
            try:
                found = self._runner.record(work)
            except RuntimeError as error:  # of CUDA, its libraries or its memory
                if is_out_of_memory(error):
                    self.shrink()
                    return None
                self.step_down(Rung(rung - 1), f"recording fails ({_first_line(error)})")
                return None
            self._recordings[key] = found
            self._measured.append(found.nbytes)
            if len(self._recordings) > self.most:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(key)
        return found

    def count(self, key: Hashable) -> int:
        """How often a key was counted before: a recording pays for work that comes again."""
        if len(self._met) > COUNTED:
            self._met.clear()
        self._met[key] += 1
        return self._met[key] - 1

    def _forget_retired(self) -> None:
        while self.retired:
            number = self.retired.pop()
            over = (key for key in self._recordings if isinstance(key, OverLeases))
            for key in [key for key in over if number in key.leases]:
                del self._recordings[key]

    @property
    def known(self) -> Collection[Hashable]:
        """Keys of what is recorded."""
        return self._recordings.keys()

    @property
    def nbytes(self) -> int:
        """Bytes that were given for the recordings there are."""
        return sum(each.nbytes for each in self._recordings.values())

    @property
    def recording_bytes(self) -> int:
        """Of the next recording: the mean of those made, or an estimate before the first."""
        made = self._measured
        return sum(made) // len(made) if made else RECORDING_BYTES

    def shrink(self) -> None:
        """Forget all recordings where memory is full, and keep half as many afterwards.

        All, as they share their memory. Where so few would be kept that steps record all the time,
        nothing is recorded any more.
        """
        self.most = min(self.most, len(self._recordings)) // 2
        if self.most < LEAST_RECORDINGS:
            self.step_down(Rung.EAGER, "the memory is full")
        else:
            self._forget_all()

    def _forget_all(self) -> None:
        self._recordings.clear()
        self.dropped += 1
        self._met.clear()

    def step_down(self, rung: Rung, why: str) -> None:
        """Take this rung, if it is a lower one; a notice says why."""
        if self.rung <= rung:
            return
        self.rung = rung
        self._forget_all()
        how = "kernels are launched one by one" if rung == Rung.EAGER else "fewer graphs are used"
        self.notices += (f"CUDA graphs: {why}; {how} from now on",)


def row_bucket(rows: int) -> int | None:
    """Rows that a forward of so many is padded to; None where there are too many."""
    return next((bucket for bucket in ROW_BUCKETS if bucket >= rows), None)


def span_bucket(tokens: int, capacity: int) -> int:
    """Tokens that attention spans: a power of two, or the whole capacity."""
    span = LEAST_SPAN
    while span < tokens:
        span *= 2
    return min(span, capacity)


def least_tokens(span: int) -> int:
    """The fewest tokens that `span_bucket` gives so long a span for."""
    shorter = LEAST_SPAN
    while 2 * shorter < span:
        shorter *= 2
    return shorter + 1 if shorter < span else 1


def _first_line(error: BaseException) -> str:
    """Of what failed first: ending a capture then fails as well, and says only that."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return str(error).strip().partition("\n")[0] or type(error).__name__
