"""Text to distil from, written by the target itself, many conversations at a time.

Conversation number i is the same whichever others are written with it and however often the writing
was interrupted; the text is the shortest run of conversations 0, 1, ... that is long enough. On a
GPU products of another batch may round differently, so there this holds up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.distill.corpus import Corpus, common_prefix, usable_length
from sequoia_core.distill.dialogue import Dialogue, GivenText, Lengths
from sequoia_core.distill.shards import TOP, LabelledConversation, Shards
from sequoia_core.distill.template_tokens import TemplateTokens
from sequoia_core.model.batch import GPU_GROUPS, GROUP, Batch, ConversationBatch, NativeBatch
from sequoia_core.model.llama import Llama
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.speculate.sampling import labelled_draws

SAVE_SECONDS = 60.0
MOST_ROWS, MOST_GPU_ROWS = 64, 4096
"""A CPU's products of more rows are no faster per row."""

TOKENS_PER_ROW = 600
"""A row should write so many tokens or more, or too many conversations are left unfinished."""

CACHE_BYTES = 4 << 30
"""Memory for all rows on a CPU; limits their number."""

GPU_SHARE = 0.5
"""Share of a GPU's free memory for all rows: caches that grow exist twice for a moment."""

FIRST_ROOM = 64
"""Labels for which a row has room at first."""

LOGIT_BYTES = 32
"""Of a logit and the intermediate values of drawing."""


@dataclass(frozen=True, slots=True)
class WritingPlan:
    """The wanted text.

    Attributes:
        tokens: at least so many.
        seed: of all random numbers.
        rows: conversations written at once. Part of the plan, since products of another size round
            differently.
    """

    tokens: int
    seed: int
    rows: int


def rows_for(
    tokens: int, token_bytes: int, vocab_size: int, gpu_bytes: int | None, longest: int
) -> int:
    """Rows that write so many tokens without waste and fit into memory.

    Args:
        tokens: wanted.
        token_bytes: of a token in a row's cache.
        vocab_size: of the target.
        gpu_bytes: free on the target's GPU; None on a CPU.
        longest: most tokens of a conversation, which every row may hold.
    """
    most, room = MOST_ROWS, CACHE_BYTES
    if gpu_bytes is not None:
        most, room = MOST_GPU_ROWS, int(gpu_bytes * GPU_SHARE)
    row_bytes = token_bytes * longest + vocab_size * LOGIT_BYTES
    rows = min(most, tokens // TOKENS_PER_ROW, room // row_bytes)
    unit = GROUP if rows < GROUP * GPU_GROUPS else GROUP * GPU_GROUPS
    return max(rows // unit, 1) * unit


class _Row:
    """A conversation that is being written, with `top` = k labels for each token."""

    def __init__(self, number: int, dialogue: Dialogue | GivenText, top: int) -> None:
        self.number, self.dialogue, self._labelled = number, dialogue, 0
        # one array per token would fragment the memory that logits use
        self._columns = np.empty((FIRST_ROOM, top), np.int32)
        self._probs = np.empty((FIRST_ROOM, top), np.float32)

    def take(self, token: int, columns: NDArray[np.int32], probs: NDArray[np.float32]) -> None:
        """Append a drawn token; an answer's gets the most probable tokens [k] as labels."""
        if not self.dialogue.asking:
            if self._labelled == len(self._columns):
                self._columns = np.resize(self._columns, (2 * self._labelled, len(columns)))
                self._probs = np.resize(self._probs, (2 * self._labelled, len(columns)))
            self._columns[self._labelled], self._probs[self._labelled] = columns, probs
            self._labelled += 1
        self.dialogue.take(token)

    def labelled(self, length: int, features: Tensor, vocab_size: int) -> LabelledConversation:
        """The first `length` tokens; `features` [n, F, hidden] may have more."""
        ids, answers = self.dialogue.ids[:length], self.dialogue.answers[:length]
        count = sum(answers[1:])
        top = torch.from_numpy(self._columns[:count]), torch.from_numpy(self._probs[:count])
        features = features[: max(length - 1, 0)].cpu()
        return LabelledConversation.of((ids, answers), top, features, vocab_size)


class Writer:
    """Lets a target write conversations into shards, which may hold earlier ones.

    The first conversations are those of `given`, text that the target wrote before, and are only
    labelled. Each of them ends with an answer and fits into the context window.
    """

    def __init__(
        self,
        model: Llama | NativeLlama,
        template: TemplateTokens,
        plan: WritingPlan,
        shards: Shards,
        given: Corpus | None = None,
    ) -> None:
        self._batch: ConversationBatch = (
            NativeBatch(model, plan.rows)
            if isinstance(model, NativeLlama)
            else Batch(model, plan.rows)
        )
        self._lengths = Lengths.within(model.context_window)
        self._top = min(TOP, model.vocab_size)
        self._closing = torch.tensor(sorted(template.closing), device=model.device)
        self._template, self._plan, self._shards = template, plan, shards
        self._given = Corpus.of([], model.vocab_size) if given is None else given
        self._rows: list[_Row | None] = [None] * plan.rows
        self._held: list[list[int]] = [[]] * plan.rows  # in the cache from a row's last one
        self._next = 0  # first one not begun
        self._finished_tokens = 0
        self._run = (0, 0)  # see `Shards.run`

    def run(self, save_seconds: float = SAVE_SECONDS) -> Iterator[int]:
        """Write until the text is long enough; yields the tokens written after every forward.

        Finished conversations are saved every `save_seconds`, and all of them at the end.
        """
        saved = monotonic()
        while not self._complete():
            self._refill()
            self._one_pass()
            if monotonic() - saved > save_seconds:
                self._shards.save()
                saved = monotonic()
            yield self._begun()
        self._shards.save()

    @property
    def share(self) -> float:
        """Finished part of the wanted text, 0 to 1."""
        return min(self._finished_tokens / self._plan.tokens, 1.0)

    def _complete(self) -> bool:
        self._run = self._shards.run(self._plan.tokens, self._run)
        return self._run[1] >= self._plan.tokens

    def _begun(self) -> int:
        """Tokens of all conversations, finished or begun."""
        under_way = sum(len(row.dialogue.ids) for row in self._rows if row is not None)
        return self._finished_tokens + under_way

    def _skip_finished(self) -> None:
        while self._next in self._shards:
            self._finished_tokens += self._shards.length(self._next)
            self._next += 1

    def _refill(self) -> None:
        """Give free rows the next conversations, unless those begun are enough."""
        for row in [row for row, taken in enumerate(self._rows) if taken is None]:
            self._skip_finished()
            if self._begun() >= self._plan.tokens:
                return
            dialogue = self._dialogue(self._next)
            self._rows[row] = _Row(self._next, dialogue, self._top)
            self._next += 1
            # all but the last token, whose logits are needed
            shared = common_prefix([self._held[row], dialogue.ids[:-1]])
            self._batch.start(row, len(shared))

    def _dialogue(self, number: int) -> Dialogue | GivenText:
        if number >= self._given.conversations:
            return Dialogue(number, self._plan.seed, self._template, self._lengths)
        span = self._given.span(number)
        return GivenText(self._given.tokens[span].tolist(), self._given.answers[span].tolist())

    @torch.inference_mode()
    def _one_pass(self) -> None:
        held = self._batch.lengths
        unread = [
            () if row is None else row.dialogue.ids[length:]
            for row, length in zip(self._rows, held, strict=True)
        ]
        ready, logits = self._batch.forward(unread)
        rows = [row for row in map(self._rows.__getitem__, ready) if row is not None]
        if not rows:
            return
        dialogues = [row.dialogue for row in rows]
        if barred := [at for at, dialogue in enumerate(dialogues) if dialogue.must_go_on]:
            places = torch.tensor(barred, device=logits.device)
            logits[places[:, None], self._closing] = float("-inf")
        temperatures = [dialogue.temperature for dialogue in dialogues]
        uniforms = [dialogue.chance() for dialogue in dialogues]
        drawn = labelled_draws(logits, temperatures, uniforms, self._top)
        columns, probs = drawn.columns.numpy(), drawn.probs.numpy()
        for row, *label in zip(rows, drawn.tokens, columns, probs, strict=True):
            row.take(*label)
        for place, row in zip(ready, rows, strict=True):
            if row.dialogue.finished:
                self._finish(place, row)

    def _finish(self, place: int, row: _Row) -> None:
        """Keep the usable part of a row's conversation, and free the row."""
        length = usable_length(row.dialogue.ids, row.dialogue.answers)
        features = self._batch.features(place)
        self._shards.add(row.number, row.labelled(length, features, self._shards.vocab_size))
        self._finished_tokens += length
        self._rows[place] = None
        self._held[place] = row.dialogue.ids[: self._batch.lengths[place]]
        self._batch.start(place, len(self._held[place]))
