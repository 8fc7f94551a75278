"""What a finished answer came to, pass by pass: who wrote it, and its best step."""

from collections.abc import Sequence

from sequoia_core.events import Step, Totals
from sequoia_core.files import Record

from .answer import Answer


class Summary(Record, frozen=True):
    """Of an answer that is finished, and whose steps are known."""

    totals: Totals
    speedup: float | None
    tokens: tuple[int, ...]  # of each pass, in order; plain measuring steps are left out
    drafted: int  # emitted tokens that were guessed; the others are the target's own
    best: int  # index in the answer's steps of the one that gave the most tokens, the first of such
    best_step: int  # its number, which is one more unless the steps are not all known
    best_tokens: int  # how many it gave
    best_text: str  # what it wrote


def summary_of(answer: Answer | None) -> Summary | None:
    """None while the answer grows, without its steps, and where nothing was drafted."""
    at = best_of(answer)
    if answer is None or at is None:
        return None
    last, steps = answer.statistics[-1], answer.steps
    best = steps[at]
    return Summary(
        totals=last.totals,
        speedup=last.speedup,
        tokens=tuple(len(step.token_ids) for step in steps if not step.baseline),
        drafted=sum(map(_drafted, steps)),
        best=at,
        best_step=best.index,
        best_tokens=len(best.token_ids),
        best_text="".join(span.text for span in answer.spans if span.step == best.index),
    )


def best_of(answer: Answer | None) -> int | None:
    """Index of an answer's best step; None where there is no summary."""
    if answer is None or not answer.done or not answer.steps:
        return None
    if not answer.statistics[-1].totals.num_drafts:
        return None
    return _best(answer.steps)


def best_step(steps: Sequence[Step]) -> Step:
    """The first of those that gave the most tokens; a plain one only if all are."""
    return steps[_best(steps)]


def _best(steps: Sequence[Step]) -> int:
    return max(range(len(steps)), key=lambda at: (len(steps[at].token_ids), not steps[at].baseline))


def _drafted(step: Step) -> int:
    """Of the tokens that a step gave; its last one is the target's own unless it was cut."""
    return min(step.accepted, len(step.token_ids))
