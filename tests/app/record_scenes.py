"""Records the scenes of `sequoia demo` with the embedded pair.

`python -m tests.app.record_scenes [NAME ...]` records these, or all, into `app/scenes`. Every
figure in a caption is computed from the steps that were recorded.
"""

import gzip
import io
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from app.present.captions import (
    caption,
    rejection_text,
    totals_of,
)
from app.state.figures import speed_words
from app.state.sanitize import quote_token
from app.state.summary import best_step
from sequoia_core import Conversation, GrowMap, SamplingParams, TreeChoice, load_pair
from sequoia_core.config import Mode
from sequoia_core.events import Event, Outcome, Step
from sequoia_core.model.cpu import processor_name
from sequoia_core.recording.trace_file import (
    Asked,
    Caption,
    Entry,
    SceneInfo,
    write_event,
    write_header,
)
from sequoia_core.tree.files import find_growmap
from sequoia_core.tree.search import expected_tokens_table

FOLDER = Path(__file__).parents[2] / "app" / "scenes"
START, END = 0, -1
"""Places of captions other than a step's index."""
CODE = "Write a Python function that reverses a string, and explain it."
STORY = "Tell me a short story about a lighthouse keeper."


@dataclass
class Take:
    """An answer and its captions, by the index of the step after which they stand."""

    prompt: str
    params: SamplingParams
    events: list[Event]
    started: float
    captions: dict[int, list[Caption]] = field(default_factory=dict)

    @property
    def steps(self) -> list[Step]:
        """Those with a tree."""
        return [each for each in self.all_steps if not each.baseline]

    @property
    def all_steps(self) -> list[Step]:
        return [each for each in self.events if isinstance(each, Step)]

    @property
    def text(self) -> str:
        return "".join(getattr(each, "text", "") for each in self.events)

    @property
    def tokens_per_pass(self) -> float:
        return totals_of(self.all_steps).tokens_per_step

    @property
    def wall_clock(self) -> str:
        return speed_words(totals_of(self.all_steps).speedup)

    def say(self, at: int, text: str, node: int | None = None) -> None:
        self.captions.setdefault(at, []).append(caption(text, node))

    def entries(self, number: int) -> Iterator[Entry]:
        """As in a trace; explanations stay only at steps that captions are about."""
        temperature = self.params.temperature
        parent = str(number - 1) if number else None  # below the answer before it
        yield Asked(self.prompt, str(number), parent, self.started, temperature)
        yield from self.captions.get(START, ())
        for event in self.events:
            about = self.captions.get(event.index, ()) if isinstance(event, Step) else ()
            if isinstance(event, Step) and not about:
                event = replace(event, insight=None)
            yield event
            yield from about
        yield from self.captions.get(END, ())


class Studio:
    """The embedded pair, and answers by it."""

    def __init__(self) -> None:
        self.chat = Conversation(load_pair(), insight=True)
        self.answer("Hello!", find_growmap("smollm2-135m/greedy-8x3"), tokens=32)
        # warms up what the first answer of a process pays for

    def answer(
        self, prompt: str, tree: GrowMap | None, *, tokens: int, temperature: float = 0.0,
        seed: int | None = None,
    ) -> Take:  # fmt: skip
        """An answer with a tree, or plainly."""
        self.chat.clear()
        mode = Mode.SEQUOIA if tree is not None else Mode.AR
        self.chat.choose_tree(TreeChoice(mode, growmap=tree))
        params = SamplingParams(temperature=temperature, max_new_tokens=tokens, seed=seed)
        started = time.time()
        return Take(prompt, params, list(self.chat.reply(prompt, params)), started)


def tree_of(nodes: int, depth: int, kind: str = "greedy") -> GrowMap:
    """The best tree of a size for the embedded pair's acceptance rates."""
    rates = find_growmap(f"smollm2-135m/{kind}-32x5").acceptance_rates
    name = f"smollm2-135m/{kind}-{nodes}x{depth}"
    return expected_tokens_table(rates, nodes, depth, len(rates)).tree(nodes, depth, name=name)


# The scenes


def what_a_tree_is(studio: Studio) -> list[Take]:
    prompt = "List five fruits."
    take = studio.answer(prompt, tree_of(8, 3), tokens=60)
    plain = studio.answer(prompt, None, tokens=60)
    assert take.text == plain.text, "the tree changed the text"
    take.say(
        START, "A language model, the target, writes one token per pass, and each pass is slow."
    )
    kinds = set(Outcome)
    shown = next(s for s in take.steps if kinds == {n.outcome for n in s.nodes} and s.accepted > 1)
    guesses = len(shown.nodes) - 1
    take.say(shown.index, "So a small model, the draft, guesses first. Its guesses form a tree.")
    take.say(
        shown.index, f"The target checks all {guesses} guesses in one pass: ✔ accepted, ✘ rejected."
    )
    take.say(
        shown.index,
        "Where a guess was wrong, what follows it was not reached, and is left out.",
    )
    take.say(
        shown.index,
        f"The last token is the target's own, so {shown.accepted} accepted guesses make "
        f"{len(shown.token_ids)} tokens in one pass.",
    )
    take.say(
        END,
        f"{take.tokens_per_pass:.1f} tokens per pass over the whole answer, and the same text "
        "as without a tree.",
    )
    return [take]


def a_rejection(studio: Studio) -> list[Take]:
    for seed in range(1, 200):
        prompt = "Why do cats purr?"
        take = studio.answer(
            prompt, tree_of(8, 3, "stochastic"), tokens=90, temperature=0.8, seed=seed
        )
        found = next(filter(None, map(_second_guess, take.steps[2:12])), None)
        if found is not None:
            break
    else:
        raise AssertionError("no guess was rejected and the next one accepted")
    step, first, second = found
    node, then = step.nodes[first], step.nodes[second]
    token, other = quote_token(node.text), quote_token(then.text)
    take.say(START, "Above temperature 0 the target draws each token by its probabilities.")
    take.say(START, "A guess may only stay if the text remains as random as the target's own.")
    take.say(
        step.index,
        f"The draft gave {token} {node.draft_prob:.2f}; the target gives it "
        f"{node.target_prob:.2f}.",
        first,
    )
    take.say(step.index, rejection_text(step, first), first)
    take.say(
        step.index,
        "What that leaves of the target's probabilities is the residual, at the right: the next "
        "guess faces it.",
        first,
    )
    take.say(
        step.index,
        f"{other}, the {then.rank}nd guess, passes the test against the residual.",
        second,
    )
    take.say(
        END,
        "So a tree saves passes and changes no probability. "
        f"Here it gave {take.tokens_per_pass:.1f} tokens per pass.",
    )
    return [take]


def _second_guess(step: Step) -> tuple[Step, int, int] | None:
    """A first child that was rejected by a draw, and the second that was accepted."""
    for at, node in enumerate(step.nodes):
        if node.rank == 2 and node.outcome is Outcome.ACCEPTED and node.draw is not None:
            first = step.children[node.parent][0]
            words = (step.nodes[first].text.strip(), node.text.strip())
            known = step.insight and (trial := step.insight.trial(first)) and trial.residual
            p, q = step.nodes[first].target_prob or 0.0, step.nodes[first].draft_prob or 0.0
            plain = all(each.isalpha() for each in words) and q > 0.2 and 0.02 < p < 0.7 * q
            if known and plain and (node.target_prob or 0.0) > 0.1:
                return step, first, at
    return None


def code_and_prose(studio: Studio) -> list[Take]:
    tree = tree_of(8, 3)
    code = studio.answer(CODE, tree, tokens=100)
    story = studio.answer(STORY, tree, tokens=100)
    code.say(
        START, "Code follows rules: often only one token can come next, and the draft knows it."
    )
    best = best_step(code.steps[3:])
    code.say(
        best.index, f"Here {best.accepted} guesses in a row are accepted, as deep as the tree goes."
    )
    code.say(END, f"The code: {code.tokens_per_pass:.1f} tokens per pass of the target.")
    story.say(START, "A story can go on in many ways. The same models, the same tree.")
    low = next(step for step in story.steps[4:] if not step.accepted)
    story.say(
        low.index,
        f"None of {len(low.nodes) - 1} guesses is the target's choice: one token for the pass, "
        "as without a tree.",
    )
    story.say(
        END,
        f"The story: {story.tokens_per_pass:.1f} tokens per pass. "
        f"The code had {code.tokens_per_pass:.1f}.",
    )
    return [code, story]


def larger_trees(studio: Studio) -> list[Take]:
    takes: list[Take] = []
    for nodes, depth in ((24, 6), (64, 6)):
        tree = tree_of(nodes, depth)
        take = studio.answer(CODE, tree, tokens=150)
        if not takes:
            take.say(START, f"More guesses per pass: a tree of {nodes} nodes, depth {depth}.")
        else:
            take.say(START, f"The same question with {nodes} nodes, depth {depth}.")
        best = best_step(take.steps[1:])
        take.say(
            best.index,
            f"{best.accepted} guesses in a row, and the target's own: {len(best.token_ids)} "
            "tokens for one pass.",
        )
        take.say(
            END,
            f"{nodes} nodes: {take.tokens_per_pass:.1f} tokens per pass, {take.wall_clock} here.",
        )
        takes.append(take)
    few, many = takes
    many.say(
        END,
        "More of a larger tree is accepted, but each pass reads more tokens. "
        "That takes this small machine longer.",
    )
    return [few, many]


def no_gain(studio: Studio) -> list[Take]:
    tree = tree_of(24, 6, "stochastic")
    take = studio.answer(STORY, tree, tokens=110, temperature=0.8, seed=4)
    totals = totals_of(take.all_steps)
    assert totals.speedup < 0.97, f"{totals.speedup:.2f}x: this tree pays here"
    take.say(START, "A story at temperature 0.8, with a tree of 24 nodes.")
    low = next(step for step in take.steps[3:] if len(step.token_ids) == 1)
    take.say(
        low.index,
        f"This pass took {low.timings.total_ms:.0f} ms and gave one token. A plain pass takes "
        f"{low.plain_ms:.0f} ms.",
    )
    take.say(
        END,
        f"{take.tokens_per_pass:.1f} tokens per pass, and still {take.wall_clock}: a pass "
        "cost more than it gave.",
    )
    take.say(END, "Left to itself, the chat measures this, and draws smaller trees or none.")
    return [take]


SCENES: dict[str, tuple[str, Callable[[Studio], list[Take]]]] = {
    "1-tree": ("What a tree is", what_a_tree_is),
    "2-rejection": ("A rejection and its residual", a_rejection),
    "3-code": ("Why code is easy and prose is not", code_and_prose),
    "4-larger": ("A tree of 24 nodes and one of 64", larger_trees),
    "5-no-gain": ("Where a tree does not pay", no_gain),
}


def write_scene(path: Path, title: str, takes: list[Take], studio: Studio) -> None:
    scene = SceneInfo(title, processor_name(), takes[0].started)
    text = io.StringIO()
    write_header(text, studio.chat.description, scene)
    for number, take in enumerate(takes):
        for entry in take.entries(number):
            write_event(text, entry)
    path.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def main() -> None:
    wanted = sys.argv[1:]
    studio = Studio()
    for name, (title, record) in SCENES.items():
        if wanted and name not in wanted:
            continue
        takes = record(studio)
        path = FOLDER / f"{name}.jsonl.gz"
        write_scene(path, title, takes, studio)
        print(f"\n{name}: {title}, {path.stat().st_size:,} bytes")
        for take in takes:
            print(f"  {take.tokens_per_pass:.2f} tokens per pass, {take.wall_clock}")
            print("  | " + take.text.replace("\n", "\n  | "))
            for at, each in take.captions.items():
                for said in each:
                    print(f"  {at:>4} {said.seconds:4.1f} s ({len(said.text):3}) {said.text}")


if __name__ == "__main__":
    main()
