"""What the engine reports: immutable events of plain Python values.

An answer is `TreeChosen`, `PrefillDone`, then per decoding step at most one `TextDelta` followed
by exactly one `Step`, then perhaps a `TextDelta` of text that was held back, and at last
`Finished` or `Failed`. A `Notice` may come anywhere, and a `TreeChosen` between two steps if the
next one uses another tree. A consumer that pauses does so after a `Step`. Events hold no tensors,
so they can be recorded, sent to another process and replayed.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import cached_property

from sequoia_core.files import Record

Progress = Callable[[str, float | None], None]
"""Reports long work: what is being done, and the fraction done or None where it is not known."""


class Outcome(StrEnum):
    """What the verification did with a tree node."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    NOT_REACHED = "not reached"


class Origin(StrEnum):
    """Who proposed a tree node."""

    DRAFT = "draft"
    LOOKUP = "lookup"


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    """An end-of-sequence token or a stop string."""
    LENGTH = "length"
    """`max_new_tokens` was reached."""
    CONTEXT = "context"
    """The context window is full."""
    CANCELLED = "cancelled"
    """The caller asked to stop between two steps."""


class NoticeKind(StrEnum):
    """What a `Notice` is about."""

    CONTEXT_TRIMMED = "context trimmed"
    PLAIN_DECODING = "plain decoding"
    PRECISION = "precision"
    CALIBRATION = "calibration"
    WAITING = "waiting"
    MEMORY = "memory"


class Notice(Record, frozen=True):
    """One line the person should read; never needed to follow the decoding."""

    kind: NoticeKind
    message: str


class TreeChosen(Record, frozen=True):
    """The tree shape that the following steps speculate with.

    Attributes:
        mode: value of `config.Mode` that decides the tokens.
        growmap: name of the tree shape; "" when decoding plainly.
        nodes: most tree nodes of a step, root included, without looked-up ones; 1 if nothing is
            drafted.
        depth: edges on the longest path of such a tree; 0 if nothing is drafted.
        expected_tokens: tokens per step the growmap was searched for, or None if not known.
        expected_by_depth: expected probability that a step accepts at least d nodes, d = 1, 2, ...
        expected_by_rank: the positional acceptance rates a_1, a_2, ... the growmap was made for.
        predicted_speedup: over plain decoding, from measured times, or None if not measured.
        reason: one line on why this tree.
        lookup: whether continuations found in the conversation are appended: on, off or auto.
    """

    mode: str
    growmap: str
    nodes: int
    depth: int
    expected_tokens: float | None = None
    expected_by_depth: tuple[float, ...] = ()
    expected_by_rank: tuple[float, ...] = ()
    predicted_speedup: float | None = None
    reason: str = ""
    lookup: str = "off"


class PrefillProgress(Record, frozen=True):
    """Part of a long prompt was read. Counts of tokens, without those found in the cache."""

    done: int
    total: int


class PrefillDone(Record, frozen=True):
    """The prompt is in the target's KV cache.

    Attributes:
        prompt_tokens: tokens of the whole prompt.
        cached_tokens: of them, those that were in the KV cache.
        seconds: wall time of reading the rest.
    """

    prompt_tokens: int
    cached_tokens: int
    seconds: float


class TreeNode(Record, frozen=True):
    """One node of a step's token tree, in growmap order (node 0 is the root).

    Attributes:
        token_id: the token at this node.
        text: its text, not escaped; bytes of an incomplete character are shown as `<0xE2>`.
        parent: index of the parent node; -1 for the root.
        depth: edges from the root.
        rank: 1 for the first child drawn at its parent, 2 for the second, ...; 0 for the root.
        draft_prob: the draft's probability of the token, of the distribution it was drawn from;
            None for the root and for looked-up nodes.
        target_prob: the target's probability at the same temperature (1 at temperature 0), before
            top-p and top-k; None for the root.
        outcome: of the verification; the root counts as accepted.
        accept_prob: acceptance probability when the node was tried, or None if it was not.
        draw: the uniform number it was compared with, or None if none was drawn.
        origin: who proposed it.
    """

    token_id: int
    text: str
    parent: int
    depth: int
    rank: int
    draft_prob: float | None
    target_prob: float | None
    outcome: Outcome
    accept_prob: float | None = None
    draw: float | None = None
    origin: Origin = Origin.DRAFT


class Piece(Record, frozen=True):
    """One emitted token's share of the text.

    Attributes:
        text: that became printable with this token; "" while a character is incomplete.
        rank: child rank of the accepted node, or 0 for the target's bonus token.
    """

    text: str
    rank: int


class TextDelta(Record, frozen=True):
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
        """Wall time of the whole step."""
        return self.draft_ms + self.verify_ms + self.bookkeeping_ms


class Ranking(Record, frozen=True):
    """The most probable tokens of a distribution, in descending order.

    Attributes:
        token_ids: the target's ids.
        texts: as in `TreeNode.text`.
        probs: to six decimals.
    """

    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    probs: tuple[float, ...]


class Opinion(Record, frozen=True):
    """The models' distributions of the token after a node.

    Attributes:
        node: index in the step's tree.
        target: the target's, as for `TreeNode.target_prob`.
        draft: the one that its children were drawn from; None if the draft did not read the node.
    """

    node: int
    target: Ranking
    draft: Ranking | None = None


class TrialRecord(Record, frozen=True):
    """The test of a child against the residual distributions left by rejections before it.

    Attributes:
        node: the child.
        p: its probability in the target's residual, shaped by top-p and top-k.
        q: its probability in the draft's residual; 1 if it was proposed deterministically.
        residual: the target's residual after its rejection; None if it was accepted.
    """

    node: int
    p: float
    q: float
    residual: Ranking | None = None


class Insight(Record, frozen=True):
    """Why a step came out as it did.

    Attributes:
        opinions: at nodes with children and at the end of the accepted path; in a large tree only
            at the path's nodes and the first others.
        trials: in order; none if the rule compares no probabilities.
    """

    opinions: tuple[Opinion, ...]
    trials: tuple[TrialRecord, ...]

    def opinion(self, node: int) -> Opinion | None:
        """The distributions after a node, if they were kept."""
        return next((each for each in self.opinions if each.node == node), None)

    def trial(self, node: int) -> TrialRecord | None:
        """The test of a node, if it was tried."""
        return next((each for each in self.trials if each.node == node), None)


class Step(Record, frozen=True, dict=True):
    """One speculation step: draft a tree, verify it, emit the accepted path and a bonus token.

    Attributes:
        index: 1 for the first step of the answer.
        nodes: the tree in growmap order; one node when decoding plainly.
        path: indices of the accepted nodes, root first.
        bonus_token_id: the token drawn from the target at the end of the path.
        bonus_text: its text, as in `TreeNode.text`.
        bonus_prob: the target's probability of it, as in `TreeNode.target_prob`.
        token_ids: tokens emitted, after cutting at a stop or at `max_new_tokens`.
        context_length: tokens in the target's KV cache after the step.
        timings: of the step.
        plain_ms: wall time of a plain step at this context length; 0 if not known.
        plain_source: how `plain_ms` was measured, one line.
        insight: why it came out as it did, or None if that was not requested.
        baseline: decoded plainly to measure a plain step, although a tree was chosen.
    """

    index: int
    nodes: tuple[TreeNode, ...]
    path: tuple[int, ...]
    bonus_token_id: int
    bonus_text: str
    bonus_prob: float
    token_ids: tuple[int, ...]
    context_length: int
    timings: StepTimings
    plain_ms: float
    plain_source: str
    insight: Insight | None = None
    baseline: bool = False

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Indices of each node's children, first rank first."""
        children: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            if node.parent >= 0:
                children[node.parent].append(index)
        for siblings in children:
            siblings.sort(key=lambda index: self.nodes[index].rank)
        return tuple(map(tuple, children))

    @property
    def accepted(self) -> int:
        """Accepted draft tokens, the root not counted."""
        return len(self.path) - 1

    @property
    def speedup(self) -> float:
        """Tokens emitted x plain_ms / step wall time."""
        return len(self.token_ids) * self.plain_ms / self.timings.total_ms


class Totals(Record, frozen=True):
    """Sums over an answer. Seconds are decoding only: no prefill.

    Attributes:
        tokens: emitted tokens.
        steps: decoding steps.
        seconds: sum of the steps' wall times.
        plain_seconds: sum over steps of tokens x plain_ms: the time of plain decoding.
        draft_seconds: of `seconds`, in draft forwards.
        verify_seconds: of `seconds`, in target forwards.
        baseline_steps: of `steps`, those with `Step.baseline`; each emits one token.
    """

    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    plain_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    baseline_steps: int = 0

    def plus(self, step: Step) -> "Totals":
        """The totals with one more step."""
        emitted = len(step.token_ids)
        return Totals(
            tokens=self.tokens + emitted,
            steps=self.steps + 1,
            seconds=self.seconds + step.timings.total_ms / 1e3,
            plain_seconds=self.plain_seconds + emitted * step.plain_ms / 1e3,
            draft_seconds=self.draft_seconds + step.timings.draft_ms / 1e3,
            verify_seconds=self.verify_seconds + step.timings.verify_ms / 1e3,
            baseline_steps=self.baseline_steps + step.baseline,
        )

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens per step, baseline steps left out; 0 before the first."""
        steps = self.steps - self.baseline_steps
        return (self.tokens - self.baseline_steps) / steps if steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens over decode seconds; 0 before the first."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def speedup(self) -> float:
        """Plain seconds over decode seconds; 0 before the first step."""
        return self.plain_seconds / self.seconds if self.seconds else 0.0


class Finished(Record, frozen=True):
    """The answer is complete; its tokens are in the conversation."""

    reason: FinishReason
    totals: Totals


class Failed(Record, frozen=True):
    """The answer ended by an error; `message` is one line for the person."""

    message: str


Event = Notice | TreeChosen | PrefillProgress | PrefillDone | TextDelta | Step | Finished | Failed


class PairDescription(Record, frozen=True):
    """The models that decode, for a title bar or a report.

    Attributes:
        target: name of the target.
        draft: name of the draft, or None for plain decoding.
        device: that computes.
        dtype: number format of the weights, and what is unusual about their computation.
        context_window: most tokens.
        exact: a row's logits do not depend, beyond float32 rounding, on the rows computed with it,
            so at temperature 0 a tree gives the text of plain decoding.
        threads: of a forward on a CPU.
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
