"""Wall time of model forwards, on the host or on the device that runs them.

Owns clocks; knows nothing of what is timed. On CUDA a forward returns before it ran, so events are
recorded around it, in the stream of the model's own device, and read once the step's results have
been.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import torch

from sequoia_core.model.interface import TreeReader

if TYPE_CHECKING:
    from array import array

    from torch import Tensor

    from sequoia_core.model.interface import (
        Draws,
        KVCache,
        LanguageModel,
        LevelDraw,
        Summary,
        TreeRows,
    )


class TimedModel:
    """A language model that adds up the time its forwards take.

    Args:
        model: the one that does the work.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._seconds = 0.0
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return self._model.vocab_size

    @property
    def context_window(self) -> int:
        """Most tokens the model can attend over."""
        return self._model.context_window

    @property
    def device(self) -> torch.device:
        """Where inputs must lie."""
        return self._model.device

    @property
    def prompt_rows(self) -> int:
        """Tokens of a prompt to read at once."""
        return self._model.prompt_rows

    def new_cache(self, beside: KVCache | None = None) -> KVCache:
        """An empty cache for one conversation."""
        return self._model.new_cache(beside)

    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        """Append tokens; not timed, since it is no part of a step."""
        self._model.extend(token_ids, cache)

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        """The model's forward, timed."""
        if self.device.type == "cuda":
            # what the model computes is issued there, whichever device is the current one
            stream, start, end = _stream(self.device), _event(), _event()
            start.record(stream)
            logits = self._model.forward(token_ids, position_ids, mask, cache, parents)
            end.record(stream)
            self._spans.append((start, end))
            return logits
        before = perf_counter()
        logits = self._model.forward(token_ids, position_ids, mask, cache, parents)
        self._seconds += perf_counter() - before
        return logits

    def wait(self) -> None:
        """Return when the device has done what it was given; a CPU has already."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def forget_unused(self) -> None:
        """Return memory that PyTorch keeps for later requests to the GPU; a CPU's is returned."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def take_ms(self) -> float:
        """Milliseconds since the last call. On CUDA the forwards must have finished."""
        seconds, self._seconds = self._seconds, 0.0
        spans, self._spans = self._spans, []
        on_device = sum(float(start.elapsed_time(end)) for start, end in spans)
        return seconds * 1e3 + on_device


class TimedTreeReader(TimedModel):
    """A `TreeReader` that adds up the time its passes take."""

    def __init__(self, model: TreeReader) -> None:
        super().__init__(model)
        self._reader = model

    def read_tree(
        self, rows: TreeRows, parents: array[int], temperature: float, cache: KVCache
    ) -> tuple[Tensor, Summary]:
        """The model's, timed."""
        before = perf_counter()
        read = self._reader.read_tree(rows, parents, temperature, cache)
        self._seconds += perf_counter() - before
        return read

    def read_level(self, rows: TreeRows, count: int, cache: KVCache, draw: LevelDraw) -> Draws:
        """The model's, timed."""
        before = perf_counter()
        draws = self._reader.read_level(rows, count, cache, draw)
        self._seconds += perf_counter() - before
        return draws


def timed(model: LanguageModel) -> TimedModel:
    """The model with a clock, and all that it can do."""
    return TimedTreeReader(model) if isinstance(model, TreeReader) else TimedModel(model)


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """The stream that work on a device is issued in; None before there is any."""
    initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.current_stream(device) if initialized else None


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
