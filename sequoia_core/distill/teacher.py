"""What the target thinks at every position of a corpus, computed once and kept on disk.

Owns the files of a teacher's cache: the most probable tokens of each position with their
probabilities, and the hidden states that a conditioned draft reads. It knows nothing of how they
are learnt from. Shapes: `N` tokens of the corpus, `k` kept tokens, `F` feature layers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sequoia_core.distill.corpus import Corpus
from sequoia_core.distill.options import write_json
from sequoia_core.errors import ParameterError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.llama import Llama
from sequoia_core.model.native.llama import Continued, NativeLlama

TOP = 32
"""Tokens kept per position; of a small chat model's probability they hold about 95 parts in 100."""

ROWS = 2048
"""Tokens that go through the target at once."""

NATIVE_ROWS = 256
"""Tokens of a conversation that go through a native target at once."""

SAVE_EVERY = 64
"""Conversations between two records of how far the pass has come."""


@dataclass(frozen=True, slots=True)
class TeacherShape:
    """Sizes that a cache on disk was made with.

    Attributes:
        tokens: `N`.
        top: `k`.
        feature_layers: the target's layers whose outputs are kept; none for an independent draft.
        hidden_size: width of one of them.
    """

    tokens: int
    top: int
    feature_layers: tuple[int, ...]
    hidden_size: int


class TeacherCache:
    """The target's view of a corpus, in files that are mapped into memory.

    Args:
        directory: made if missing; an unfinished pass in it is continued.
        shape: what it holds.

    Raises:
        ParameterError: the directory holds a cache of another shape, or its disk has no room.
    """

    def __init__(self, directory: Path, shape: TeacherShape) -> None:
        self.shape = shape
        directory.mkdir(parents=True, exist_ok=True)
        self._progress = directory / "progress.json"
        self.done = self._read_progress()
        count, top = shape.tokens, shape.top
        slots = len(shape.feature_layers)
        if not self.done:
            _check_room(directory, count * (top * 6 + slots * shape.hidden_size * 2))
        self.top_ids = _mapped(directory / "top_ids.int32", np.dtype(np.int32), (count, top))
        self.top_probs = _mapped(directory / "top_probs.f16", np.dtype(np.float16), (count, top))
        # numpy has no bfloat16: the bits are kept
        self._features = _mapped(
            directory / "features.bf16", np.dtype(np.int16), (count, slots, shape.hidden_size)
        )

    def fill(self, target: Llama | NativeLlama, corpus: Corpus) -> Iterator[int]:
        """Run the target over the conversations that are missing; yields tokens done so far.

        Conversations go through the layers side by side, since products of many rows are faster.

        Args:
            target: any of its dtypes and devices will do. A native one keeps the outputs of
                `shape.feature_layers`.
            corpus: of `shape.tokens` tokens. Probabilities are kept of answers only.

        Raises:
            ContextFullError: a conversation is longer than a native target's context window.
        """
        saved = self.done
        for group in _groups(corpus, self.done):
            spans = [corpus.span(index) for index in group]
            if isinstance(target, NativeLlama):
                self._read_natively(target, corpus, spans)
            else:
                self._read(target, corpus, spans)
            end = group[-1] + 1
            if end - saved >= SAVE_EVERY or end == corpus.conversations:
                self._save_progress(end)
                saved = end
            yield corpus.span(group[-1]).stop

    def features(self, start: int, stop: int) -> Tensor:
        """Hidden states of the tokens from `start` to before `stop`: bfloat16 `[n, F, hidden]`."""
        return torch.from_numpy(self._features[start:stop]).view(torch.bfloat16)

    @torch.inference_mode()
    def _read(self, target: Llama, corpus: Corpus, spans: list[slice]) -> None:
        whole = slice(spans[0].start, spans[-1].stop)
        ids = torch.from_numpy(corpus.tokens[whole].astype(np.int64)).to(target.device)
        positions = torch.cat([torch.arange(span.stop - span.start) for span in spans])
        wanted = torch.from_numpy(next_is_answer(corpus, spans))
        slots = {layer: slot for slot, layer in enumerate(self.shape.feature_layers)}

        def watch(index: int, hidden: Tensor) -> None:
            if index in slots:
                bits = hidden.to("cpu", torch.bfloat16).view(torch.int16)
                self._features[whole, slots[index]] = bits.numpy()

        attend = _Apart(target.config, spans)
        hidden = target.through_layers(ids, positions.to(target.device), attend, watch)
        logits = target.logits(hidden[wanted.to(target.device)])  # [answers, V]
        self._keep_top(logits, whole.start + wanted.nonzero().flatten().numpy())

    @torch.inference_mode()
    def _read_natively(self, target: NativeLlama, corpus: Corpus, spans: list[slice]) -> None:
        assert target.kept_layers == self.shape.feature_layers
        cache = target.new_cache()
        for span in spans:
            cache.truncate(0)
            ids, wanted = corpus.tokens[span].tolist(), next_is_answer(corpus, [span])
            for first in range(0, len(ids), NATIVE_ROWS):
                part = ids[first : first + NATIVE_ROWS]
                answers = np.flatnonzero(wanted[first : first + NATIVE_ROWS])
                unwanted = int(answers[0]) if len(answers) else len(part)
                texts = [Continued(cache, part, len(part) - unwanted)]
                logits = target.continue_texts(texts)[answers - unwanted]
                self._keep_top(logits, span.start + first + answers)
            if self.shape.feature_layers:
                features = cache.features(0, len(ids)).to(torch.bfloat16)
                self._features[span] = features.view(torch.int16).numpy()

    def _keep_top(self, logits: Tensor, places: NDArray[np.integer[Any]]) -> None:
        """Keep what the target thinks, float32 [n, V], at n places of the corpus."""
        if not len(places):
            return
        top = logits.topk(self.shape.top, dim=-1)
        probs = (top.values - logits.logsumexp(-1, keepdim=True)).exp()
        self.top_ids[places] = top.indices.cpu().numpy()
        self.top_probs[places] = probs.cpu().half().numpy()

    def _read_progress(self) -> int:
        try:
            found = json.loads(self._progress.read_text("utf-8"))
        except FileNotFoundError:
            return 0
        if found["shape"] != json.loads(json.dumps(asdict(self.shape))):
            raise ParameterError(
                f"{self._progress.parent} holds another corpus' teacher; remove it or start in "
                "another folder"
            )
        return int(found["conversations"])

    def _save_progress(self, done: int) -> None:
        for array in (self.top_ids, self.top_probs, self._features):
            if isinstance(array, np.memmap):
                array.flush()
        write_json(self._progress, {"shape": asdict(self.shape), "conversations": done})
        self.done = done


class _Apart:
    """Attention within each of several conversations that lie one after the other.

    Args:
        config: of the target.
        spans: of the conversations in the corpus, contiguous.
    """

    def __init__(self, config: ModelConfig, spans: list[slice]) -> None:
        self._config = config
        start = spans[0].start
        self._spans = [slice(span.start - start, span.stop - start) for span in spans]

    def __call__(self, index: int, queries: Tensor, keys_values: Tensor) -> Tensor:  # noqa: ARG002
        """Queries [1, K, G n, D], keys and values [2, K, n, D] -> [n, H D]; see `Attend`."""
        kv_heads, dim = self._config.num_kv_heads, self._config.head_dim
        groups = self._config.num_heads // kv_heads
        heads = queries.view(kv_heads, groups, -1, dim).flatten(0, 1)  # [H, n, D]
        keys, values = keys_values.repeat_interleave(groups, 1)  # [H, n, D] each
        mixed = torch.cat(
            [
                functional.scaled_dot_product_attention(
                    heads[None, :, span], keys[None, :, span], values[None, :, span], is_causal=True
                )
                for span in self._spans
            ],
            dim=2,
        )  # [1, H, n, D]
        return mixed[0].transpose(0, 1).flatten(1)


def next_is_answer(corpus: Corpus, spans: Sequence[slice]) -> NDArray[np.bool_]:
    """Of these conversations' tokens, True where the one after is the target's own."""
    return np.concatenate([np.append(corpus.answers[span][1:], False) for span in spans])


def _groups(corpus: Corpus, first: int) -> Iterator[list[int]]:
    """Conversations from `first` on, as many at once as have about `ROWS` tokens."""
    group: list[int] = []
    for index in range(first, corpus.conversations):
        span = corpus.span(index)
        if group and span.stop - corpus.span(group[0]).start > ROWS:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _check_room(directory: Path, needed: int) -> None:
    """Writing to a mapped file on a full disk ends the process without a word."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise ParameterError(
            f"{directory}: the teacher's files need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free; take fewer --tokens or an --out on another disk"
        )


def _mapped(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    if not np.prod(shape):
        return np.zeros(shape, dtype)
    wanted = int(np.prod(shape)) * dtype.itemsize
    fits = path.exists() and path.stat().st_size == wanted
    return np.memmap(path, dtype, "r+" if fits else "w+", shape=shape)
