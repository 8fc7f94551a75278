"""The tokens of a conversation and both models' KV caches, which stay prefixes of them."""

from collections.abc import Iterator, Sequence

import torch

from sequoia_core.model.interface import KVCache, LanguageModel, PartReader
from sequoia_core.model.recorded import prepare_forward

KEPT = 256  # that stay when memory is returned: about a system prompt, which the next chat has too


class TokenCache:
    """Committed token ids, the last of which the target's cache lacks while decoding.

    The draft's cache may lack more: `draft_pending`.
    """

    def __init__(
        self,
        target: LanguageModel,
        draft: LanguageModel | None,
        before: "TokenCache | None" = None,  # of the same target; it is not used any more
    ) -> None:
        self._target, self._draft = target, draft
        self.token_ids: list[int] = before.token_ids if before else []
        self.target_cache: KVCache = before.target_cache if before else target.new_cache()
        self.draft_cache: KVCache | None = draft.new_cache(self.target_cache) if draft else None

    @property
    def both(self) -> list[KVCache]:
        """The target's cache, and the draft's if there is one."""
        return [each for each in (self.target_cache, self.draft_cache) if each is not None]

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
        """Make `prompt_ids` the committed ids, and keep the longest common prefix of the caches.

        Returns how many of them the target's cache holds; `read_prompt` does the others.
        """
        limit = max(min(len(prompt_ids) - 1, self.target_cache.length), 0)
        differ = (at for at in range(limit) if prompt_ids[at] != self.token_ids[at])
        common = next(differ, limit)
        self._truncate(common)
        self.token_ids = list(prompt_ids)
        return common

    def read_prompt(self) -> Iterator[int]:
        """Bring the target's cache up to the last committed token; yields tokens left to read.

        Of a model that reads all of them at once, so many as the work that is left is worth.
        """
        while left := self.unread:
            yield left
            ids = self._next_ids(self._target, self.target_cache, left)
            if isinstance(self._target, PartReader):
                for done in self._target.extend_in_parts(ids, self.target_cache):
                    yield left - int(done * len(ids))
            else:
                self._target.extend(ids, self.target_cache)

    def read_draft_prompt(self, most_pending: int) -> Iterator[int]:
        """The same for the draft's cache, if it lags by more than `most_pending` tokens."""
        assert self._draft is not None
        assert self.draft_cache is not None
        if len(self.draft_pending) > most_pending:
            while left := len(self.draft_pending) - 1:
                yield left
                ids = self._next_ids(self._draft, self.draft_cache, left)
                self._draft.extend(ids, self.draft_cache)

    def prepare(self) -> bool:
        """Record one forward that the coming steps will need; False if there is none."""
        models = ((self._target, self.target_cache), (self._draft, self.draft_cache))
        return any(prepare_forward(model, cache) for model, cache in models)

    def commit(
        self, emitted: Sequence[int], target_rows: Sequence[int], draft_rows: Sequence[int]
    ) -> None:
        """Add a step's tokens, and keep these rows of the caches, counted from the root's."""
        root = len(self.token_ids) - 1
        self.target_cache.keep(root, [root + row for row in target_rows])
        if self.draft_cache is not None and self.draft_cache.length > root:
            self.draft_cache.keep(root, [root + row for row in draft_rows])
        self.token_ids += emitted

    def roll_back(self) -> None:
        """Forget what a step that was broken off has written."""
        self._truncate(max(len(self.token_ids) - 1, 0))

    def release(self) -> None:
        """Return memory of the caches; the first `KEPT` tokens that they hold stay."""
        self._truncate(KEPT)
        for cache in self.both:
            cache.release()

    def _truncate(self, length: int) -> None:
        for cache in self.both:
            cache.truncate(min(cache.length, length))

    def _next_ids(self, model: LanguageModel, cache: KVCache, left: int) -> torch.Tensor:
        """Of the tokens left to read those that the model reads at once, int64 [n]."""
        end = cache.length + min(left, model.prompt_rows)
        return torch.tensor(self.token_ids[cache.length : end], device=model.device)
