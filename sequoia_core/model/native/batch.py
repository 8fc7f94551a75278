"""Many conversations side by side on the native forward; see `model.batch.ConversationBatch`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sequoia_core.model.native.llama import Continuation, NativeLlama

PASS_ROWS = 256
"""Rows of a pass that prompts may fill up; bounds the working memory."""


class NativeBatch:
    """Conversations with a cache each."""

    def __init__(self, model: NativeLlama, rows: int) -> None:
        assert rows > 0
        self._model = model
        self._caches = [model.new_cache() for _ in range(rows)]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens held by each row."""
        return [cache.length for cache in self._caches]

    def start(self, row: int, kept: int = 0) -> None:
        """See `ConversationBatch.start`."""
        self._caches[row].truncate(kept)

    def features(self, row: int) -> Tensor:
        """See `ConversationBatch.features`; float32."""
        if not self._model.kept_layers:
            return torch.empty(self._caches[row].length, 0, self._model.config.hidden_size)
        return self._caches[row].features(0, self._caches[row].length)

    def forward(self, token_ids: Sequence[Sequence[int]]) -> tuple[Sequence[int], Tensor]:
        """See `ConversationBatch.forward`; a prompt takes as few passes as `PASS_ROWS` allows."""
        spare = PASS_ROWS - sum(map(bool, token_ids))
        texts, done = [], []
        for row, ids in enumerate(token_ids):
            if not ids:
                continue
            more = min(max(spare, 0), len(ids) - 1)
            spare -= more
            ended = more == len(ids) - 1
            if ended:
                done.append(row)
            texts.append(Continuation(self._caches[row], ids[: 1 + more], int(ended)))
        return done, self._model.continue_texts(texts) if texts else torch.empty(
            0, self._model.vocab_size
        )
