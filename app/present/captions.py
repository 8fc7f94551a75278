"""Captions for a recording, made of its measured steps by fixed rules."""

from collections.abc import Mapping, Sequence

from sequoia_core.errors import counted
from sequoia_core.events import Outcome, Step, Totals
from sequoia_core.recording.trace_file import Caption

from ..state.figures import per_pass, speed_words
from ..state.sanitize import quote_token
from ..state.summary import best_step

_LOOK_SECONDS, _CHARACTERS_PER_SECOND = 2.0, 20.0


def caption(text: str, node: int | None = None) -> Caption:
    """A caption that stands for as long as it takes to read it and to look at what it is about."""
    seconds = _LOOK_SECONDS + len(text) / _CHARACTERS_PER_SECOND
    return Caption(text, round(seconds, 1), node)


def captions(steps: Sequence[Step], own: Mapping[int, str]) -> dict[int, list[Caption]]:
    """Captions by index of the step after which they stand; a person's `own` replace those made."""
    made: dict[int, list[Caption]] = {}
    speculative = [step for step in steps if len(step.nodes) > 1]
    if speculative:
        first, best = speculative[0], best_step(speculative)
        made.setdefault(first.index, []).append(caption(drafted_text(first)))
        for step in speculative:
            if (node := first_rejected(step)) is not None:
                made.setdefault(step.index, []).append(caption(rejection_text(step, node), node))
                break
        if best.accepted:
            made.setdefault(best.index, []).append(caption(best_text(best)))
    return made | {index: [caption(text)] for index, text in own.items()}


def summary(steps: Sequence[Step]) -> Caption:
    """The figures of a whole answer."""
    totals = totals_of(steps)
    words = summary_text(totals)
    measured = all(step.plain_ms > 0 for step in steps)
    return caption(f"{words}, {speed_words(totals.speedup)}." if measured else f"{words}.")


def totals_of(steps: Sequence[Step]) -> Totals:
    totals = Totals()
    for step in steps:
        totals = totals.plus(step)
    return totals


def first_rejected(step: Step) -> int | None:
    outcomes = (node.outcome for node in step.nodes)
    return next((at for at, each in enumerate(outcomes) if each is Outcome.REJECTED), None)


def drafted_text(step: Step) -> str:
    return (
        f"The draft guesses {counted(len(step.nodes) - 1, 'token')}, as a tree. "
        "The target checks all of them in one pass."
    )


def best_text(step: Step) -> str:
    return (
        f"The best step: {counted(step.accepted, 'guess', 'guesses')} accepted. With the target's "
        f"own, that is {counted(len(step.token_ids), 'token')} for one pass."
    )


def rejection_text(step: Step, node: int) -> str:
    """Why a node was rejected, as far as the step says."""
    it = step.nodes[node]
    token = quote_token(it.text)
    if it.draw is not None and it.accept_prob is not None:
        return (
            f"{token} is rejected: its chance was {it.accept_prob:.2f}, and the random number "
            f"{it.draw:.2f} is not below that."
        )
    taken = [at for at in step.path if step.nodes[at].parent == it.parent]
    instead = step.nodes[taken[0]].text if taken else step.bonus_text
    return f"{token} is rejected: the target takes {quote_token(instead)} in this place."


def summary_text(totals: Totals) -> str:
    passes = counted(totals.steps - totals.baseline_steps, "pass", "passes")
    return f"{totals.tokens} tokens; {per_pass(totals.tokens_per_step)} over {passes}"
