"""Predicts the times of the published offloading setting from bandwidths. Nothing is measured.

The models' own code runs with tensors that have shapes and no values, so what a step computes and
copies is counted. Sampling, verification and launches are not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError
from sequoia_core.files import encode
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.backend import memory_plans
from sequoia_core.model.loading.memory_plan import PREFILL_ROWS, kv_token_bytes
from sequoia_core.model.offload.model import (
    SLOTS,
    LayerStream,
    OffloadedLlama,
    layer_buffer,
    layer_bytes,
    resident_layers,
)
from sequoia_core.model.tensor_names import expected_shapes, weight_values
from sequoia_core.reproduce.experiment import ReportTable
from sequoia_core.reproduce.paper_facts import Figure, Hardware, PaperPair, Setup
from sequoia_core.tree.growmap import GrowMap

DTYPE = torch.float16  # the published models'
PASSES = 4  # simulated one after the other; the last has the time of all later ones
PROMPT = 4096  # tokens of a long prompt

_META = torch.device("meta")
_GPU = torch.device("cuda", 0)


class Work(NamedTuple):
    """What a forward takes of a device."""

    flops: float
    read: int  # bytes of weights, keys and values

    def of_rows(self, share: float) -> Work:
        """With so many times the rows: the weights are read once all the same."""
        return Work(self.flops * share, self.read)

    def ms(self, machine: Hardware) -> float:
        """By whichever limits it."""
        return max(self.flops / machine.tflops / 1e9, self.read / machine.memory_gbs / 1e6)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Times are milliseconds, bytes are decimal."""

    pair: str
    machine: Hardware
    growmap: GrowMap
    tokens_per_step: float
    resident: int  # layers of the target that stay on the GPU
    layers: int
    streamed: int  # bytes of each pass
    locked: int  # bytes of main memory
    draft_ms: float  # all drafting passes of a step
    step_ms: float
    plain_ms: float
    prompt_ms: float  # of `PROMPT` tokens, in one pass over the layers
    figure: Figure | None = None
    published_plain_ms: float | None = None

    @property
    def ms_per_token(self) -> float:
        return self.step_ms / self.tokens_per_step


class _Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts those of products and of attention."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled, and to import the compiler takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert name not in {"mm", "addmm", "bmm", "matmul"}, name
        if name == "linear":
            self.count += 2 * args[0].numel() * args[1].shape[0]
        if name == "scaled_dot_product_attention":
            self.count += 4 * args[0].numel() * args[1].shape[2]
        return func(*args, **(kwargs or {}))


class _Loader:
    """A `LayerLoader` of layers without values."""

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def load(self, layer: int, _slot: int) -> None:
        self.loaded.append(layer)

    def acquire(self, _slot: int) -> None:
        """Nothing has to arrive."""

    release = acquire

    def close(self) -> None:
        """Nothing is held."""


class _DryModel:
    """A model whose forwards are counted; with `resident`, the other layers are streamed."""

    def __init__(self, config: ModelConfig, resident: Collection[int] | None = None) -> None:
        shapes = expected_shapes(config)
        weights = {
            name: torch.empty(shape, dtype=DTYPE, device=_META) for name, shape in shapes.items()
        }
        self._config = config
        self.loader = _Loader()
        if resident is None:
            self._model = Llama(config, weights, _META, DTYPE)
            return
        stream = LayerStream(self.loader, config.num_layers, resident)
        buffers = [layer_buffer(config, DTYPE, _META) for _ in range(SLOTS)]
        self._model = OffloadedLlama(config, weights, stream, buffers, (), resident)

    def close(self) -> None:
        if isinstance(self._model, OffloadedLlama):
            self._model.layer_stream.close()

    def work(self, rows: int, context: int) -> Work:
        """Of rows under a mask after a context."""
        cache = self._model.new_cache()
        cache.reserve(context + rows)
        cache.advance(context)
        ids = torch.zeros(rows, dtype=torch.int64, device=_META)
        mask = torch.ones((rows, rows), dtype=torch.bool, device=_META)
        with _Flops() as flops:
            logits = self._model.forward(ids, ids, mask, cache)
        assert logits.shape == (rows, self._config.head_vocab_size)
        held = kv_token_bytes(self._config, DTYPE.itemsize) * (context + rows)
        return Work(flops.count, DTYPE.itemsize * weight_values(self._config) + held)


def pass_ms(
    layers: int, resident: Collection[int], layer_ms: float, copy_ms: float, pause_ms: float = 0.0
) -> float:
    """Time from the end of a pass over the layers to the end of the next, after a pause.

    Two buffers are filled ahead, also in the pause; resident layers are not copied.
    """
    now = copied = ended = 0.0
    freed = deque([0.0] * SLOTS, maxlen=SLOTS)
    for _ in range(PASSES):
        ended, now = now, now + pause_ms
        for layer in range(layers):
            if layer in resident:
                now += layer_ms
                continue
            copied = max(copied, freed[0]) + copy_ms
            now = max(now, copied) + layer_ms
            freed.append(now)
    return now - ended


def predict(
    pair: PaperPair,
    machine: Hardware,
    growmap: GrowMap,
    context: int,
    published: tuple[Setup | None, Figure | None] = (None, None),
) -> Prediction:
    """The times of a pair's step with a tree and without.

    Raises ParameterError if the GPU has no room for two layers and everything else.
    """
    target, draft, (setup, figure) = pair.target.config, pair.draft.config, published
    memory = int(machine.memory_gib * 2**30)
    placement = Placement((_GPU,), Offload.CPU)
    plans = memory_plans(target, draft, DTYPE, placement, lambda _: memory)
    plan, main = plans[_GPU], plans[torch.device("cpu")]
    if plan.least > memory:
        raise ParameterError(
            f"{pair.name} needs {plan.least / 2**30:.1f} GiB on the {machine.title}, which has "
            f"{machine.memory_gib:g}; name another pair"
        )
    layers, layer = target.num_layers, layer_bytes(target, DTYPE)
    staying = resident_layers(layers, plan.resident_layers)
    copy_ms = layer / machine.link_gbs / 1e6
    big, small = _DryModel(target, staying), _DryModel(draft)
    try:
        passes = growmap.passes
        widest = small.work(max(passes), context)
        drafting = [widest.of_rows(rows / max(passes)) for rows in passes]
        tree = big.work(growmap.size, context)
        assert set(big.loader.loaded) == set(range(layers)) - staying
        prompt = big.work(PREFILL_ROWS, PROMPT // 2)
    finally:
        big.close()
    draft_ms = sum(work.ms(machine) for work in drafting)
    chunks = PROMPT // PREFILL_ROWS  # one takes as long as one in the middle

    def pass_of(compute_ms: float, pause_ms: float = 0.0) -> float:
        return pass_ms(layers, staying, compute_ms / layers, copy_ms, pause_ms)

    return Prediction(
        pair=pair.name,
        machine=machine,
        growmap=growmap,
        tokens_per_step=growmap.expected_tokens(growmap.acceptance_rates, growmap.deeper_rates),
        resident=len(staying),
        layers=layers,
        streamed=(layers - len(staying)) * layer,
        locked=main.weights,
        draft_ms=draft_ms,
        step_ms=pass_of(tree.ms(machine), draft_ms),
        plain_ms=pass_of(tree.of_rows(1 / growmap.size).ms(machine)),
        prompt_ms=pass_of(chunks * prompt.ms(machine)),
        figure=figure,
        published_plain_ms=setup.plain_ms if setup else None,
    )


def table(found: Sequence[Prediction]) -> ReportTable:
    """The predictions and what is published, side by side."""
    headings = (
        "GPU", "pair", "tree", "layers on it", "copied per pass", "drafting", "step",
        "tokens per pass", "predicted ms/token", "plain", "published ms/token", "plain",
    )  # fmt: skip
    return ReportTable(headings, tuple(map(_row, found)))


def _row(each: Prediction) -> tuple[str, ...]:
    published = each.figure.ms if each.figure else None
    return (
        each.machine.title,
        each.pair,
        f"{each.growmap.size}x{each.growmap.depth + 1}",
        f"{each.resident} of {each.layers}",
        f"{each.streamed / 1e9:.1f} GB",
        f"{each.draft_ms:.0f} ms",
        f"{each.step_ms:.0f} ms",
        f"{each.tokens_per_step:.2f}",
        f"{each.ms_per_token:.0f}",
        f"{each.plain_ms:.0f}",
        "-" if published is None else f"{published:.0f}",
        "-" if each.published_plain_ms is None else f"{each.published_plain_ms:.0f}",
    )


def as_values(each: Prediction) -> dict[str, Any]:
    """For JSON; `predicted` says that nothing here was measured."""
    return {
        "predicted": True,
        "hardware": encode(each.machine),
        "pair": each.pair,
        "nodes": each.growmap.size,
        "depth": each.growmap.depth,
        "tokens_per_step": each.tokens_per_step,
        "resident_layers": each.resident,
        "layers": each.layers,
        "streamed_bytes": each.streamed,
        "locked_bytes": each.locked,
        "draft_ms": each.draft_ms,
        "step_ms": each.step_ms,
        "ms_per_token": each.ms_per_token,
        "plain_ms": each.plain_ms,
        "prompt_tokens": PROMPT,
        "prompt_ms": each.prompt_ms,
        "published_ms_per_token": each.figure.ms if each.figure else None,
        "published_plain_ms": each.published_plain_ms,
    }
