"""The speed-up a chat shows and a real one: `python -m tests.core.speedup_bench [OPTION ...]`.

The same prompts are decoded with the tree and plainly, in turns, so that what slows the machine
down slows both. Prints for each prompt what the answer with the tree says its speed-up is and what
it was by the clock, and the medians of both, which a short disturbance does not change. Run it once
alone and once with `--busy 1`, which keeps one more process busy.
"""

import argparse
from statistics import fmean, median

from sequoia_core import Conversation, SamplingParams, TreeChoice, load_pair
from sequoia_core.bench.session import busy_cores
from sequoia_core.config import Lookup, Mode, WeightFormat
from sequoia_core.events import Finished, Step, Totals
from sequoia_core.tree.files import find_growmap

PROMPTS = (
    "Why is the sky blue?",
    "Write a Python function that reverses a string.",
    "Explain how a bicycle stays upright.",
    "Name five animals that live in the sea, and what they eat.",
)


def answer(
    chat: Conversation, prompt: str, choice: TreeChoice, params: SamplingParams
) -> tuple[Totals, float]:
    """An answer's sums, and milliseconds of its plain steps."""
    chat.clear()
    chat.choose_tree(choice)
    events = list(chat.reply(prompt, params))
    plain_ms = sum(
        event.timings.total_ms for event in events if isinstance(event, Step) and event.baseline
    )
    return next(event.totals for event in events if isinstance(event, Finished)), plain_ms


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=0, help="processes that keep a core busy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--growmap", default="adaptive", help="adaptive with look-up, or a name")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--weights", type=WeightFormat, default=WeightFormat.AUTO)
    return parser.parse_args()


def main() -> None:
    """Measure; prints a line a prompt and one for all of them."""
    asked = options()
    chat = Conversation(load_pair(weights=asked.weights))
    tree = TreeChoice(lookup=Lookup.AUTO, adaptive=True)
    if asked.growmap != "adaptive":
        tree = TreeChoice(growmap=find_growmap(asked.growmap), lookup=Lookup.OFF)
    plain = TreeChoice(Mode.AR)
    params = SamplingParams(asked.temperature, max_new_tokens=asked.tokens)
    real, shown, lost, plain_steps = [], [], [], 0
    with busy_cores(asked.busy):
        for choice in (tree, plain):
            answer(chat, PROMPTS[0], choice, params)
        for turn in range(asked.rounds * len(PROMPTS)):
            prompt = PROMPTS[turn % len(PROMPTS)]
            order = (tree, plain) if turn % 2 else (plain, tree)
            found = {choice: answer(chat, prompt, choice, params) for choice in order}
            (sums, plain_ms), (plainly, _) = found[tree], found[plain]
            real.append(sums.tokens_per_second / plainly.tokens_per_second)
            shown.append(sums.speedup)
            others = (sums.tokens - sums.baseline_steps) / (sums.seconds - plain_ms / 1e3)
            lost.append(1.0 - sums.tokens_per_second / others)
            plain_steps += sums.baseline_steps
            print(
                f"{plainly.tokens_per_second:.1f} and {sums.tokens_per_second:.1f} tokens/s: "
                f"really {real[-1]:.2f}x, shown {shown[-1]:.2f}x; "
                f"{sums.baseline_steps} of {sums.steps} steps plain",
                flush=True,
            )
    print(
        f"medians: really {median(real):.3f}x, shown {median(shown):.3f}x, "
        f"{median(shown) / median(real) - 1:+.1%}; {plain_steps} plain steps, "
        f"which cost {fmean(lost):.1%}"
    )


if __name__ == "__main__":
    main()
