"""Wall time of model forwards, on the host or on the device that runs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from sequoia_core.model.interface import Draws, LanguageModel, Summary, TreeReader


class TimedModel:
    """A language model that adds up the time its forwards take; see `LanguageModel`.

    On CUDA a forward returns before it ran, so events are recorded around it, in the stream of the
    model's own device, and read once the step's results have been.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.untimed = model
        self.vocab_size, self.context_window = model.vocab_size, model.context_window
        self.device = model.device
        self.new_cache = model.new_cache
        self.extend = model.extend  # not timed, since it is no part of a step
        self._seconds = 0.0
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @property
    def prompt_rows(self) -> int:
        return self.untimed.prompt_rows

    def forward(self, *rows: Any, **options: Any) -> Tensor:
        with self.timing():
            return self.untimed.forward(*rows, **options)

    @contextmanager
    def timing(self) -> Iterator[None]:
        """What is computed inside is counted as a forward."""
        if self.device.type == "cuda":
            # what the model computes is issued there, whichever device is the current one
            stream, start, end = _stream(self.device), _event(), _event()
            start.record(stream)
            yield
            end.record(stream)
            self._spans.append((start, end))
        else:
            before = perf_counter()
            yield
            self._seconds += perf_counter() - before

    def wait(self) -> None:
        """Return when the device has done what it was given; a CPU has already."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def forget_unused(self) -> None:
        """Return memory that PyTorch keeps for later requests to the GPU; a CPU's is returned."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def take_ms(self) -> float:
        """Milliseconds since the last call. On CUDA it waits for what has not finished."""
        seconds, self._seconds = self._seconds, 0.0
        spans, self._spans = self._spans, []
        for _, end in spans:  # what a step that broke off has issued may still be computed
            end.synchronize()
        on_device = sum(float(start.elapsed_time(end)) for start, end in spans)
        return seconds * 1e3 + on_device


class TimedTreeReader(TimedModel):
    def __init__(self, model: TreeReader) -> None:
        super().__init__(model)
        self._reader = model

    def read_tree(self, *rows: Any) -> tuple[Tensor, Summary]:
        with self.timing():
            return self._reader.read_tree(*rows)

    def read_level(self, *rows: Any) -> Draws:
        with self.timing():
            return self._reader.read_level(*rows)


def timed(model: LanguageModel) -> TimedModel:
    return TimedTreeReader(model) if isinstance(model, TreeReader) else TimedModel(model)


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """The stream that work on a device is issued in; None before there is any."""
    initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.current_stream(device) if initialized else None


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
