"""What a step's insight costs on the embedded pair: `python -m tests.core.insight_bench [SHAPE..]`.

Every answer is decoded twice with the same seed, once with insight and once without, in turns, so
both decode the same steps on the same machine. Prints medians over the steps.
"""

import json
import statistics
import sys

from sequoia_core import Conversation, SamplingParams, TreeChoice, load_pair
from sequoia_core.config import Lookup
from sequoia_core.events import Step
from sequoia_core.files import encode
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.tree.files import find_growmap
from sequoia_core.tree.growmap import GrowMap

PROMPTS = (
    "Why is the sky blue?",
    "Write a Python function that reverses a string.",
    "Explain how a bicycle stays upright.",
    "Name five animals that live in the sea, and what they eat.",
)
ROUNDS = 2
TOKENS = 32
NAMES = ("chain-1", "smollm2-135m/greedy-8x3", "smollm2-135m/greedy-16x4")


def shape(name: str) -> GrowMap:
    """A named growmap, or `chain-N`."""
    kind, _, depth = name.partition("-")
    return GrowMap.chain(int(depth)) if kind == "chain" else find_growmap(name)


def steps_of(chat: Conversation, prompt: str, params: SamplingParams, insight: bool) -> list[Step]:
    """The steps of one answer from an empty conversation, but for the first."""
    chat.clear()
    chat._engine.insight = insight
    return [event for event in chat.reply(prompt, params) if isinstance(event, Step)][1:]


def measure(chat: Conversation, name: str, temperature: float) -> str:
    """One line of figures."""
    chat.choose_tree(TreeChoice(growmap=shape(name), lookup=Lookup.OFF))
    wall: list[tuple[float, float]] = []
    sizes: list[tuple[float, float]] = []
    for turn in range(ROUNDS):
        for at, prompt in enumerate(PROMPTS):
            params = SamplingParams(temperature=temperature, seed=at, max_new_tokens=TOKENS)
            order = (True, False) if (turn + at) % 2 else (False, True)
            runs = {insight: steps_of(chat, prompt, params, insight) for insight in order}
            for told, untold in zip(runs[True], runs[False], strict=True):
                assert told.token_ids == untold.token_ids
                cost = told.timings.bookkeeping_ms - untold.timings.bookkeeping_ms
                wall.append((untold.timings.total_ms, cost))
                whole = len(json.dumps(encode(told)))
                sizes.append((whole / 1e3, (whole - len(json.dumps(encode(untold)))) / 1e3))
    told_sizes = [statistics.median(column) for column in zip(*sizes, strict=True)]
    return (
        f"{name:28} T={temperature:g} {len(wall)} steps: {_share(wall)}; "
        f"JSON {told_sizes[1]:.1f} of {told_sizes[0]:.1f} kB"
    )


def _share(pairs: list[tuple[float, float]]) -> str:
    """The medians of what a step takes and of what insight adds."""
    step, cost = (statistics.median(column) for column in zip(*pairs, strict=True))
    return f"{step:.2f} + {cost:.3f} ms = {cost / step:.2%}"


def main() -> None:
    """Measure each shape at two temperatures."""
    chat = Conversation(load_pair())
    chat._engine.clock = NoBaseline()
    for name in sys.argv[1:] or NAMES:
        for temperature in (0.0, 0.6):
            print(measure(chat, name, temperature), flush=True)


if __name__ == "__main__":
    main()
