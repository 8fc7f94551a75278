"""What the target thinks at every position of a corpus, computed once and kept on disk.

Owns the files of a teacher's cache: the most probable tokens of each position with their
probabilities, and the hidden states that a conditioned draft reads. It knows nothing of how they
are learnt from. Shapes: `N` tokens of the corpus, `k` kept tokens, `F` feature layers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.errors import ParameterError
from sequoia_core.model.llama import Llama

TOP = 32
"""Tokens kept per position; of a small chat model's probability they hold about 95 parts in 100."""

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
        ParameterError: the directory holds a cache of another shape.
    """

    def __init__(self, directory: Path, shape: TeacherShape) -> None:
        self.shape = shape
        directory.mkdir(parents=True, exist_ok=True)
        self._progress = directory / "progress.json"
        self.done = self._read_progress()
        count, top = shape.tokens, shape.top
        slots = len(shape.feature_layers)
        self.top_ids = _mapped(directory / "top_ids.int32", np.dtype(np.int32), (count, top))
        self.top_probs = _mapped(directory / "top_probs.f16", np.dtype(np.float16), (count, top))
        # numpy has no bfloat16: the bits are kept
        self._features = _mapped(
            directory / "features.bf16", np.dtype(np.int16), (count, slots, shape.hidden_size)
        )

    def fill(
        self, target: Llama, tokens: NDArray[np.integer], offsets: Sequence[int]
    ) -> Iterator[int]:
        """Run the target over the conversations that are missing; yields tokens done so far.

        Args:
            target: made with this shape's feature layers.
            tokens: of the corpus.
            offsets: where each conversation begins.
        """
        ends = [*offsets[1:], len(tokens)]
        for index in range(self.done, len(ends)):
            self._fill_one(target, tokens, offsets[index], ends[index])
            if (index + 1) % SAVE_EVERY == 0 or index + 1 == len(ends):
                self._save_progress(index + 1)
            yield ends[index]

    def features(self, start: int, stop: int) -> Tensor:
        """Hidden states of the tokens from `start` to before `stop`: bfloat16 `[n, F, hidden]`."""
        return torch.from_numpy(self._features[start:stop]).view(torch.bfloat16)

    @torch.inference_mode()
    def _fill_one(self, target: Llama, tokens: NDArray[np.integer], start: int, stop: int) -> None:
        ids = torch.from_numpy(tokens[start:stop].astype(np.int64)).to(target.device)
        cache = target.new_cache()
        positions = torch.arange(stop - start, device=target.device)
        probs = torch.softmax(target.forward(ids, positions, None, cache), dim=-1)  # [n, V]
        top = probs.topk(self.shape.top, dim=-1)
        self.top_ids[start:stop] = top.indices.cpu().numpy()
        self.top_probs[start:stop] = top.values.cpu().half().numpy()
        if self.shape.feature_layers:
            features = cache.features(0, stop - start).to("cpu", torch.bfloat16)
            self._features[start:stop] = features.view(torch.int16).numpy()

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
        record = {"shape": asdict(self.shape), "conversations": done}
        partial = self._progress.with_suffix(".partial")
        partial.write_text(json.dumps(record), "utf-8")
        os.replace(partial, self._progress)  # noqa: PTH105 atomic: a kill leaves the old record
        self.done = done


def _mapped(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    if not np.prod(shape):
        return np.zeros(shape, dtype)
    wanted = int(np.prod(shape)) * dtype.itemsize
    fits = path.exists() and path.stat().st_size == wanted
    return np.memmap(path, dtype, "r+" if fits else "w+", shape=shape)
