"""Figures in words, the same on every screen: tokens per pass, speed, the size of a tree."""

from collections.abc import Sequence

from sequoia_core.errors import counted
from sequoia_core.events import Totals, TreeChosen
from sequoia_core.tree.choice import ADAPTIVE, SHOWN

EVEN = 0.025  # a share faster or slower than plain decoding below which it is as fast


def per_pass(tokens: float) -> str:
    """The headline figure: tokens per pass of the target."""
    return f"{tokens:.2f} tokens per pass"


def speed_words(speedup: float, *, short: bool = False, other: str = "plain") -> str:
    """Wall clock against plain decoding: "1.4x faster than plain", "22% slower than plain"."""
    if abs(speedup - 1.0) < EVEN:
        return f"as fast as {other}"
    if speedup < 1.0:
        words = f"{1.0 - speedup:.0%} slower"
    elif speedup < 1.095:  # 1.1x from there on
        words = f"{speedup - 1.0:.0%} faster"
    else:
        words = f"{speedup:.1f}x faster" if speedup < 9.95 else f"{speedup:.0f}x faster"
    return words if short else f"{words} than {other}"


def figures(totals: Totals, speedup: float | None) -> list[str]:
    """What an answer came to, in the order of every screen: the headline, wall clock, speed."""
    words = [per_pass(totals.tokens_per_step)]
    if speedup is not None:
        words.append(speed_words(speedup))
    return [*words, f"{totals.tokens_per_second:.1f} tokens/s"]


def tree_size(tree: TreeChosen) -> str:
    """Nodes and depth, at most if it is adaptive; and whether it was chosen to be looked at."""
    most = "up to " if tree.growmap == ADAPTIVE else ""
    shown = shown_why(tree)
    return f"{most}{counted(tree.nodes, 'node')}, depth {tree.depth}{shown and ', '}{shown}"


def shown_why(tree: TreeChosen, *, brief: bool = False) -> str:
    """What is said of a tree that was chosen to be looked at; "" of others."""
    why = next((each for each in SHOWN if tree.reason.startswith(each)), "")
    return why.removeprefix("shown ").removesuffix(" here") if brief else why


def accepted_words(lengths: Sequence[int], most: int | None = None) -> str:
    """How many guesses were accepted in how many passes: "0 in 9 passes, 1 in 14, 2 or more in 3".

    `lengths` are those of `Totals`; of more than `most` of them the last stands for all longer.
    """
    counts = list(lengths)
    if most is not None and len(counts) > most:
        counts[most - 1 :] = [sum(counts[most - 1 :])]
    words = [f"{number} in {count}" for number, count in enumerate(counts)]
    if words:
        words[0] += " pass" if counts[0] == 1 else " passes"
    if 1 < len(counts) < len(lengths):
        words[-1] = f"{len(counts) - 1} or more in {counts[-1]}"
    return ", ".join(words)


def request_figures(totals: Totals) -> dict[str, object]:
    """Of one request, by the names of vLLM's metrics."""
    return {
        "num_drafts": totals.num_drafts,
        "num_draft_tokens": totals.num_draft_tokens,
        "num_accepted_tokens": totals.num_accepted_tokens,
        "mean_acceptance_length": totals.mean_acceptance_length,
        "num_accepted_tokens_per_pos": list(totals.num_accepted_tokens_per_pos),
        "accepted_lengths": list(totals.accepted_lengths),
    }


def request_lines(totals: Totals) -> Sequence[str]:
    """The same for a person, a line each; none without a draft."""
    length = totals.mean_acceptance_length
    if length is None:
        return ()
    drafts = totals.num_drafts
    by_position = " ".join(f"{each / drafts:.2f}" for each in totals.num_accepted_tokens_per_pos)
    return (
        f"num_drafts {drafts}, num_draft_tokens {totals.num_draft_tokens}, "
        f"num_accepted_tokens {totals.num_accepted_tokens}",
        f"mean_acceptance_length {length:.2f}: 1 + accepted tokens / drafts, "
        "the target's own token included",
        f"accepted by position: {by_position or 'none'}",
        f"accepted guesses: {accepted_words(totals.accepted_lengths)}",
    )
