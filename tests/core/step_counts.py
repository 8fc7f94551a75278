"""What a step asks of a GPU, counted on a pretended one: `python -m tests.core.step_counts`.

A target of 32 layers and a draft of 2, with few dimensions and 32,000 tokens, so the counts are
those of Llama-2-7B with the 68M draft. Means of an answer's later steps. Where tokens are looked up
they are at every step.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from statistics import fmean
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.events import PrefillDone, Step
from sequoia_core.model.graphs import Graphs, Recording
from sequoia_core.model.llama import Llama
from sequoia_core.model.recorded import record_forwards
from sequoia_core.model.tensor_names import expected_shapes
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.prompt_lookup import PromptLookup
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.files import find_growmap
from sequoia_core.tree.search import expected_tokens_table
from tests.core.engines import any_path, make_engine
from tests.core.models import tiny_config
from tests.pretended_device import CUDA, Traffic, pretended_device
from tests.tape_runner import TapeRunner

T = TypeVar("T")
NODES, DEPTH, VOCABULARY = 64, 8, 32_000
PROMPT, TOKENS = 520, 400  # tokens: of the same span all the time
SKIPPED, COUNTED = 24, 8  # steps; the first record and compare, a while where sizes differ
NO_KERNEL = {
    "alias", "as_strided", "detach", "empty", "empty_like", "expand", "lift_fresh", "new_empty",
    "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose",
    "unbind", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip


class NumberCodec:
    """Token 7 reads `7 `."""

    def decode(self, token_ids: Any) -> str:
        return "".join(map(self.token_text, token_ids))

    def token_text(self, token_id: int) -> str:
        return f"{token_id} "


class CountedRunner(TapeRunner):
    """Counts a replay as one launch."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def record(self, work: Callable[[], T]) -> Recording[T]:  # type: ignore[override]
        return CountedRecording(super().record(work), self.traffic)


class CountedRecording:
    def __init__(self, recording: Recording[Any], traffic: Traffic) -> None:
        self._recording, self._traffic = recording, traffic
        self.outputs, self.nbytes = recording.outputs, recording.nbytes

    def replay(self) -> Any:
        before = self._traffic.operators.copy()
        found = self._recording.replay()
        self._traffic.operators = before
        before["graph"] += 1
        return found


def random_llama(layers: int, seed: int) -> Llama:
    """Models of one embedding and head, so that they agree now and then."""
    config = tiny_config(
        context_window=4096,
        vocab_size=VOCABULARY,
        head_vocab_size=VOCABULARY,
        num_layers=layers,
        num_kv_heads=4,
    )
    own, shared = (torch.Generator().manual_seed(each) for each in (seed, 7))
    size = (VOCABULARY, config.hidden_size)
    ends = [torch.randn(size, generator=shared) for _ in range(2)]
    weights: dict[str, Tensor] = {}
    for name, shape in expected_shapes(config).items():
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(shape)
        elif shape == size:
            weights[name] = ends.pop(0)
        else:
            weights[name] = torch.randn(shape, generator=own) * 0.03
    return Llama(config, weights, CUDA, torch.bfloat16)


def steps(
    choice: TreeChoice, params: SamplingParams, traffic: Traffic, recorded: bool
) -> Iterator[tuple[int, int, int, int]]:
    """Kernels launched by themselves, graphs launched, copies there and back of each step."""
    target, draft = (random_llama(layers, seed) for seed, layers in ((1, 32), (2, 2)))
    if recorded:
        record_forwards(Graphs(CountedRunner(traffic), CUDA), target, draft)
    engine = make_engine(target, DraftModel(draft), codec=NumberCodec())
    engine.tree_choice = choice
    for event in engine.generate(range(PROMPT), params):
        if isinstance(event, Step):
            graphs = traffic.operators.pop("graph", 0)
            kernels = sum(n for name, n in traffic.operators.items() if name not in NO_KERNEL)
            yield kernels, graphs, traffic.to_device, traffic.to_host
        if isinstance(event, Step | PrefillDone):
            traffic.forget()


def main() -> None:
    rates = find_growmap("a100/68m-7b/c4-stochastic").acceptance_rates
    table = expected_tokens_table(rates, NODES, DEPTH, min(len(rates), 20))
    tree = TreeChoice(Mode.SEQUOIA, table.tree(NODES, DEPTH), lookup=Lookup.OFF)
    sampled = SamplingParams(temperature=0.6, seed=1, max_new_tokens=TOKENS)
    greedy = SamplingParams(temperature=0.0, max_new_tokens=TOKENS)
    nucleus = SamplingParams(0.6, top_p=0.9, seed=1, max_new_tokens=TOKENS)
    cases = {
        "sampled": (tree, sampled),
        "greedy": (tree, greedy),
        "top-p": (tree, nucleus),
        "plain": (TreeChoice(Mode.AR), sampled),
        "sampled, look-up": (replace(tree, lookup=Lookup.ON), sampled),
        "greedy, look-up": (replace(tree, lookup=Lookup.ON), greedy),
        "adaptive": (TreeChoice(adaptive=True, lookup=Lookup.OFF), sampled),
        "adaptive, look-up": (TreeChoice(adaptive=True, lookup=Lookup.ON), sampled),
    }
    print(f"{NODES} nodes, {DEPTH} levels{'kernels':>20}{'graphs':>9}{'up':>6}{'down':>6}")
    for recorded in (False, True):
        for name, (choice, params) in cases.items():
            with pretended_device() as traffic, pytest.MonkeyPatch.context() as patch:
                patch.setattr(PromptLookup, "propose", any_path)
                every = steps(choice, params, traffic, recorded)
                late = list(islice(every, SKIPPED, SKIPPED + COUNTED))
            kernels, graphs, up, down = (fmean(each) for each in zip(*late, strict=True))
            what = f"{name}, {'recorded' if recorded else 'eager'}"
            print(f"{what:<28}{kernels:>10.0f}{graphs:>9.1f}{up:>6.1f}{down:>6.1f}")


if __name__ == "__main__":
    main()
