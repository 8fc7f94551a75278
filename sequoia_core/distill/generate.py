"""Text to distil from, written by the target itself, many conversations at a time.

Owns which conversation is written when, drawing tokens for all of them at once, and the files they
are kept in. Conversation number i is the same whoever is written beside it and however often the
writing was broken off; the text is the shortest run of conversations 0, 1, ... that is long enough.
On a GPU products may round differently beside other neighbours, so there this holds up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.distill.corpus import Corpus, read_arrays, write_arrays
from sequoia_core.distill.dialogue import Dialogue, Lengths
from sequoia_core.distill.pieces import Pieces
from sequoia_core.model.batch import GROUP, Batch, ConversationBatch
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.llama import Llama
from sequoia_core.model.native.batch import NativeBatch
from sequoia_core.model.native.llama import NativeLlama

SAVE_SECONDS = 60.0
MOST_ROWS = 128
TOKENS_PER_ROW = 600
"""A row should write so many tokens or more, or too many conversations are left unfinished."""

CACHE_BYTES = 4 << 30
"""Memory that keys and values of all rows may come to; the number of rows follows from it."""

BLOCK = 256


@dataclass(frozen=True, slots=True)
class WritingPlan:
    """What text is wanted.

    Attributes:
        tokens: at least so many.
        seed: of everything.
        first: number of the first conversation; not 0 where earlier ones exist already.
        rows: conversations written at once. Part of the plan, since products of another size round
            differently.
    """

    tokens: int
    seed: int
    first: int
    rows: int


def rows_for(config: ModelConfig, tokens: int, bytes_per_number: int) -> int:
    """Rows that write so many tokens without waste and whose keys and values fit into memory."""
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * bytes_per_number
    rows = min(MOST_ROWS, tokens // TOKENS_PER_ROW, CACHE_BYTES // (per_token * TOKENS_PER_ROW))
    return max(rows // GROUP, 1) * GROUP


class TextStore:
    """Finished conversations by number, in numbered files of a directory.

    Args:
        directory: made if missing; what is in it already is read.
        vocab_size: of the target.
    """

    def __init__(self, directory: Path, vocab_size: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._vocab_size = directory, vocab_size
        self._found: dict[int, tuple[Sequence[int], Sequence[bool]]] = {}
        self._unsaved: list[int] = []
        files = sorted(directory.glob("part-*.npz"))
        self._parts = len(files)
        for file in files:
            part = Corpus.load(file)
            numbers = read_arrays(file)["numbers"]
            for at, number in enumerate(numbers.tolist()):
                span = part.span(at)
                self._found[number] = (part.tokens[span].tolist(), part.answers[span].tolist())

    def __contains__(self, number: int) -> bool:
        return number in self._found

    def length(self, number: int) -> int:
        """Tokens of a finished conversation."""
        return len(self._found[number][0])

    def add(self, number: int, ids: Sequence[int], answers: Sequence[bool]) -> None:
        """Keep a finished conversation; `save` brings it to the disk."""
        self._found[number] = (ids, answers)
        self._unsaved.append(number)

    def save(self) -> None:
        """Write what was added since the last time as one more file."""
        if self._unsaved:
            part = Corpus.of((self._found[number] for number in self._unsaved), self._vocab_size)
            numbers = np.array(self._unsaved, dtype=np.int64)
            file = self._directory / f"part-{self._parts:05}.npz"
            write_arrays(file, {**part.arrays(), "numbers": numbers})
            self._parts += 1
            self._unsaved = []

    def corpus(self, first: int) -> Corpus:
        """All conversations from `first` up to the first that is missing."""
        run: list[tuple[Sequence[int], Sequence[bool]]] = []
        while first + len(run) in self._found:
            run.append(self._found[first + len(run)])
        return Corpus.of(run, self._vocab_size)


class Writer:
    """Lets a target write conversations.

    Args:
        model: the target.
        pieces: of its chat template.
        plan: what is wanted.
        store: where conversations go, and where earlier ones are found.
    """

    def __init__(
        self, model: Llama | NativeLlama, pieces: Pieces, plan: WritingPlan, store: TextStore
    ) -> None:
        self._batch: ConversationBatch = (
            NativeBatch(model, plan.rows)
            if isinstance(model, NativeLlama)
            else Batch(model, plan.rows)
        )
        self._lengths = Lengths.within(model.context_window)
        self._closing = torch.tensor(sorted(pieces.closing), device=model.device)
        self._pieces, self._plan, self._store = pieces, plan, store
        self._rows: list[tuple[int, Dialogue] | None] = [None] * plan.rows
        self._held: list[Sequence[int]] = [()] * plan.rows  # read by a row's last conversation
        self._next = self._run = plan.first  # first one not begun; first one not finished
        self._finished_tokens = self._run_tokens = 0  # of all finished; of those before `_run`

    def run(self, save_seconds: float = SAVE_SECONDS) -> Iterator[int]:
        """Write until the text is long enough; yields, after every pass, the tokens written.

        Everything finished is on the disk when this ends, and else what is older than
        `save_seconds`.
        """
        saved = monotonic()
        while not self._complete():
            self._refill()
            self._one_pass()
            if monotonic() - saved > save_seconds:
                self._store.save()
                saved = monotonic()
            yield self._begun()
        self._store.save()

    @property
    def share(self) -> float:
        """How much of what is wanted is finished, 0 to 1."""
        return min(self._finished_tokens / self._plan.tokens, 1.0)

    def text(self) -> Corpus:
        """The conversations that were asked for, or as many as there are yet."""
        return self._store.corpus(self._plan.first).beginning(self._plan.tokens)

    def _complete(self) -> bool:
        while self._run in self._store and self._run_tokens < self._plan.tokens:
            self._run_tokens += self._store.length(self._run)
            self._run += 1
        return self._run_tokens >= self._plan.tokens

    def _begun(self) -> int:
        """Tokens of all conversations that were finished or begun."""
        under_way = sum(len(row[1].ids) for row in self._rows if row is not None)
        return self._finished_tokens + under_way

    def _skip_finished(self) -> None:
        while self._next in self._store:
            self._finished_tokens += self._store.length(self._next)
            self._next += 1

    def _refill(self) -> None:
        """Give free rows the next conversations, as long as those begun will not be enough."""
        for row in [row for row, taken in enumerate(self._rows) if taken is None]:
            self._skip_finished()
            if self._begun() >= self._plan.tokens:
                return
            dialogue = Dialogue(self._next, self._plan.seed, self._pieces, self._lengths)
            self._rows[row] = (self._next, dialogue)
            self._next += 1
            # all but the last token, whose logits are needed
            self._batch.start(row, _shared(self._held[row], dialogue.ids[:-1]))

    @torch.inference_mode()
    def _one_pass(self) -> None:
        held = self._batch.lengths
        unread = [
            () if row is None else row[1].ids[length:]
            for row, length in zip(self._rows, held, strict=True)
        ]
        ready, logits = self._batch.forward(unread)
        if not ready:
            return
        dialogues = [self._dialogue(row) for row in ready]
        barred = [at for at, dialogue in enumerate(dialogues) if dialogue.must_go_on]
        rows = torch.tensor(barred, dtype=torch.int64, device=logits.device)
        logits[rows[:, None], self._closing] = float("-inf")
        temperatures = [dialogue.temperature for dialogue in dialogues]
        tokens = draw_tokens(logits, temperatures, [dialogue.chance() for dialogue in dialogues])
        for row, dialogue, token in zip(ready, dialogues, tokens, strict=True):
            dialogue.take(token)
            if dialogue.finished:
                self._finish(row)

    def _dialogue(self, row: int) -> Dialogue:
        taken = self._rows[row]
        assert taken is not None
        return taken[1]

    def _finish(self, row: int) -> None:
        taken = self._rows[row]
        assert taken is not None
        number, dialogue = taken
        self._store.add(number, dialogue.ids, dialogue.answers)
        self._finished_tokens += len(dialogue.ids)
        self._rows[row] = None
        self._held[row] = dialogue.ids[: self._batch.lengths[row]]
        self._batch.start(row, len(self._held[row]))


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with."""
    return next(
        (at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right),
        min(len(one), len(other)),
    )


def draw_tokens(
    logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float]
) -> list[int]:
    """One token for each row, at its own temperature.

    The vocabulary is summed up block by block; only the block that is hit is looked into.

    Args:
        logits: float32 [B, V].
        temperatures: B of them; 0 takes the most probable token.
        uniforms: B numbers in [0, 1).
    """
    vocab_size = logits.shape[-1]
    if vocab_size % BLOCK:
        logits = functional.pad(logits, (0, -vocab_size % BLOCK), value=float("-inf"))
    blocks = logits.view(len(logits), -1, BLOCK)
    block = blocks.amax(-1).argmax(-1, keepdim=True)  # [B, 1]; an argmax over [B, V] is slow
    chosen = _within(block, _inside(blocks, block).argmax(-1))
    warm = [row for row, heat in enumerate(temperatures) if heat > 0]
    if warm:
        at = torch.tensor(warm, device=logits.device)
        heat = torch.tensor([temperatures[row] for row in warm], device=logits.device)[:, None]
        uniform = torch.tensor([uniforms[row] for row in warm], dtype=torch.float64)
        weights = torch.softmax(logits[at].div_(heat), dim=-1).view(len(warm), -1, BLOCK)
        chosen[at] = _drawn(weights, uniform.to(logits.device)).clamp(max=vocab_size - 1)
    tokens: list[int] = chosen.tolist()
    return tokens


def _drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """Where running sums of weights [B, blocks, BLOCK] pass a share of the whole: int64 [B]."""
    ends = weights.sum(-1).double().cumsum(-1)  # [B, blocks]
    goal = uniform[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, goal, right=True).clamp(max=ends.shape[1] - 1)  # [B, 1]
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    sums = _inside(weights, block).double().cumsum(-1)
    offset = torch.searchsorted(sums, goal - before, right=True).clamp(max=BLOCK - 1)
    return _within(block, offset[:, 0])


def _inside(blocks: Tensor, block: Tensor) -> Tensor:
    """One block of each row: [B, blocks, BLOCK], [B, 1] -> [B, BLOCK]."""
    return blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0]


def _within(block: Tensor, offset: Tensor) -> Tensor:
    return block[:, 0] * BLOCK + offset
