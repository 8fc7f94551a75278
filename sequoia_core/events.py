"""What the engine reports: immutable events of plain values, which can be recorded and replayed.

An answer is `AnswerStart` if it is no usual one, `TreeChosen`, `PrefillDone`, then per decoding
step at most one `TextDelta` followed by exactly one `Step`, then perhaps a `TextDelta` of text that
was held back, and at last `Finished` or `Failed`. A `Notice` may come anywhere, and a `TreeChosen`
between two steps if the next one uses another tree. A consumer that pauses does so after a `Step`.
`MemoryUse` is no part of an answer.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import cached_property
from itertools import pairwise

from msgspec import field

from sequoia_core.files import Record, TaggedRecord

Progress = Callable[[str, float | None], None]
"""Reports long work: what is being done, and the fraction done or None where it is not known."""

StopCheck = Callable[[], bool]  # called between steps; True ends the work


class Outcome(StrEnum):  # of the verification of a tree node
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    NOT_REACHED = "not reached"


class Origin(StrEnum):  # who proposed a tree node
    DRAFT = "draft"
    LOOKUP = "lookup"


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"  # an end-of-sequence token or a stop string
    LENGTH = "length"  # `max_new_tokens` was reached
    CONTEXT = "context"  # the context window is full
    CANCELLED = "cancelled"  # the caller asked to stop between two steps


class NoticeKind(StrEnum):
    CONTEXT_TRIMMED = "context trimmed"
    PLAIN_DECODING = "plain decoding"
    PRECISION = "precision"
    CALIBRATION = "calibration"
    WAITING = "waiting"
    MEMORY = "memory"
    GRAPHS = "graphs"


class Notice(TaggedRecord, frozen=True):
    """One line the person should read; never needed to follow the decoding."""

    kind: NoticeKind
    message: str


class AnswerStart(TaggedRecord, frozen=True, omit_defaults=True):
    """What is special about an answer; the app adds it, the engine does not yield it."""

    settings: dict[str, str] = field(default_factory=dict)  # for this answer alone, by name
    text: str = ""  # that it begins with and that was not decoded for it
    token_ids: tuple[int, ...] = ()  # of that text, if it is another answer's as it was decoded
    edited: bool = False  # a person has changed that text


class TreeChosen(TaggedRecord, frozen=True):
    """The tree shape that the following steps speculate with."""

    mode: str  # value of the `config.Mode` that decides the tokens
    growmap: str  # name of the tree shape; "" when decoding plainly
    nodes: int  # most of a step, with the root, without looked-up ones; 1 if nothing is drafted
    depth: int  # edges on the longest path of such a tree
    expected_tokens: float | None = None  # per step, for which the growmap was searched
    expected_by_depth: tuple[float, ...] = ()  # P(a step accepts at least d nodes), d = 1, 2, ...
    expected_by_rank: tuple[float, ...] = ()  # positional acceptance rates a_1, a_2, ... of it
    predicted_speedup: float | None = None  # over plain decoding, from measured times
    reason: str = ""  # one line on why this tree
    lookup: str = "off"  # value of a `config.Lookup`


class PrefillProgress(TaggedRecord, frozen=True):
    """Part of a long prompt was read. Counts of tokens, without those found in the cache."""

    done: int
    total: int


class PrefillDone(TaggedRecord, frozen=True, omit_defaults=True):
    prompt_tokens: int
    cached_tokens: int  # of them, those that were in the KV cache before
    seconds: float  # wall time of reading the rest
    left_out: int = 0  # of the oldest turns, those that do not fit into the context window


class TreeNode(Record, frozen=True):
    """One node of a step's token tree, in growmap order (node 0 is the root).

    `target_prob` is at the same temperature (1 at temperature 0), before top-p and top-k.
    """

    token_id: int
    text: str  # not escaped; bytes of an incomplete character are shown as `<0xE2>`
    parent: int  # index; -1 for the root
    depth: int  # edges from the root
    rank: int  # 1 for the first child drawn at its parent, 2 for the second; 0 for the root
    draft_prob: float | None  # as it was drawn from; None for the root and for looked-up nodes
    target_prob: float | None  # None for the root
    outcome: Outcome  # the root counts as accepted
    accept_prob: float | None = None  # when the node was tried; None if it was not
    draw: float | None = None  # uniform number it was compared with, if one was drawn
    origin: Origin = Origin.DRAFT


class Piece(Record, frozen=True):
    """One emitted token's share of the text."""

    text: str  # became printable with this token; "" while a character is incomplete
    rank: int  # of the accepted node; 0 for the target's bonus token


class TextDelta(TaggedRecord, frozen=True):
    """Text that became printable in step `step`; `text` joins the texts of `pieces`."""

    step: int
    text: str
    pieces: tuple[Piece, ...]


class StepTimings(Record, frozen=True):
    """Milliseconds of wall time of one step. Bookkeeping is all except the model forwards."""

    draft_ms: float
    verify_ms: float
    bookkeeping_ms: float

    @property
    def total_ms(self) -> float:
        return self.draft_ms + self.verify_ms + self.bookkeeping_ms


class Ranking(Record, frozen=True):
    """The most probable tokens of a distribution, in descending order."""

    token_ids: tuple[int, ...]  # the target's
    texts: tuple[str, ...]  # as in `TreeNode.text`
    probs: tuple[float, ...]  # to six decimals


class Opinion(Record, frozen=True):
    """The models' distributions of the token after a node."""

    node: int
    target: Ranking  # as for `TreeNode.target_prob`
    draft: Ranking | None = None  # its children's; None if the draft did not read the node


class TrialRecord(Record, frozen=True, omit_defaults=True):
    """The test of a node against the residual distributions left by rejections before it.

    In the mode `traverse` the node stands for the sequence from the root to it, and its children
    were tested before it. That sequence's probability of being accepted was min(1, above p / q),
    and fell with each of their rejections to `TreeNode.accept_prob`.
    """

    node: int
    p: float  # its probability in the target's residual, shaped by top-p and top-k
    q: float  # its probability in the draft's residual; 1 if it was proposed deterministically
    residual: Ranking | None = None  # the target's after its rejection; None if it was accepted
    above: float | None = None  # that probability of its parent; None in the other modes


class Insight(Record, frozen=True):
    # at nodes with children and at the end of the accepted path; in a large tree only at the
    # path's nodes and the first others
    opinions: tuple[Opinion, ...]
    trials: tuple[TrialRecord, ...]  # in order; none if the rule compares no probabilities

    def opinion(self, node: int) -> Opinion | None:
        return next((each for each in self.opinions if each.node == node), None)

    def trial(self, node: int) -> TrialRecord | None:
        return next((each for each in self.trials if each.node == node), None)


class Step(TaggedRecord, frozen=True, dict=True):
    """One speculation step: draft a tree, verify it, emit the accepted path and a bonus token."""

    index: int  # 1 for the first of the answer
    nodes: tuple[TreeNode, ...]  # in growmap order; one when decoding plainly
    path: tuple[int, ...]  # accepted nodes, root first
    bonus_token_id: int  # drawn from the target at the end of the path
    bonus_text: str  # as `TreeNode.text`
    bonus_prob: float  # as `TreeNode.target_prob`
    token_ids: tuple[int, ...]  # emitted, after cutting at a stop or at `max_new_tokens`
    context_length: int  # tokens in the target's KV cache after the step
    timings: StepTimings
    plain_ms: float  # wall time of a plain step at this context length; 0 if not known
    plain_source: str  # how `plain_ms` was measured, one line
    insight: Insight | None = None  # if it was requested
    baseline: bool = False  # decoded plainly to measure a plain step, although a tree was chosen

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Indices of each node's children, first rank first."""
        children: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            if node.parent >= 0:
                children[node.parent].append(index)
        return tuple(map(tuple, children))

    @property
    def accepted(self) -> int:
        """Accepted draft tokens, the root not counted."""
        return len(self.path) - 1

    @property
    def speedup(self) -> float:
        """Tokens emitted x plain_ms, at most the wall time of this step, over that time."""
        total_ms = self.timings.total_ms
        return len(self.token_ids) * min(self.plain_ms, total_ms) / total_ms


class Totals(Record, frozen=True):
    """Sums over an answer. Seconds are decoding only: no prefill."""

    tokens: int = 0  # emitted
    steps: int = 0
    seconds: float = 0.0
    plain_seconds: float = 0.0  # sum over steps of tokens x plain_ms: the time of plain decoding
    draft_seconds: float = 0.0  # of `seconds`, in draft forwards
    verify_seconds: float = 0.0  # of `seconds`, in target forwards
    baseline_steps: int = 0  # of `steps`, those with `Step.baseline`; each emits one token
    # names and meanings as in vLLM's metrics; 0 and empty in records of earlier versions
    num_drafts: int = 0  # of `steps`, those that drafted or looked up a tree
    num_draft_tokens: int = 0  # nodes of these trees, the roots not counted
    num_accepted_tokens: int = 0  # of `num_draft_tokens`
    num_accepted_tokens_per_pos: tuple[int, ...] = ()  # [d - 1]: drafts that accepted d or more

    def plus(self, step: Step) -> "Totals":
        emitted, accepted = len(step.token_ids), step.accepted
        per_pos = self.num_accepted_tokens_per_pos
        longest = max(accepted, len(per_pos))
        return Totals(
            tokens=self.tokens + emitted,
            steps=self.steps + 1,
            seconds=self.seconds + step.timings.total_ms / 1e3,
            plain_seconds=self.plain_seconds + emitted * step.plain_ms / 1e3,
            draft_seconds=self.draft_seconds + step.timings.draft_ms / 1e3,
            verify_seconds=self.verify_seconds + step.timings.verify_ms / 1e3,
            baseline_steps=self.baseline_steps + step.baseline,
            num_drafts=self.num_drafts + (len(step.nodes) > 1),
            num_draft_tokens=self.num_draft_tokens + len(step.nodes) - 1,
            num_accepted_tokens=self.num_accepted_tokens + accepted,
            num_accepted_tokens_per_pos=tuple(
                (per_pos[at] if at < len(per_pos) else 0) + (at < accepted) for at in range(longest)
            ),
        )

    @property
    def mean_acceptance_length(self) -> float | None:
        """1 + accepted tokens / drafts, the target's own token included; None without a draft."""
        return 1.0 + self.num_accepted_tokens / self.num_drafts if self.num_drafts else None

    @property
    def accepted_lengths(self) -> tuple[int, ...]:
        """Histogram: [n] counts the drafts of which exactly n tokens were accepted."""
        at_least = (self.num_drafts, *self.num_accepted_tokens_per_pos, 0)
        return tuple(more - fewer for more, fewer in pairwise(at_least)) if self.num_drafts else ()

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens per pass of the target, baseline steps left out; 0 before the first."""
        steps = self.steps - self.baseline_steps
        return (self.tokens - self.baseline_steps) / steps if steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens over decode seconds; 0 before the first."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def plain_seconds_per_token(self) -> float:
        """Of plain decoding; 0 if not measured. At most what the answer's own steps took, each.

        A step with a tree does all that a plain one does. So a slower plain step was a delayed one.
        """
        if not self.tokens or not self.steps:
            return 0.0
        return min(self.plain_seconds / self.tokens, self.seconds / self.steps)

    @property
    def speedup(self) -> float:
        """Over plain decoding, never above `tokens_per_step`; 0 before the first step."""
        return self.plain_seconds_per_token * self.tokens / self.seconds if self.seconds else 0.0


class Finished(TaggedRecord, frozen=True):
    """The answer is complete; its tokens are in the conversation."""

    reason: FinishReason
    totals: Totals


class Failed(TaggedRecord, frozen=True):
    """The answer ended by an error; `message` is one line for the person."""

    message: str


class DeviceMemory(Record, frozen=True):
    """Bytes of one device's memory."""

    device: str
    weights: int  # of the pair, as planned when it was loaded
    cache_used: int  # of keys and values: by the tokens of the chat
    cache_reserved: int  # by what is kept for them
    recordings: int  # CUDA graphs
    peak: int  # most that the process has taken
    free: int


class MemoryUse(TaggedRecord, frozen=True):
    """The memory that a pair takes while nobody waits, device by device."""

    devices: tuple[DeviceMemory, ...]


Event = (
    Notice | AnswerStart | TreeChosen | PrefillProgress | PrefillDone | TextDelta | Step | Finished
    | Failed | MemoryUse
)  # fmt: skip


class PairDescription(Record, frozen=True):
    """The models that decode, for a title bar or a report."""

    target: str
    draft: str | None  # None for plain decoding
    device: str
    dtype: str  # of the weights, and what is unusual about their computation
    context_window: int
    # a row's logits do not depend, beyond float32 rounding, on the rows computed with it, so at
    # temperature 0 a tree gives the text of plain decoding
    exact: bool = False
    threads: int = 1  # of a forward on a CPU
    remark: str = ""  # what a person should know about how the pair is computed
