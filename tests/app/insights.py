"""The standard answer as a sampling engine would give it: draws, rankings, residuals.

Figures are made up but agree with each other, so that what is said of them can be checked.
"""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from app.store.recorder import Recorder
from sequoia_core.events import (
    Event,
    Insight,
    Opinion,
    Outcome,
    Ranking,
    Step,
    TreeNode,
    TrialRecord,
)
from tests.fakes import make_answer

_WORDS = (" of", " the", "\n", " sky", " [b]x[/b]", ' "so"', " \x1b[31m", " 光", " blue", ".", " a")


def ranking(nodes: Sequence[TreeNode], probs: Sequence[float], seed: int) -> Ranking:
    """These nodes' tokens with these probabilities, and others after them."""
    known = {node.text: (node.token_id, prob) for node, prob in zip(nodes, probs, strict=True)}
    rest = max(0.0, 1.0 - sum(prob for _, prob in known.values()))
    for at, word in enumerate(_WORDS):
        if word not in known:
            known[word] = (100 + at, rest * (0.5 + (seed + at) % 3 / 10) / 2 ** (at + 1))
    best = sorted(known.items(), key=lambda item: -item[1][1])[:10]
    return Ranking(
        token_ids=tuple(token_id for _, (token_id, _) in best),
        texts=tuple(text for text, _ in best),
        probs=tuple(round(prob, 6) for _, (_, prob) in best),
    )


def with_insight(step: Step) -> Step:
    """The step with a draw for each node that was tried, and all there is to say of it."""
    nodes = [_with_draw(step.index, at, node) for at, node in enumerate(step.nodes)]
    inner = sorted({node.parent for node in nodes if node.parent >= 0} | set(step.path))
    opinions = []
    for at in inner:
        children = [node for node in nodes if node.parent == at]
        opinions.append(
            Opinion(
                at,
                ranking(children, [node.target_prob or 0.0 for node in children], at),
                ranking(children, [node.draft_prob or 0.0 for node in children], at + 1)
                if children
                else None,
            )
        )
    trials = [
        TrialRecord(
            at,
            p=round((node.draft_prob or 0.0) * (node.accept_prob or 0.0), 6),
            q=node.draft_prob or 0.0,
            residual=ranking([], [], at) if node.outcome is Outcome.REJECTED else None,
        )
        for at, node in enumerate(nodes)
        if node.draw is not None
    ]
    return replace(step, nodes=tuple(nodes), insight=Insight(tuple(opinions), tuple(trials)))


def _with_draw(index: int, at: int, node: TreeNode) -> TreeNode:
    if node.parent < 0 or node.outcome is Outcome.NOT_REACHED:
        return node
    draw = (index * 7 + at * 3) % 10 / 20
    accept_prob = draw + 0.3 if node.outcome is Outcome.ACCEPTED else draw * 0.9
    return replace(node, accept_prob=accept_prob, draw=draw)


def explained_answer(events: Iterable[Event] = ()) -> tuple[Event, ...]:
    """An answer, the standard one if none is given, whose steps say why."""
    answer = tuple(events) or make_answer()
    return tuple(with_insight(event) if isinstance(event, Step) else event for event in answer)


class MemoryRecord(Recorder):
    """Keeps the steps of every answer."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Step]] = {}

    def event(self, exchange: str, event: Event) -> None:
        """Keep a step."""
        if isinstance(event, Step):
            self.kept.setdefault(exchange, []).append(event)

    def steps(self, exchange: str) -> Iterable[Step]:
        """What was kept."""
        return self.kept.get(exchange, [])
