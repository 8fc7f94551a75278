"""The token ledger: which ids both models' caches hold, and what a prompt may reuse of them.

Owns the two KV caches of a conversation and keeps them prefixes of one list of ids. Knows nothing
of text, trees' contents or probabilities.
"""

from collections.abc import Iterator, Sequence

import torch

from sequoia_core.model.interface import KVCache, LanguageModel

CHUNK = 256
"""Most prompt tokens read between two chances to cancel; a model may want fewer."""

KEPT = 256
"""Tokens that stay when memory is returned: about a system prompt, which the next chat has too."""


class Ledger:
    """Committed token ids, the last of which is not in the target's cache while decoding.

    Args:
        target: its cache holds every committed token but the last.
        draft: its cache may lag behind; what it lacks is `draft_pending`.
    """

    def __init__(self, target: LanguageModel, draft: LanguageModel | None) -> None:
        self._target = target
        self.token_ids: list[int] = []
        self.target_cache: KVCache = target.new_cache()
        self._draft = draft
        self.draft_cache: KVCache | None = draft.new_cache(self.target_cache) if draft else None

    @property
    def unread(self) -> int:
        """Committed ids before the last one that the target's cache lacks."""
        return max(len(self.token_ids) - 1 - self.target_cache.length, 0)

    @property
    def draft_pending(self) -> list[int]:
        """Committed ids that the draft's cache lacks, the root last."""
        assert self.draft_cache is not None
        return self.token_ids[self.draft_cache.length :]

    def start(self, prompt_ids: Sequence[int]) -> int:
        """Make `prompt_ids` the committed ids and keep the longest common prefix of the caches.

        Returns:
            how many of them the target's cache holds; `read_prompt` does the others.
        """
        limit = min(len(prompt_ids) - 1, self.target_cache.length)
        common = next(
            (at for at in range(limit) if prompt_ids[at] != self.token_ids[at]), max(limit, 0)
        )
        self.target_cache.truncate(common)
        if self.draft_cache is not None:
            self.draft_cache.truncate(min(common, self.draft_cache.length))
        self.token_ids = list(prompt_ids)
        return common

    def read_prompt(self) -> Iterator[int]:
        """Bring the target's cache up to the last committed token; yields tokens left to read."""
        while left := self.unread:
            yield left
            self._extend(self._target, self.target_cache, left)

    def read_draft_prompt(self, most_pending: int) -> Iterator[int]:
        """Bring the draft's cache to the root if it lags by more than `most_pending` tokens.

        Yields tokens left to read.
        """
        assert self._draft is not None
        assert self.draft_cache is not None
        if len(self.draft_pending) > most_pending:
            while left := len(self.draft_pending) - 1:
                yield left
                self._extend(self._draft, self.draft_cache, left)

    def commit(
        self, emitted: Sequence[int], target_rows: Sequence[int], draft_rows: Sequence[int]
    ) -> None:
        """Take over one step's result.

        Args:
            emitted: the tokens the step adds.
            target_rows: rows of the target's cache to keep, counted from the root's, root included.
            draft_rows: likewise for the draft's cache.
        """
        root = len(self.token_ids) - 1
        self.target_cache.keep(root, [root + row for row in target_rows])
        if self.draft_cache is not None and self.draft_cache.length > root:
            self.draft_cache.keep(root, [root + row for row in draft_rows])
        self.token_ids += emitted

    def roll_back(self) -> None:
        """Forget what a step that was broken off has written."""
        committed = len(self.token_ids)
        self.target_cache.truncate(min(self.target_cache.length, max(committed - 1, 0)))
        if self.draft_cache is not None:
            self.draft_cache.truncate(min(self.draft_cache.length, max(committed - 1, 0)))

    def release(self) -> None:
        """Return memory of the caches; of what they hold, the first `KEPT` tokens stay."""
        for cache in filter(None, (self.target_cache, self.draft_cache)):
            cache.truncate(min(cache.length, KEPT))
            cache.release()

    def _extend(self, model: LanguageModel, cache: KVCache, left: int) -> None:
        end = cache.length + min(left, CHUNK, model.prompt_rows)
        ids = torch.tensor(self.token_ids[cache.length : end], device=model.device)
        model.extend(ids, cache)
