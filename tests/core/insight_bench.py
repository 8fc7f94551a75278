"""What a step's insight costs on the embedded pair: `python -m tests.core.insight_bench [SHAPE..]`.

Every answer is decoded twice with the same seed, once with insight and once without, in turns, so
both decode the same steps on the same machine. Prints medians over the steps, and what the quietest
tenth of them took: on a machine that does other things too the medians are of those as well.
"""

import json
import statistics
import sys

from sequoia_core import Conversation, SamplingParams, TreeChoice, load_pair
from sequoia_core.encoding import encode
from sequoia_core.events import Event, Step
from sequoia_core.growmap import GrowMap, find_growmap
from sequoia_core.protocols import Lookup

PROMPTS = (
    "Why is the sky blue?",
    "Write a Python function that reverses a string.",
    "Explain how a bicycle stays upright.",
    "Name five animals that live in the sea, and what they eat.",
)
ROUNDS = 2
NAMES = ("chain-1", "smollm2-135m/greedy-8x3", "smollm2-135m/greedy-16x4")


def shape(name: str) -> GrowMap:
    """A named growmap, or `chain-N`."""
    kind, _, depth = name.partition("-")
    return GrowMap.chain(int(depth)) if kind == "chain" else find_growmap(name)


def steps_of(chat: Conversation, prompt: str, params: SamplingParams, insight: bool) -> list[Step]:
    """The steps of one answer from an empty conversation."""
    chat.clear()
    chat._engine.insight = insight
    events: list[Event] = list(chat.reply(prompt, params))
    return [event for event in events if isinstance(event, Step)]


def measure(chat: Conversation, name: str, temperature: float) -> str:
    """One line of figures."""
    chat.choose_tree(TreeChoice(growmap=shape(name), lookup=Lookup.OFF))
    times: list[float] = []
    differences: list[float] = []
    bookkeeping: dict[bool, list[float]] = {True: [], False: []}
    sizes: list[tuple[int, int]] = []
    for turn in range(ROUNDS):
        for at, prompt in enumerate(PROMPTS):
            params = SamplingParams(temperature=temperature, seed=at, max_new_tokens=64)
            order = (True, False) if (turn + at) % 2 else (False, True)
            runs = {insight: steps_of(chat, prompt, params, insight) for insight in order}
            assert [s.token_ids for s in runs[True]] == [s.token_ids for s in runs[False]]
            for told, untold in zip(runs[True][1:], runs[False][1:], strict=True):
                times.append(untold.timings.total_ms)
                differences.append(told.timings.bookkeeping_ms - untold.timings.bookkeeping_ms)
                bookkeeping[True].append(told.timings.bookkeeping_ms)
                bookkeeping[False].append(untold.timings.bookkeeping_ms)
                if turn == 0:
                    whole = len(json.dumps(encode(told)))
                    sizes.append((whole, whole - len(json.dumps(encode(untold)))))
    step, cost = statistics.median(times), statistics.median(differences)
    quiet = {insight: _tenth(values) for insight, values in bookkeeping.items()}
    quiet_step, quiet_cost = _tenth(times), quiet[True] - quiet[False]
    size = [statistics.median(column) for column in zip(*sizes, strict=True)]
    return (
        f"{name:28} T={temperature:g} {len(times)} steps: {step:.2f} ms, insight {cost:.3f} ms "
        f"= {cost / step:.2%}; quietest tenth {quiet_step:.2f} ms, insight {quiet_cost:.3f} ms = "
        f"{quiet_cost / quiet_step:.2%}; JSON {size[1] / 1e3:.1f} of {size[0] / 1e3:.1f} kB"
    )


def _tenth(values: list[float]) -> float:
    return statistics.quantiles(values, n=10)[0]


def main() -> None:
    """Measure each shape at two temperatures."""
    chat = Conversation(load_pair())
    for name in sys.argv[1:] or NAMES:
        for temperature in (0.0, 0.6):
            print(measure(chat, name, temperature), flush=True)


if __name__ == "__main__":
    main()
