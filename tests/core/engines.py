"""Engines around test models, and laws that every answer's events obey."""

import itertools
import re
from collections.abc import Sequence

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.events import (
    Event,
    Finished,
    Notice,
    PrefillDone,
    PrefillProgress,
    Step,
    TextDelta,
    TreeChosen,
)
from sequoia_core.model.interface import LanguageModel
from sequoia_core.speculate.adaptive_policy import LookupPath
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.prompt_lookup import LONGEST, PromptLookup
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.text.detokenizer import TextCodec
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.models import PlainCodec, TableModel

LETTERS = {
    TreeChosen: "C",
    PrefillProgress: "p",
    PrefillDone: "D",
    Notice: "N",
    TextDelta: "t",
    Step: "S",
    Finished: "F",
}
COMPLETE = re.compile(r"N*CN*p*D([NC]*t?S)*N*t?F")
"""Text that was held back at a cancel has no step of its own: hence the last `t?`."""
CANCELLED_IN_THE_PROMPT = re.compile(r"Cp*F")


class Every(NoBaseline):
    """Takes every n-th step plainly."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def due(self, index: int, params: SamplingParams) -> bool:
        return index % self._steps == 0


def make_engine(
    target: LanguageModel,
    draft: LanguageModel | DraftModel | None,
    growmap: GrowMap | None = None,
    mode: Mode = Mode.SEQUOIA,
    eos: Sequence[int] = (),
    codec: TextCodec | None = None,
) -> Engine:
    """An engine whose steps all have their tree; see `Every` for one that takes plain ones too."""
    advisor = BundledAdvisor({})
    advisor.shapes = {"greedy": GrowMap.k_ary([3, 1]), "stochastic": GrowMap.k_ary([2, 2])}
    made = Engine(
        target,
        draft if isinstance(draft, DraftModel) or draft is None else DraftModel(draft),
        codec=codec or PlainCodec(),
        eos_token_ids=frozenset(eos),
        advisor=advisor,
    )
    made.tree_choice, made.clock = TreeChoice(mode, growmap), NoBaseline()
    return made


def any_path(
    _: PromptLookup, token_ids: Sequence[int], use: Lookup, room: int, _rows: int = 1
) -> LookupPath:
    """Instead of `PromptLookup.propose`, a path of any length at every step."""
    length = min(len(token_ids) * 7 % LONGEST + 1, room) if use is Lookup.ON else 0
    path = [(7 * token + length) % 61 for token in token_ids[-length:]][:length]
    return LookupPath(tuple(path), tuple(0.1 * 0.9**at for at in range(len(path))))


def tree_of(parents: Sequence[int]) -> GrowMap:
    """Any list of numbers as a tree shape: each node below an earlier one."""
    return GrowMap((-1, *(parent % (at + 1) for at, parent in enumerate(parents))))


def steps_of(events: Sequence[Event]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [token for step in steps_of(events) for token in step.token_ids]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def finish_of(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


def check_laws(events: Sequence[Event]) -> None:
    """Order, numbering and sums, as `sequoia_core.events` promises them."""
    order = "".join(LETTERS[type(event)] for event in events)
    assert COMPLETE.fullmatch(order) or CANCELLED_IN_THE_PROMPT.fullmatch(order), order
    steps, totals = steps_of(events), finish_of(events).totals
    assert [step.index for step in steps] == list(range(1, len(steps) + 1))
    assert totals.steps == len(steps)
    assert totals.tokens == len(tokens_of(events))
    for before, after in itertools.pairwise(events):
        if isinstance(before, TextDelta):
            assert before.text == "".join(piece.text for piece in before.pieces)
            assert before.text
            step = after.index if isinstance(after, Step) else len(steps)
            assert before.step == step


def check_caches(engine: Engine, target: TableModel, draft: TableModel | None) -> None:
    """Both caches hold a prefix of the engine's tokens, each at its own position."""
    held = list(zip(engine.token_ids, range(len(engine.token_ids)), strict=True))
    for model in (target, draft):
        if model is not None:
            rows = model.caches[0].rows
            assert rows == held[: len(rows)]
