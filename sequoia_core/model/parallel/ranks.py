"""The processes that compute one model: how they begin, what they exchange, and how they end.

Rank 0 decides everything and tells the others what to compute. It starts them itself, unless
torchrun has.
"""

import atexit
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, RLock, Thread
from time import monotonic, sleep

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import (
    FileStore,
    PrefixStore,
    Store,
    TCPStore,
)  # torch.distributed's own
from typing_extensions import override

from sequoia_core.errors import RankLostError, SequoiaError
from sequoia_core.model.cpu import cpu_threads
from sequoia_core.model.device import torchrun_ranks
from sequoia_core.model.loading.memory_plan import is_out_of_memory
from sequoia_core.model.loading.model_files import first_line
from sequoia_core.model.parallel.commands import Command, EndRank

BEGIN = "begin"  # key by which rank 0 says with which devices all begin; "" if it never will
BEGINNING_SECONDS = 600.0  # for all to be there
COLLECTIVE_SECONDS = 120.0  # that rank 0 waits for the others within a forward
IDLE = timedelta(days=365)  # that the others wait for it
ENDING_SECONDS = 5.0  # for a rank to end by itself
FORWARD_SECONDS = 1.0  # that closing waits for a forward
POLL_SECONDS = 0.05
FRAME = 4096  # bytes that commands are sent in at first
LENGTH = 8  # bytes of their length
OTHERS_ENDED = 3  # exit status of a rank that has lost the others

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Command]).decode


class Ranks:
    """This process's place among those that compute one model, and their collectives."""

    _control: dist.ProcessGroup | None = None  # once they have met

    def __init__(self, rank: int, size: int, store: Store, on_gpu: bool, seconds: float) -> None:
        self.rank, self.size, self.on_gpu, self.store = rank, size, on_gpu, store
        # rank 0 gives up on one that does not answer; the others wait while a person thinks or
        # has suspended it
        patience = IDLE if rank else timedelta(seconds=seconds)
        dist.init_process_group(
            # tensors of GPUs by NCCL, commands and tensors of CPUs by Gloo
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=patience,
        )
        self._control = dist.new_group(backend="gloo", timeout=patience)

    def receive(self) -> list[Command]:
        """Wait for what rank 0 sends."""
        frame = torch.zeros(FRAME, dtype=torch.uint8)
        dist.broadcast(frame, 0, self._control)
        length = int.from_bytes(frame[:LENGTH].numpy().tobytes(), "little")
        data = frame[LENGTH : LENGTH + length]
        if length > len(data):
            rest = torch.zeros(length - len(data), dtype=torch.uint8)
            dist.broadcast(rest, 0, self._control)
            data = torch.cat((data, rest))
        return _decode(data.numpy().tobytes())

    def send(self, commands: Sequence[Command]) -> None:
        """Rank 0's side of `receive`."""
        encoded = _encode(commands)
        data = torch.frombuffer(
            bytearray(len(encoded).to_bytes(LENGTH, "little") + encoded), dtype=torch.uint8
        )
        frame = torch.zeros(FRAME, dtype=torch.uint8)
        frame[: min(len(data), FRAME)] = data[:FRAME]
        dist.broadcast(frame, 0, self._control)
        if len(data) > FRAME:
            dist.broadcast(data[FRAME:].clone(), 0, self._control)

    def shared(self, tensor: Tensor) -> Tensor:
        """The values of rank 0's tensor, in all ranks' tensors of this shape."""
        dist.broadcast(tensor, 0)
        return tensor

    def summed(self, part: Tensor) -> Tensor:
        """The sum of all ranks' tensors, which overwrites them."""
        dist.all_reduce(part)
        return part

    def joined(self, part: Tensor, width: int) -> Tensor:
        """On rank 0 the columns [n, ranks * width] of all ranks, of which some have fewer."""
        padded = part.new_zeros((part.shape[0], width))
        padded[:, : part.shape[1]] = part
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.rank == 0 else None
        dist.gather(padded, parts, 0)
        return part if parts is None else torch.cat(parts, 1)

    def answer(self, number: int, words: str) -> None:
        """Say what went wrong with a load; "" if nothing did."""
        self.store.set(f"answer{number}.{self.rank}", words)

    def leave(self) -> None:
        if self._control is not None:
            with suppress(Exception):  # the others may be gone
                dist.destroy_process_group()


class Lead(Ranks):
    """Rank 0, with the processes of the others if it has started them."""

    lost = ""  # why they compute no longer

    def __init__(self, size: int, on_gpu: bool, seconds: float = COLLECTIVE_SECONDS) -> None:
        self._lock, self._active, self._ending = RLock(), False, False
        self._named, self._threads = Event(), torch.get_num_threads()
        self.children: list[subprocess.Popen[bytes]] = []
        self.leftover: deque[Command] = deque()  # sent with the next; any thread adds to it
        self.size = size  # for what watches
        self._folder = TemporaryDirectory(prefix="sequoia-")  # that nobody else can read
        atexit.register(self.close)
        try:
            store = _torchrun_store(seconds) if torchrun_ranks() else self._started_others(size)
            store.set(BEGIN, f"{int(on_gpu)} {seconds}")
            super().__init__(0, size, store, on_gpu, seconds)
        except (RuntimeError, OSError) as error:  # of torch.distributed, or no process is started
            self._break_off(error)
            self.close()
            raise RankLostError(self.lost) from None
        except BaseException:
            self._break_off(SequoiaError("their start was broken off"))
            self.close()
            raise
        if not on_gpu:
            torch.set_num_threads(max(1, cpu_threads() // size))

    @contextmanager
    def together(self, *commands: Command) -> Iterator[None]:
        """Tell the others what to compute, and compute it with them inside.

        Raises RankLostError if a process has ended, does not answer, or fails in it.
        """
        with self._lock:
            if self.lost:
                raise RankLostError(self.lost)
            earlier = [self.leftover.popleft() for _ in range(len(self.leftover))]
            self._active = True
            try:
                self.send([*earlier, *commands])
                yield
            except Exception as error:
                raise RankLostError(self._break_off(error)) from None
            except BaseException:
                self._break_off(SequoiaError("an answer was broken off within a forward"))
                raise
            finally:
                self._active = False

    def answers(self, number: int) -> list[str]:
        """What the other ranks say of a load, when all have; loading takes any time."""
        keys = [f"answer{number}.{rank}" for rank in range(1, self.size)]
        while not self.store.check(keys):
            if self.lost:
                raise RankLostError(self.lost)
            sleep(POLL_SECONDS)
        return [self.store.get(key).decode() for key in keys]

    @override
    def summed(self, part: Tensor) -> Tensor:
        self._check_active()
        return super().summed(part)

    @override
    def joined(self, part: Tensor, width: int) -> Tensor:
        self._check_active()
        return super().joined(part, width)

    def _check_active(self) -> None:
        if not self._active:  # the others would never answer
            raise SequoiaError(
                "this is not computed by several processes; leave --tensor-parallel out"
            )

    def close(self) -> None:
        """End the other processes, at once if a long forward or a load runs."""
        atexit.unregister(self.close)
        ended = "the processes have been ended; load the model again"
        if idle := self._lock.acquire(timeout=FORWARD_SECONDS):
            self._ending = True
            if not self.lost:
                self.lost = ended
                with suppress(RuntimeError):
                    self.send([EndRank()])
            self._lock.release()
        self._name(ended)
        self._end_others()
        if idle:  # else another thread computes by it
            self.leave()
        torch.set_num_threads(self._threads)
        self._folder.cleanup()

    def _started_others(self, size: int) -> Store:
        """Start them on this machine; returns where all meet."""
        # no other machine can connect; who they are is in a file that only this user can read
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
        path = str(Path(self._folder.name) / "store")
        modules = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
        threads = max(1, cpu_threads() // size)
        shared = {
            **os.environ, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
            "PYTHONPATH": os.pathsep.join(filter(None, modules)), "OMP_NUM_THREADS": str(threads),
        }  # fmt: skip
        for rank in range(1, size):
            self.children.append(
                subprocess.Popen(
                    [
                        sys.executable, "-P", "-m", f"{__package__}.follower", path,
                        str(os.getpid()),
                    ],
                    env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C in the terminal is not for it
                )
            )  # fmt: skip
            watch = Thread(target=self._watch, args=(rank, self.children[-1]), daemon=True)
            watch.start()
        store, ends = FileStore(path, -1), monotonic() + BEGINNING_SECONDS
        while not all(store.check([f"here{rank}"]) for rank in range(1, size)):
            if self.lost or monotonic() > ends:
                raise RankLostError(self._break_off(TimeoutError("they did not start in time")))
            sleep(POLL_SECONDS)
        return store

    def _watch(self, rank: int, child: "subprocess.Popen[bytes]") -> None:
        _, said = child.communicate()
        status = child.returncode
        if self._ending:
            return
        if status == OTHERS_ENDED and self._named.wait(1.0):
            return
        if not self._named.is_set():
            how = f"signal {-status}" if status < 0 else f"status {status}"
            words = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
            self._name(
                f"process {rank} of {self.size} has ended ({how}{': ' if words else ''}{words}), "
                "and the others with it; start again"
            )
        self._end_others()

    def _name(self, reason: str) -> None:
        self.lost = self.lost or reason
        self._named.set()

    def _break_off(self, error: Exception) -> str:
        """End all; returns why."""
        if is_out_of_memory(error):
            self._name(
                "the memory became full in a pass that several processes share, and they have "
                "ended; start again with a smaller tree, a smaller model or another dtype"
            )
        elif self.children and not isinstance(error, SequoiaError):
            self._named.wait(1.0)  # which process it was
        reason = re.sub(r"^\[\S*\] *", "", first_line(error))  # Gloo's line of code
        self._name(
            f"the {self.size} processes no longer answer each other ({reason}) and have ended; "
            "start again"
        )
        self._end_others()
        return self.lost

    def _end_others(self) -> None:
        ends = monotonic() + (ENDING_SECONDS if self._ending else 0.0)
        for child in self.children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(ends - monotonic(), 0.0))
            child.kill()
            child.wait()


def _torchrun_store(seconds: float) -> Store:
    """Where processes meet that torchrun has started."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    leads, timeout = os.environ["RANK"] == "0" and not has_agent, timedelta(seconds=seconds)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = TCPStore(host, port, None, leads, timeout, wait_for_workers=False)
    return PrefixStore(f"sequoia{attempt}", store)


def joined_ranks(path: str | None) -> Ranks | None:
    """Join as the rank that the environment states, not 0, once rank 0 has begun.

    Rank 0 may download a model before. None if it ends without one. The path is that of rank 0's
    store, if not torchrun's.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = FileStore(path, -1) if path else _torchrun_store(BEGINNING_SECONDS)
    store.set(f"here{rank}", "")
    while not store.check([BEGIN]):
        sleep(POLL_SECONDS)
    begun = store.get(BEGIN).decode().split()
    if not begun:
        return None
    on_gpu, seconds = begun
    return Ranks(rank, size, store, on_gpu == "1", float(seconds))


_lead: Lead | None = None


def end_ranks() -> None:
    """End the processes that compute with this one, or wait for that under torchrun."""
    if _lead is not None:
        _lead.close()
    elif torchrun_ranks():
        with suppress(RuntimeError):  # they are gone
            _torchrun_store(COLLECTIVE_SECONDS).set(BEGIN, "")


def lead_of(size: int, on_gpu: bool, seconds: float = COLLECTIVE_SECONDS) -> Lead:
    """Rank 0 of so many processes, which are started unless they run."""
    global _lead
    if _lead is not None and (_lead.lost or (_lead.size, _lead.on_gpu) != (size, on_gpu)):
        if torchrun_ranks():
            raise RankLostError(_lead.lost or "torchrun's processes compute on other devices")
        _lead.close()
        _lead = None
    if _lead is None:
        _lead = Lead(size, on_gpu, seconds)
    return _lead
