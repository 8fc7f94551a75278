"""Text to distil from, written by the target itself, many conversations at a time."""

from array import array
from collections.abc import Iterator
from time import monotonic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.distill.corpus import Corpus, common_prefix, usable_length
from sequoia_core.distill.dialogue import Dialogue, GivenText, TemplateTokens
from sequoia_core.distill.options import Options
from sequoia_core.distill.shards import TOP, LabelledConversation, Shards
from sequoia_core.model.batch import GPU_GROUPS, GROUP, Batch, NativeBatch
from sequoia_core.model.llama import Llama
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.speculate.sampling import labelled_draws

MOST_ROWS, MOST_GPU_ROWS = 64, 4096  # a CPU's products of more rows are no faster per row
# a row should write so many tokens or more, or too many conversations are left unfinished
TOKENS_PER_ROW = 600
CACHE_BYTES = 4 << 30  # memory for all rows on a CPU; limits their number
GPU_SHARE = 0.5  # of the free memory, for all rows: caches that grow exist twice for a moment
LOGIT_BYTES = 32  # of a logit and the intermediate values of drawing


def rows_for(
    tokens: int, token_bytes: int, vocab_size: int, gpu_bytes: int | None, longest: int
) -> int:
    """Rows that waste little on so many tokens, and may all hold the longest conversation."""
    most, room = MOST_ROWS, CACHE_BYTES
    if gpu_bytes is not None:
        most, room = MOST_GPU_ROWS, int(gpu_bytes * GPU_SHARE)
    row_bytes = token_bytes * longest + vocab_size * LOGIT_BYTES
    rows = min(most, tokens // TOKENS_PER_ROW, room // row_bytes)
    unit = GROUP if rows < GROUP * GPU_GROUPS else GROUP * GPU_GROUPS
    return max(rows // unit, 1) * unit


class _Row:
    """A conversation that is being written, with labels for the tokens of its answers."""

    def __init__(self, number: int, dialogue: Dialogue | GivenText) -> None:
        self.number, self.dialogue = number, dialogue
        # one numpy array per token would fragment the memory that logits use
        self._columns, self._probs = array("i"), array("f")

    def take(self, token: int, columns: NDArray[np.int32], probs: NDArray[np.float32]) -> None:
        """Append a drawn token; an answer's gets the most probable tokens [k] as labels."""
        if not self.dialogue.asking:
            self._columns.frombytes(columns.tobytes())
            self._probs.frombytes(probs.tobytes())
        self.dialogue.take(token)

    def usable(self, features: Tensor, top: int, vocab_size: int) -> LabelledConversation:
        """The beginning worth learning from; `features` [n, F, hidden] are of all tokens."""
        length = usable_length(self.dialogue.ids, self.dialogue.answers)
        ids, answers = self.dialogue.ids[:length], self.dialogue.answers[:length]
        count = sum(answers[1:])
        columns, probs = (
            torch.from_numpy(np.array(each).reshape(-1, top)[:count])
            for each in (self._columns, self._probs)
        )
        features = features[: max(length - 1, 0)].cpu()
        return LabelledConversation.of((ids, answers), (columns, probs), features, vocab_size)


class Writer:
    """Lets a target write conversations, `rows` at once, into shards, which may hold earlier ones.

    The first are those of `given`, which are only labelled: each ends with an answer and fits into
    the context window. With as many rows a conversation is the same whichever others are written
    with it and however often the writing was interrupted, on a GPU up to rounding.
    """

    def __init__(
        self,
        model: Llama | NativeLlama,
        template: TemplateTokens,
        options: Options,
        rows: int,
        shards: Shards,
        given: Corpus | None = None,
    ) -> None:
        self._batch: Batch | NativeBatch = (
            NativeBatch(model, rows) if isinstance(model, NativeLlama) else Batch(model, rows)
        )
        self._window = model.context_window
        self._top = min(TOP, model.vocab_size)
        self._closing = torch.tensor(sorted(template.closing), device=model.device)
        self._template, self._options, self._shards = template, options, shards
        self._given = Corpus.of([], model.vocab_size) if given is None else given
        self._rows: list[_Row | None] = [None] * rows
        self._held: list[list[int]] = [[]] * rows  # in the cache from a row's last one
        self._next = 0  # first one not begun
        self._finished_tokens = 0

    def run(self, save_seconds: float = 60.0) -> Iterator[int]:
        """Write until the text is long enough; yields the tokens written after every forward."""
        saved, known = monotonic(), (0, 0)
        wanted = self._options.tokens
        while (known := self._shards.run(wanted, known))[1] < wanted:
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
        return min(self._finished_tokens / self._options.tokens, 1.0)

    def _begun(self) -> int:
        """Tokens of all conversations, finished or begun."""
        under_way = sum(len(row.dialogue.ids) for row in self._rows if row is not None)
        return self._finished_tokens + under_way

    def _refill(self) -> None:
        """Give free rows the next conversations, unless those begun are enough."""
        for place in [place for place, row in enumerate(self._rows) if row is None]:
            while self._next in self._shards.lengths:
                self._finished_tokens += self._shards.lengths[self._next]
                self._next += 1
            if self._begun() >= self._options.tokens:
                return
            dialogue: Dialogue | GivenText
            if self._next < len(self._given):
                ids, answers = self._given[self._next]
                dialogue = GivenText(ids.tolist(), answers.tolist())
            else:
                dialogue = Dialogue(self._next, self._options.seed, self._template, self._window)
            self._rows[place] = _Row(self._next, dialogue)
            self._next += 1
            # all but the last token, whose logits are needed
            shared = common_prefix([self._held[place], dialogue.ids[:-1]])
            self._batch.start(place, len(shared))

    @torch.inference_mode()
    def _one_pass(self) -> None:
        unread = [
            () if row is None else row.dialogue.ids[length:]
            for row, length in zip(self._rows, self._batch.lengths, strict=True)
        ]
        ready, logits = self._batch.forward(unread)
        rows = {place: row for place in ready if (row := self._rows[place]) is not None}
        if not rows:
            return
        dialogues = [row.dialogue for row in rows.values()]
        if barred := [at for at, each in enumerate(dialogues) if each.must_go_on]:
            places = torch.tensor(barred, device=logits.device)
            logits[places[:, None], self._closing] = float("-inf")
        temperatures = [each.temperature for each in dialogues]
        uniforms = [each.chance() for each in dialogues]
        drawn = labelled_draws(logits, temperatures, uniforms, self._top)
        labels = drawn.tokens, drawn.columns.numpy(), drawn.probs.numpy()
        for (place, row), *label in zip(rows.items(), *labels, strict=True):
            row.take(*label)
            if row.dialogue.finished:
                made = row.usable(self._batch.features(place), self._top, self._shards.vocab_size)
                self._shards.add(row.number, made)
                self._finished_tokens += len(made.tokens)
                self._rows[place] = None
                self._held[place] = row.dialogue.ids[: self._batch.lengths[place]]
                self._batch.start(place, len(self._held[place]))
