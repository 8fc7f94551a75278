"""Stand-ins for the seams: a deterministic answer with its trees, and an engine that replays it.

No torch, no clock, no randomness: the same answer each time, so screens can be compared.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator

from msgspec.structs import replace

from sequoia_core.chat.race import Lane, Race, Raced, RaceEvent, RaceSide, RaceTerms
from sequoia_core.config import SamplingParams
from sequoia_core.errors import ParameterError
from sequoia_core.events import (
    Event,
    Finished,
    FinishReason,
    Origin,
    Outcome,
    PairDescription,
    Piece,
    PrefillDone,
    Progress,
    Step,
    StepTimings,
    TextDelta,
    Totals,
    TreeChosen,
    TreeNode,
)
from tests.replay_engine import ReplayEngine, Trace

PAIR = PairDescription(
    target="SmolLM2-135M-Instruct",
    draft="bundled draft",
    device="cpu",
    dtype="bfloat16",
    context_window=8192,
)
PARENTS_16 = (-1, 0, 0, 0, 1, 1, 1, 2, 2, 4, 4, 5, 7, 9, 9, 10)
"""Sixteen nodes, four levels deep, in breadth-first order."""

TREE_16 = TreeChosen(
    mode="sequoia",
    growmap="smollm2-135m/16x4",
    nodes=16,
    depth=4,
    expected_tokens=2.9,
    expected_by_depth=(0.74, 0.5, 0.31, 0.17),
    expected_by_rank=(0.58, 0.13, 0.06),
    predicted_speedup=1.7,
    reason="searched for this machine",
)

ANSWER = """\
The sky is blue because of **Rayleigh scattering**.

Sunlight holds every colour. Air molecules scatter *short* wavelengths far more than long ones, \
by the fourth power of the frequency:

1. Blue light has a short wavelength, so it is scattered all over the sky.
2. Red light has a long one and passes almost straight through.

```python
def scattering(wavelength_nm: float) -> float:
    return (550 / wavelength_nm) ** 4

print(scattering(450))  # 2.23: blue
```

At sunset the light crosses more air, the blue is gone, and the rest looks red.
"""
_OTHERS = (" a", " the", " light", ",", " of", " it", " and", " is", "\n", " blue", ".", " air")


def words(text: str) -> list[str]:
    """Token-like pieces that join to the text: a word with the blank before it, or one mark."""
    pieces: list[str] = []
    for character in text:
        glued = character.isalnum() and pieces and (pieces[-1] == " " or pieces[-1][-1:].isalnum())
        if glued:
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def make_step(
    index: int,
    root: str,
    emitted: list[tuple[str, int]],
    parents: tuple[int, ...] = PARENTS_16,
    plain_ms: float = 21.0,
) -> Step:
    """A step whose accepted path and bonus are given.

    Args:
        index: of the step.
        root: text of the root.
        emitted: text and child rank of each emitted token; the last is the bonus.
        parents: the tree's shape, breadth-first.
        plain_ms: as in `Step`; 0 for not measured.
    """
    ranks = [0 if p < 0 else 1 + sum(q == p for q in parents[:i]) for i, p in enumerate(parents)]
    path = [0]
    for _, rank in emitted[:-1]:
        path.append(next(i for i, p in enumerate(parents) if p == path[-1] and ranks[i] == rank))
    nodes: list[TreeNode] = []
    for i, parent in enumerate(parents):
        depth = 0 if parent < 0 else nodes[parent].depth + 1
        wave = 0.5 + 0.5 * math.sin(index * 1.7 + i * 0.9)
        draft_prob = 0.62 / max(ranks[i], 1) * (0.5 + wave / 2)
        if i in path:
            text = root if i == 0 else emitted[path.index(i) - 1][0]
            outcome, target_prob = Outcome.ACCEPTED, min(0.97, draft_prob + 0.25)
        else:
            text = _OTHERS[(index * 5 + i * 3) % len(_OTHERS)]
            tried = parent in path and _tried(parents, ranks, path, i)
            outcome = Outcome.REJECTED if tried else Outcome.NOT_REACHED
            target_prob = draft_prob * 0.4
        nodes.append(
            TreeNode(
                token_id=i,
                text=text,
                parent=parent,
                depth=depth,
                rank=ranks[i],
                draft_prob=None if i == 0 else draft_prob,
                target_prob=None if i == 0 else target_prob,
                outcome=outcome,
            )
        )
    shift = math.sin(index * 2.3)
    return Step(
        index=index,
        nodes=tuple(nodes),
        path=tuple(path),
        bonus_token_id=7,
        bonus_text=emitted[-1][0],
        bonus_prob=0.37,
        token_ids=tuple(range(len(emitted))),
        context_length=40 + 3 * index,
        timings=StepTimings(5.2 + shift / 4, 26.1 + shift, 1.3),
        plain_ms=plain_ms,
        plain_source="median of 20 one-row forwards at this context",
    )


def _tried(parents: tuple[int, ...], ranks: list[int], path: list[int], node: int) -> bool:
    """Whether the walk tried the node before it went on from the node's parent."""
    chosen = [i for i in path if i and parents[i] == parents[node]]
    return not chosen or ranks[node] < ranks[chosen[0]]


def make_answer(
    text: str = ANSWER,
    tree: TreeChosen = TREE_16,
    parents: tuple[int, ...] = PARENTS_16,
    reason: FinishReason = FinishReason.STOP,
) -> tuple[Event, ...]:
    """A whole answer: the text cut into tokens and decoded by trees of the given shape."""
    return tuple(answer_events(text, tree, parents, reason))


def answer_events(
    text: str = ANSWER,
    tree: TreeChosen = TREE_16,
    parents: tuple[int, ...] = PARENTS_16,
    reason: FinishReason = FinishReason.STOP,
) -> Iterator[Event]:
    """The events of `make_answer`, each made when it is asked for."""
    tokens = words(text)
    yield tree
    yield PrefillDone(prompt_tokens=38, cached_tokens=0, seconds=0.12)
    totals, root, index = Totals(), "<|im_start|>", 0
    while tokens:
        index += 1
        ranks = _path_ranks(parents, wanted=(2, 4, 1, 3, 0, 2, 3, 1)[index % 8], turn=index)
        taken, tokens = tokens[: len(ranks) + 1], tokens[len(ranks) + 1 :]
        emitted = list(zip(taken, [*ranks[: len(taken) - 1], 0], strict=True))
        step = make_step(index, root, emitted, parents)
        root, totals = taken[-1], totals.plus(step)
        pieces = tuple(Piece(piece, rank) for piece, rank in emitted)
        yield TextDelta(index, "".join(taken), pieces)
        yield step
    yield Finished(reason, totals)


def with_lookups(events: Iterable[Event]) -> tuple[Event, ...]:
    """The answer with the second node of each tree looked up in place of drafted."""
    return tuple(
        replace(event, nodes=tuple(
            replace(node, origin=Origin.LOOKUP, draft_prob=None) if at == 2 else node
            for at, node in enumerate(event.nodes)
        )) if isinstance(event, Step) else event
        for event in events
    )  # fmt: skip


def with_baseline(events: Iterable[Event], at: int) -> tuple[Event, ...]:
    """The answer with its step number `at` decoded plainly, to measure what a plain step takes.

    Its text stays; the step says that it emitted the first of its tokens alone.
    """
    changed: list[Event] = []
    totals = Totals()
    for event in events:
        if isinstance(event, Step):
            if event.index == at:
                event = replace(
                    event,
                    nodes=event.nodes[:1],
                    path=(0,),
                    token_ids=event.token_ids[:1],
                    timings=StepTimings(0.0, event.plain_ms - 1.0, 1.0),
                    baseline=True,
                )
            totals = totals.plus(event)
        changed.append(replace(event, totals=totals) if isinstance(event, Finished) else event)
    return tuple(changed)


def _path_ranks(parents: tuple[int, ...], wanted: int, turn: int) -> list[int]:
    """Child ranks of a path at most `wanted` deep, now and then through a second child."""
    ranks: list[int] = []
    node = 0
    while len(ranks) < wanted:
        children = [i for i, parent in enumerate(parents) if parent == node]
        if not children:
            break
        rank = 2 if (turn + len(ranks)) % 5 == 0 and len(children) > 1 else 1
        ranks.append(rank)
        node = children[rank - 1]
    return ranks


def replay(
    *answers: Iterable[Event], before: Callable[[Event], None] | None = None
) -> ReplayEngine:
    """An engine that gives these answers, or the standard one."""
    events = [event for answer in answers or (make_answer(),) for event in answer]
    return ReplayEngine(Trace(PAIR, tuple(events)), before)


class RacingEngine(ReplayEngine):
    """Races the standard answer: plainly a token a step, or as it was recorded.

    A side that names a tree is said to decode with it.

    Args:
        plain: tokens of the first lane; by default those of the answer.
        exact: as in `RaceTerms`.
        before: called before each event of a lane.
    """

    def __init__(
        self,
        plain: str = ANSWER,
        *,
        exact: bool = True,
        before: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__(Trace(PAIR, make_answer()))
        self._plain, self._exact, self._before_race = plain, exact, before
        self.asked: list[Race] = []

    def race(
        self, race: Race, should_stop: Callable[[], bool], progress: Progress
    ) -> Iterator[RaceEvent]:
        self.asked.append(race)
        if not race.prompt.strip():
            raise ParameterError("the prompt is blank; type a message first")
        yield RaceTerms(race.params.temperature, 2, self._exact)
        lanes = {
            lane: self._replay(_numbered(_side_answer(side, text)), should_stop)
            for lane, side, text in zip(Lane, race.sides, (self._plain, ANSWER), strict=True)
        }
        clocks = dict.fromkeys(lanes, 0.0)
        while lanes:
            lane = min(lanes, key=lambda each: clocks[each])
            for event in lanes[lane]:
                if self._before_race is not None:
                    self._before_race(event)
                if isinstance(event, Step):
                    clocks[lane] += event.timings.total_ms / 1e3
                yield Raced(lane, event, clocks[lane])
                if isinstance(event, Step):
                    break
            else:
                del lanes[lane]


def _side_answer(side: RaceSide, text: str) -> tuple[Event, ...]:
    if side.plain:
        return plain_answer(text)
    tree, shape = TREE_16, side.choice.growmap if side.choice else None
    if side.choice is not None:
        tree = replace(tree, mode=side.choice.mode.value)
    if shape is None:
        return make_answer(text, tree)
    tree = replace(tree, growmap=shape.name, nodes=shape.size, depth=shape.depth)
    return make_answer(text, tree, parents=shape.parents)


def plain_answer(text: str) -> tuple[Event, ...]:
    """An answer decoded a token a step."""
    tree = TreeChosen("ar", "", 1, 0, reason="plain decoding, chosen by you")
    events = list(make_answer(text, tree, parents=(-1,)))
    return tuple(
        replace(event, timings=StepTimings(0.0, 20.0, 1.0)) if isinstance(event, Step) else event
        for event in events
    )


def _numbered(answer: Iterable[Event]) -> tuple[Event, ...]:
    """Every word of an answer gets an id that only its text decides."""
    events: list[Event] = []
    ids: tuple[int, ...] = ()
    for event in answer:
        if isinstance(event, TextDelta):
            ids = tuple(zlib.crc32(piece.text.encode()) for piece in event.pieces)
        events.append(replace(event, token_ids=ids) if isinstance(event, Step) else event)
    return tuple(events)


class BrokenEngine(ReplayEngine):
    """Answers two steps and then raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__(Trace(PAIR, make_answer()))
        self._error = error

    def reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        steps = 0
        for event in super().reply(prompt, params, should_stop):
            yield event
            steps += isinstance(event, Step)
            if steps == 2:
                raise self._error


def unmeasured(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same events as if the plain time had not been measured."""
    return tuple(replace(e, plain_ms=0.0) if isinstance(e, Step) else e for e in events)
