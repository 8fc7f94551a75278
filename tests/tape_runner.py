"""A runner for CPUs that is as blind as a CUDA graph.

It records calls of PyTorch's operators with their tensors and numbers as they were. A replay sees
neither Python nor new tensors, and begins by destroying everything that any recording made, since
all of a runner share their memory.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique_dim"}
DRAWS = {"uniform_", "exponential_", "normal_", "rand", "randn", "randint", "multinomial"}
UPLOADS = {"lift_fresh", "lift_fresh_copy"}
GARBAGE = 1 << 40


class CaptureError(RuntimeError):
    """Work that a CUDA graph cannot record."""


class TapeRunner:
    """Records as `CudaRunner` does: warm-ups, and a capture of which only outputs are known.

    Attributes:
        recorded: works so far.
        replayed: replays of them.
        fails: what a capture is refused with, if it is.
        spoils: every replay ends by adding so much to the outputs, as a faulty kernel would.
        room: bytes that are said to be free.
    """

    def __init__(self, fails: str = "", spoils: float = 0.0, room: int = 1 << 40) -> None:
        self.recorded = self.replayed = 0
        self.fails, self.spoils, self.room = fails, spoils, room
        self.recordings = WeakSet[TapeRecording[Any]]()

    def check(self) -> None:
        """Called before each replay, which it may fail."""

    def record(self, work: Callable[[], T]) -> "TapeRecording[T]":
        work()
        if self.fails:
            raise CaptureError(self.fails)
        with _Tape() as tape:
            outputs = work()
        self.recorded += 1
        return TapeRecording(self, tape.calls, outputs)

    def free(self) -> int:
        return self.room


class TapeRecording(Generic[T]):
    def __init__(self, runner: TapeRunner, calls: Sequence["_Call"], outputs: T) -> None:
        self.outputs = outputs
        made = {_storage(each): each.nbytes for *_, several in calls for each in several}
        self.nbytes = sum(made.values())  # without sharing
        self._runner, self._calls = runner, calls
        runner.recordings.add(self)
        self.destroy()  # a capture computes nothing

    @torch.inference_mode()
    def replay(self) -> T:
        self._runner.check()
        self._runner.replayed += 1
        for each in self._runner.recordings:
            each.destroy()
        for func, args, kwargs, outputs in self._calls:
            found = func(*args, **kwargs)
            for output, value in zip(outputs, _tensors(found), strict=False):
                output.copy_(value)
        for output in _tensors(self.outputs) if self._runner.spoils else ():
            output.add_(self._runner.spoils)
        return self.outputs

    def destroy(self) -> None:
        """Let nothing be left of what it has made."""
        for *_, outputs in self._calls:
            for made in outputs:
                _destroy(made)


_Call = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any], Sequence[Tensor]]
"""An operator, its arguments and the tensors that it made; none if it writes in place."""


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled, and to import the compiler takes seconds."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        name = func.overloadpacket.__name__
        for names, why in ((READS, "reads a value"), (DRAWS, "draws"), (UPLOADS, "uploads")):
            if name in names:
                raise CaptureError(f"{name} {why} in a capture")
        found = func(*args, **given)
        if func._schema.is_mutable:
            self.calls.append((func, args, given, ()))
            return found
        made = _tensors(found)
        there = {_storage(each) for each in _tensors((args, given))}
        if not any(_storage(each) in there for each in made):  # views are addresses
            self.calls.append((func, args, given, made))
        return found


def _tensors(values: Any) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


def _storage(x: Tensor) -> int:
    return getattr(x, "held", x).untyped_storage().data_ptr()


def _destroy(x: Tensor) -> None:
    if x.is_floating_point():
        x.fill_(torch.nan)
    elif x.dtype is torch.bool:
        x.logical_not_()
    else:
        x.fill_(GARBAGE)
