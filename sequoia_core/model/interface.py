"""The seams: what each part of the engine may assume of the others.

Shape legend, for the whole package: `T` tree nodes (root included), `n` rows of one forward,
`S` tokens in the KV cache, `V` vocabulary of the target, `L` layers, `H` query heads, `K` KV heads,
`D` head dim. Batch is always one conversation, so no tensor has a batch dimension.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from sequoia_core.config import OTHER_CHILDREN, Mode
from sequoia_core.errors import GrowMapError

if TYPE_CHECKING:  # a screen imports this module long before it needs torch
    import torch
    from torch import Tensor

    from sequoia_core.chat.race import RaceEvent
    from sequoia_core.config import SamplingParams
    from sequoia_core.events import Event
    from sequoia_core.text.chat_template import Turn
    from sequoia_core.tree.growmap import GrowMap


@dataclass(frozen=True, slots=True)
class Paths:
    """What each of n rows sees of a tree's rows: its path from the root, itself the last.

    Attributes:
        lengths: int32 [n].
        rows: int32, one path after the other, each ascending.
    """

    lengths: array[int]
    rows: array[int]

    @classmethod
    def of(cls, paths: Sequence[Sequence[int]]) -> Paths:
        """From the path of each row."""
        return cls(array("i", map(len, paths)), array("i", chain.from_iterable(paths)))


@dataclass(frozen=True, slots=True)
class TreeRows:
    """Rows for a `TreeReader`: tokens that continue the text, or nodes of a tree.

    Attributes:
        token_ids: of the n rows.
        prefix: tokens before the tree, which all its rows see.
        paths: in the tree; None for tokens that continue the text.
    """

    token_ids: Sequence[int]
    prefix: int = 0
    paths: Paths | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What is read off each row of a tree's logits, on the host.

    Attributes:
        argmax: the target's most probable token after each node.
        log_totals: `log(sum(exp(logits / t)))`: a token's probability is `exp(logit / t - total)`.
        log_peaks: log probability of the argmax.
        log_probs: log probability of the node's own token at its parent; at the root it says
            nothing.
    """

    argmax: Sequence[int]
    log_totals: Sequence[float]
    log_peaks: Sequence[float]
    log_probs: Sequence[float]


@dataclass(frozen=True, slots=True)
class Draws:
    """Children chosen at n nodes, on the host.

    Attributes:
        columns: of each row's children in order of rank, row by row.
        probs: the draft's probabilities of them.
        stated: the same at temperature 1, which says more on whether they are right.
        peaks: the largest probability of each row at temperature 1.
        distributions: float32 [n, V_draft], what they were drawn from.
    """

    columns: Sequence[int]
    probs: Sequence[float]
    stated: Sequence[float]
    peaks: Sequence[float]
    distributions: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LabelledDraws:
    """How rows of logits go on, and what is learnt from them.

    Attributes:
        tokens: one drawn from each row.
        columns: int32 [n, k] on the CPU, each row's most probable tokens in order.
        probs: float32 [n, k] on the CPU, their probabilities at temperature 1.
    """

    tokens: list[int]
    columns: Tensor
    probs: Tensor


@dataclass(frozen=True, slots=True)
class LevelDraw:
    """How children are chosen from a distribution.

    Attributes:
        temperature: of the distribution, above 0.
        generator: of uniform numbers, to draw without replacement; None takes the most probable.
    """

    temperature: float = 1.0
    generator: torch.Generator | None = None


class KVCache(Protocol):
    """Keys and values of the tokens seen so far, one conversation."""

    @property
    def length(self) -> int:
        """Tokens held, `S`."""
        ...

    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """Keep the first `committed` tokens and, after them, the given later rows in order."""
        ...

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on. Memory is not cleared."""
        ...

    def release(self) -> None:
        """Return memory that the tokens held do not need."""
        ...


class LanguageModel(Protocol):
    """A causal language model that reads any number of rows against a cache it made.

    Type-erased in the cache: a model only ever gets back what its own `new_cache` returned.
    """

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        ...

    @property
    def context_window(self) -> int:
        """Most tokens the model can attend over."""
        ...

    @property
    def device(self) -> torch.device:
        """Where inputs must lie."""
        ...

    @property
    def prompt_rows(self) -> int:
        """Tokens of a prompt to read at once, between two chances to stop."""
        ...

    def new_cache(self, beside: KVCache | None = None) -> KVCache:
        """An empty cache for one conversation.

        Args:
            beside: the target's cache of that conversation, for a draft conditioned on the target's
                hidden states. It must be ahead of the draft's whenever the draft is run.
        """
        ...

    def forward(
        self, token_ids: Tensor, position_ids: Tensor, mask: Tensor | None, cache: KVCache
    ) -> Tensor:
        """Logits of n new rows; their keys and values are appended to the cache.

        Args:
            token_ids: int64 [n].
            position_ids: int64 [n].
            mask: bool [n, S + n], True where a row may attend; None is causal. Rows without a mask
                continue the text; rows with one are nodes of a tree, and the last row that such a
                row sees before itself is its parent.
            cache: from this model's `new_cache`, holding S tokens.

        Returns:
            float32 [n, V], valid until the next call.

        Raises:
            ContextFullError: S + n exceeds the context window.
        """
        ...

    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        """Append n tokens after the S cached ones without computing logits."""
        ...


@runtime_checkable
class TreeReader(LanguageModel, Protocol):
    """A model on the CPU that takes and gives values of the host, one call for each pass.

    A forward leaves nothing else in the processor's caches, so what follows one is slow for each
    operation of PyTorch that it needs, however small.
    """

    def read_tree(
        self, rows: TreeRows, parents: array[int], temperature: float, cache: KVCache
    ) -> tuple[Tensor, Summary]:
        """Logits [T, V] of a tree, and what is needed of each row of them.

        Args:
            rows: its nodes.
            parents: int64 [T], the root its own.
            temperature: above 0.
            cache: from this model's `new_cache`.
        """
        ...

    def read_level(self, rows: TreeRows, count: int, cache: KVCache, draw: LevelDraw) -> Draws:
        """Children of all rows of a tree, or of the last of the tokens that continue a text.

        Args:
            rows: what is read.
            count: of children at each.
            cache: from this model's `new_cache`.
            draw: how they are chosen.
        """
        ...


class Activity(StrEnum):
    """What a span of time was spent on while an offloaded model computed."""

    READ = "read"
    WAIT = "wait"
    COMPUTE = "compute"


@dataclass(frozen=True, slots=True)
class Span:
    """What happened to one layer from when until when, seconds of `time.perf_counter`."""

    activity: Activity
    layer: int
    began: float
    ended: float


MOST_NODES = 1024
"""Nodes of the largest tree that is decoded with; the published trees end at 768."""
MOST_DEPTH = 64
"""Levels of it: each is a drafting pass that nothing can cut short."""


@dataclass(frozen=True, slots=True)
class PairDescription:
    """What is decoding, for a title bar or a report.

    Attributes:
        target: name of the model.
        draft: likewise, or None for plain decoding.
        device: that computes.
        dtype: number format of the weights, and what is unusual about how they are computed.
        context_window: most tokens.
        exact: a row's logits are the same, to the last bit or to float32's rounding, whatever rows
            are computed with it, so that at temperature 0 a tree gives plain decoding's text.
        threads: that a forward on a CPU is computed with.
        remark: what a person should know about how the pair is computed; "" for nothing.
    """

    target: str
    draft: str | None
    device: str
    dtype: str
    context_window: int
    exact: bool = False
    threads: int = 1
    remark: str = ""


class Lookup(StrEnum):
    """Whether continuations found in the conversation itself are speculated with.

    Attributes:
        ON: whenever one is found.
        OFF: never.
        AUTO: where they were right often enough to pay for their rows.
    """

    ON = "on"
    OFF = "off"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class TreeChoice:
    """Which tree a person asked for; `growmap` None leaves the choice to the machine.

    Attributes:
        mode: how tokens are decided.
        growmap: a fixed shape.
        adaptive: whether each step's tree is grown by the draft's own probabilities; `growmap` is
            then None. None is adaptive with models that read a tree in one call, in the modes
            `sequoia` and `greedy`, and else the fixed shape that is predicted to be the fastest.
        lookup: grafts continuations into trees of the modes `sequoia` and `greedy`.

    Raises:
        GrowMapError: the tree is too large to be drafted and verified in one step, is to be fixed
            and adaptive at once, or adaptive in a mode that has no such trees.
    """

    mode: Mode = Mode.SEQUOIA
    growmap: GrowMap | None = None
    adaptive: bool | None = None
    lookup: Lookup = Lookup.OFF

    def __post_init__(self) -> None:
        tree = self.growmap
        if tree is not None and self.adaptive:
            raise GrowMapError("a tree is either of a fixed shape or adaptive; choose one")
        if self.adaptive and self.mode in OTHER_CHILDREN:
            raise GrowMapError(
                f"adaptive trees are grown for the modes sequoia, greedy and chain, not for "
                f"{self.mode.value}; name a growmap, or leave it to measured or auto"
            )
        if tree is not None and (tree.size > MOST_NODES or tree.depth > MOST_DEPTH):
            raise GrowMapError(
                f"growmap {tree.name!r} has {tree.size} nodes and depth {tree.depth}; a step can "
                f"speculate with at most {MOST_NODES} nodes and depth {MOST_DEPTH}"
            )


class ChatEngine(Protocol):
    """What a screen or a command needs of a conversation with a pair of models.

    Called from one thread only. `Conversation` is the real one; tests and `sequoia replay` use
    one that replays a recorded trace.
    """

    @property
    def description(self) -> PairDescription:
        """The pair in use."""
        ...

    @property
    def tree_choice(self) -> TreeChoice:
        """What the next answer will be decoded with."""
        ...

    def choose_tree(self, choice: TreeChoice) -> None:
        """Use another mode or growmap from the next answer on."""
        ...

    def reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        """Answer the person's next message.

        Args:
            prompt: the message; must not be blank.
            params: how to sample.
            should_stop: asked between steps; True ends the answer with what there is.

        Raises:
            ParameterError: the prompt is blank, or the chat template or the tokenizer refuses it.
            ContextFullError: the prompt alone is longer than the context window.
        """
        ...

    def clear(self) -> None:
        """Forget all turns; the system prompt stays."""
        ...

    def restore(self, turns: Sequence[Turn]) -> None:
        """Go on from exactly these turns: another branch, or a chat of an earlier day.

        What they share with the turns before is not read again by the next answer.

        Args:
            turns: all of them, the oldest first; the system prompt stays as it is.

        Raises:
            ParameterError: the chat template refuses them; nothing was changed.
        """
        ...

    def set_system_prompt(self, system_prompt: str | None) -> None:
        """Start over with another system prompt; None is the chat template's own default.

        Raises:
            ParameterError: the template takes none; what was in use stays, and so do the turns.
            ContextFullError: it leaves no room for a message; likewise.
        """
        ...

    def race(
        self,
        turns: Sequence[Turn],
        prompt: str,
        params: SamplingParams,
        should_stop: Callable[[], bool],
    ) -> Iterator[RaceEvent]:
        """Answer a prompt plainly and speculatively at once; the conversation is not touched.

        Args:
            turns: what comes before the prompt, as in `restore`.
            prompt: the message; must not be blank.
            params: how to sample, for both.
            should_stop: as in `reply`.

        Yields:
            `RaceTerms`, then the events of both lanes, each ending with `Finished`.

        Raises:
            ParameterError: the prompt is blank, or there is nothing to race with.
            ContextFullError: the prompt alone is longer than the context window.
        """
        ...

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Measure pair and machine in short slices while nobody waits; ends when nothing is left.

        Yields a `Notice` or `TreeChosen` when something was learnt.
        """
        ...
