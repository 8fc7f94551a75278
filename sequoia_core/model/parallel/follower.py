"""Any rank but 0: it does what rank 0 tells it until that ends."""

import os
import signal
import sys
from dataclasses import replace
from threading import Thread
from time import sleep
from typing import NoReturn

import torch

from sequoia_core.errors import ModelLoadError, SequoiaError
from sequoia_core.model.device import DTYPES, local_rank, prepare, rank_device
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.loading.loader import open_target
from sequoia_core.model.loading.memory_plan import is_out_of_memory
from sequoia_core.model.loading.model_files import first_line
from sequoia_core.model.parallel import commands as tell
from sequoia_core.model.parallel.model import ShardedLlama, shape_of
from sequoia_core.model.parallel.ranks import (
    OTHERS_ENDED,
    Ranks,
    joined_ranks,
)

PARENT_SECONDS = 0.5  # between two looks at whether the parent is there


class Follower:
    """The parts of models and caches that a rank holds, by rank 0's numbers."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._models: dict[int, ShardedLlama] = {}
        self._caches: dict[int, tuple[ShardedLlama, LayeredKVCache]] = {}

    def follow(self) -> None:
        while True:
            for command in self._ranks.receive():
                if isinstance(command, tell.EndRank):
                    return
                self._carry_out(command)

    def _carry_out(self, command: tell.Command) -> None:
        match command:
            case tell.LoadShard():
                self._load(command)
            case tell.MakeCache(of, number):
                self._caches[number] = self._models[of], self._models[of].new_cache()
            case tell.RunForward(number, rows, columns):
                self._forward(number, rows, columns)
            case tell.RunExtend(number, rows):
                model, cache = self._caches[number]
                ids = torch.empty(rows, dtype=torch.int64, device=model.device)
                model.extend(self._ranks.shared(ids), cache)
            case tell.KeepRows(number, committed, kept):
                self._caches[number][1].keep(committed, kept)
            case tell.TruncateCache(number, length):
                self._caches[number][1].truncate(length)
            case tell.ReleaseCache(number):
                self._caches[number][1].release()
            case tell.ForgetCache(number):
                self._caches.pop(number, None)
            case tell.ForgetModel(number):
                self._models.pop(number, None)

    def _load(self, command: tell.LoadShard) -> None:
        words = ""
        try:
            self._models[command.model] = self._loaded(command)
        except SequoiaError as error:
            words = str(error)
        except (MemoryError, RuntimeError) as error:
            words = "its memory became full" if is_out_of_memory(error) else first_line(error)
        self._ranks.answer(command.model, words)

    def _loaded(self, command: tell.LoadShard) -> ShardedLlama:
        ranks = self._ranks
        device = rank_device(command.device, ranks.rank, ranks.size, local_rank())
        prepare((device,))
        target = open_target(command.source)
        # with longrope's long factors, if process 0 has them
        alike = (target, replace(target, config=target.config.for_context(sys.maxsize)))
        same = next((each for each in alike if shape_of(each) == command.shape), None)
        if same is None:
            raise ModelLoadError(f"{target.name}: another model than the one of process 0")
        window = replace(same.config, context_window=command.context_window)
        dtype = DTYPES[command.dtype]
        return ShardedLlama(replace(same, config=window), ranks, device, dtype)

    def _forward(self, number: int, rows: int, columns: int | None) -> None:
        model, cache = self._caches[number]
        both = torch.empty((2, rows), dtype=torch.int64, device=model.device)
        token_ids, position_ids = self._ranks.shared(both)
        mask = None
        if columns is not None:
            mask = torch.empty((rows, columns), dtype=torch.uint8, device=model.device)
            mask = self._ranks.shared(mask).bool()
        model.forward(token_ids, position_ids, mask, cache)


def follow(path: str | None = None, parent: int | None = None) -> NoReturn:
    """Be a rank until rank 0 ends, and end the process. See `joined_ranks`.

    It ends with its parent, by default the present one, even while it loads or connects.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides what is broken off
    Thread(target=_end_with, args=(parent or os.getppid(),), daemon=True).start()
    status = _followed(path)
    sys.stderr.flush()
    os._exit(status)  # the interpreter would wait for Gloo's threads, or abort over one


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        sleep(PARENT_SECONDS)
    os._exit(OTHERS_ENDED)


def _followed(path: str | None) -> int:
    """Exit status."""
    rank = os.environ.get("RANK", "?")
    try:
        if (ranks := joined_ranks(path)) is not None:
            Follower(ranks).follow()
    except RuntimeError as error:
        if is_out_of_memory(error):
            print(f"sequoia: process {rank}: its memory became full", file=sys.stderr)
            return 1
        # of Gloo or NCCL: another has ended and says why
        print(f"sequoia: process {rank}: {first_line(error)}", file=sys.stderr)
        return OTHERS_ENDED
    except (SequoiaError, MemoryError) as error:
        print(f"sequoia: process {rank}: {error or 'its memory became full'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    follow(sys.argv[1], int(sys.argv[2]))
