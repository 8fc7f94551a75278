"""EAGLE-3 drafts change no token at temperature 0, and above it no token's probability."""

from collections import Counter
from itertools import product

import pytest
import torch
from scipy import stats

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.model.config import Eagle3
from sequoia_core.model.eagle3 import Eagle3Llama
from sequoia_core.model.llama import Llama
from sequoia_core.model.native.library import Pool, find_library
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.tree.choice import DynamicTree, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.decode.test_lossless_greedy import plain
from tests.core.engines import Every, make_engine, steps_of, tokens_of
from tests.core.models import fresh_logits, random_weights, tiny_config

CPU = torch.device("cpu")
FEATURES = (0, 1, 2)
TOKENS, KEPT = 6, [0, 1, 2, 5]
"""So few tokens that a random draft, which knows some of them, is right now and then."""
PROMPT = [3, 1, 4, 1, 5, 0, 2, 4]
TREES = (GrowMap.chain(4), GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7)), GrowMap.k_ary([4, 2]))
DRAFTING = [mode for mode in Mode if mode is not Mode.AR]
SAMPLING = (Mode.SEQUOIA, Mode.SPECINFER, Mode.TOPK, Mode.TRAVERSE)
SHAPES = {
    "EAGLE-3": Eagle3(32),
    "EAGLE 3.1": Eagle3(32, fc_norm=True, norm_output=True),
    "speculators": Eagle3(32, fc_bias=True, norm_before_fc=True, norm_before_residual=True),
}


def target_of(kind: type[Llama] | type[NativeLlama]) -> Llama | NativeLlama:
    config = tiny_config(num_layers=4, vocab_size=TOKENS, head_vocab_size=TOKENS)
    weights = random_weights(config, 4)
    if issubclass(kind, NativeLlama):
        return kind(config, weights, Pool(1), feature_layers=FEATURES)
    return kind(config, weights, CPU, torch.float32, FEATURES)


def draft_of(kind: str) -> DraftModel:
    config = tiny_config(
        num_layers=1,
        vocab_size=TOKENS,
        head_vocab_size=len(KEPT),
        feature_layers=FEATURES,
        eagle3=SHAPES[kind],
    )
    draft = Eagle3Llama(config, random_weights(config, 2), CPU, torch.float32)
    return DraftModel(draft, torch.tensor(KEPT))


@pytest.mark.parametrize(
    ("mode", "kind", "prompt"),
    [
        *((mode, kind, PROMPT) for mode in DRAFTING for kind in SHAPES),
        (Mode.SEQUOIA, "EAGLE-3", [3]),
        (Mode.SEQUOIA, "EAGLE-3", [3, 1]),
    ],
)
def test_greedy_tokens_are_those_of_plain_decoding(
    mode: Mode, kind: str, prompt: list[int]
) -> None:
    """With trees, plain steps and look-up in turn; after one token there is no feature."""
    target, draft = target_of(Llama), draft_of(kind)
    expected, accepted = plain(target, prompt, 40), 0
    for tree in TREES:
        for lookup in (Lookup.OFF, Lookup.ON):
            made = make_engine(target, draft)
            made.tree_choice, made.clock = TreeChoice(mode, tree, lookup=lookup), Every(5)
            params = SamplingParams(temperature=0.0, max_new_tokens=40)
            events = list(made.generate(prompt, params))
            assert tokens_of(events) == expected
            accepted += sum(step.accepted for step in steps_of(events)) * (lookup is Lookup.OFF)
    assert accepted > 5


@pytest.mark.skipif(find_library() is None, reason="the native library was not built")
@pytest.mark.parametrize("mode", DRAFTING)
def test_greedy_tokens_of_a_native_target_are_those_of_plain_decoding(mode: Mode) -> None:
    target = target_of(NativeLlama)
    made = make_engine(target, draft_of("EAGLE-3"), TREES[1], mode)
    params = SamplingParams(temperature=0.0, max_new_tokens=40)
    events = list(made.generate(PROMPT, params))
    assert tokens_of(events) == plain(target, PROMPT, 40)
    assert sum(step.accepted for step in steps_of(events)) > 5


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("mode", [Mode.GREEDY, Mode.TOPK])
def test_greedy_tokens_of_a_dynamic_tree_are_those_of_plain_decoding(mode: Mode, kind: str) -> None:
    target, draft, accepted = target_of(Llama), draft_of(kind), 0
    expected = plain(target, PROMPT, 40)
    for tree, lookup in product((DynamicTree(6, 4, 2), DynamicTree(20, 3, 4)), Lookup):
        made = make_engine(target, draft)
        made.tree_choice = TreeChoice(mode, dynamic=tree, lookup=lookup)
        events = list(made.generate(PROMPT, SamplingParams(temperature=0.0, max_new_tokens=40)))
        assert tokens_of(events) == expected
        accepted += sum(step.accepted for step in steps_of(events)) * (lookup is Lookup.OFF)
    assert accepted > 5


RUNS = 1200


@pytest.mark.long
@pytest.mark.parametrize(
    "choice",
    [
        *(TreeChoice(mode, GrowMap.k_ary([2, 2])) for mode in SAMPLING),
        TreeChoice(Mode.TOPK, dynamic=DynamicTree(6, 2, 3)),
    ],
    ids=[*SAMPLING, "dynamic"],
)
def test_sampled_tokens_follow_the_targets_distribution(
    choice: TreeChoice, pytestconfig: pytest.Config
) -> None:
    """Pearson's test of the first, and of the second after the most frequent first one."""
    target = target_of(Llama)
    engine = make_engine(target, draft_of("EAGLE-3"))
    engine.tree_choice = choice
    prompt, drawn = [3, 1, 4, 1, 5], []
    for seed in range(max(RUNS, pytestconfig.getoption("--least-runs") // 10)):
        params = SamplingParams(1.5, seed=seed, max_new_tokens=2)
        drawn.append(tokens_of(list(engine.generate(prompt, params))))
    firsts = Counter(first for first, _ in drawn)
    likely = firsts.most_common(1)[0][0]
    seconds = Counter(second for first, second in drawn if first == likely)
    for counts, ids in ((firsts, prompt), (seconds, [*prompt, likely])):
        probs = (fresh_logits(target, torch.tensor(ids))[-1].double() / 1.5).softmax(-1)
        observed = [counts[token] for token in range(TOKENS)]
        expected = (probs * counts.total()).tolist()
        assert stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-4
