"""Temperature > 0: what is emitted follows the target's own distribution exactly.

Proved twice: by enumerating every draw and every verdict of small trees, and by chi-square on many
runs of the whole engine step.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor
from typing_extensions import override

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.step import Sampler, Speculator
from sequoia_core.decode.token_cache import TokenCache
from sequoia_core.model.graphs import Graphs
from sequoia_core.model.llama import Llama
from sequoia_core.model.recorded import record_forwards
from sequoia_core.speculate import verify
from sequoia_core.speculate.draft import DraftModel, SampledChildren
from sequoia_core.speculate.judging import Judge
from sequoia_core.speculate.remainders import left_most_probable
from sequoia_core.speculate.residual import Remainder, ResidualPair
from sequoia_core.speculate.sampling import (
    draft_probs,
    exponential_noise,
    independent_draws,
    ordered_draws,
    shaped_probs,
)
from sequoia_core.speculate.scored_tree import ScoredTree, score
from sequoia_core.speculate.token_tree import DeviceNodes, TokenTree
from sequoia_core.tree.choice import Tree
from sequoia_core.tree.growmap import GrowMap
from tests.core.models import TableModel, random_weights, tiny_config
from tests.tape_runner import TapeRunner

Draws = list[tuple[tuple[int, ...], float]]


def ordered_tuples(q: Sequence[float], support: Sequence[int], count: int) -> Draws:
    """Every ordered draw without replacement and its probability, with the uniform fallback."""
    found: Draws = []
    for tokens in itertools.permutations(support, count):
        probability, left = 1.0, dict.fromkeys(support, 0.0) | {t: q[t] for t in support}
        for token in tokens:
            mass = math.fsum(left.values())
            probability *= left[token] / mass if mass > 0 else 1.0 / len(left)
            del left[token]
        if probability > 0:
            found.append((tokens, probability))
    return found


def replaced_tuples(q: Sequence[float], support: Sequence[int], count: int) -> Draws:
    """Every independent draw and its probability."""
    every = itertools.product(support, repeat=count)
    found = [(tokens, math.prod(q[token] for token in tokens)) for tokens in every]
    return [(tokens, probability) for tokens, probability in found if probability > 0]


def top_tuple(q: Sequence[float], support: Sequence[int], count: int) -> Draws:
    """The most probable tokens, which are no matter of chance."""
    return [(tuple(sorted(support, key=lambda token: -q[token])[:count]), 1.0)]


RULES: dict[str, tuple[verify.AcceptanceRule, Callable[..., Draws]]] = {
    "sequoia": (verify.sequoia, ordered_tuples),
    "specinfer": (verify.specinfer, replaced_tuples),
    "topk": (verify.topk, top_tuple),
}


def left_at_once(scored: ScoredTree, verdict: verify.Verdict) -> Tensor:
    """What the last rejection left of p, where all nodes were judged at once."""
    residual = list(verdict.attempts.values())[-1].residual
    assert isinstance(residual, Remainder)
    tokens, probs = left_most_probable(scored, [residual], scored.logits.shape[1])
    return torch.zeros_like(probs[0]).index_copy(0, tokens[0], probs[0])


def emitted_distribution(
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    case: tuple[Tensor, Tensor, Tensor | None],
    count: int,
    *,
    at_once: bool = False,
) -> Tensor:
    """Distribution of the first emitted token, by running a rule on every possible draw."""
    p, q, vocab_ids = case
    judge, law = RULES[rule]
    judge = Judge(Mode(rule)) if at_once else judge
    last: list[Tensor] = []

    def remember(left: Tensor | ResidualPair, uniform: float) -> int:
        last.append(left if isinstance(left, Tensor) else left.target_probs())
        return 0

    def almost_one(size: int, **options: object) -> Tensor:
        return torch.full((size,), 1.0 - 2.0**-53, dtype=torch.float64)

    monkeypatch.setattr(verify, "_bonus", remember)
    monkeypatch.setattr(torch, "rand", almost_one)
    support = list(range(len(p))) if vocab_ids is None else vocab_ids.tolist()
    full_q = torch.zeros(len(p)).index_copy(0, torch.tensor(support), q)
    growmap = GrowMap.k_ary([count])
    emitted = torch.zeros(len(p), dtype=torch.float64)
    for tokens, probability in law(full_q.double().tolist(), support, count):
        tree = TokenTree(
            growmap=growmap,
            nodes=DeviceNodes(
                torch.tensor([0, *tokens]),
                torch.tensor([0, *map(support.index, tokens)]),
                torch.stack([torch.tensor(1.0), *(q[support.index(at)] for at in tokens)]),
            ),
            draft_probs=q[None],
            inner_rows={0: 0},
            vocab_ids=vocab_ids,
        )
        logits = p.log().clamp(min=-1e30).expand(count + 1, -1)
        scored = score(tree, logits, SamplingParams(temperature=1.0))
        verdict = judge(scored, torch.Generator())
        reach = probability
        for node, attempt in verdict.attempts.items():
            emitted[tokens[node - 1]] += reach * attempt.accept_prob
            reach *= 1.0 - attempt.accept_prob
        if len(verdict.path) == 1:
            left = left_at_once(scored, verdict) if at_once else last[-1].double()
            emitted += reach * left
    return emitted


P = torch.tensor([0.45, 0.25, 0.15, 0.1, 0.05])
CASES = {
    "mixed": (P, torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15]), None),
    "equal": (P, P, None),
    "draft misses tokens, so the fallback is used": (
        P, torch.tensor([0.0, 0.6, 0.4, 0.0, 0.0]), None,
    ),
    "draft is certain of a token the target excludes": (
        torch.tensor([0.0, 0.5, 0.5, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]), None,
    ),
    "target is certain": (
        torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0]), torch.tensor([0.4, 0.3, 0.2, 0.05, 0.05]), None,
    ),
    "trimmed draft": (P, torch.tensor([0.7, 0.2, 0.1]), torch.tensor([1, 2, 4])),
    "trimmed draft that is certain": (P, torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1, 2, 4])),
}  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("at_once", [False, True], ids=["walk", "at once"])
def test_emitted_token_has_the_targets_probability_by_enumeration(
    monkeypatch: pytest.MonkeyPatch, rule: str, case: str, count: int, at_once: bool
) -> None:
    emitted = emitted_distribution(monkeypatch, rule, CASES[case], count, at_once=at_once)
    torch.testing.assert_close(emitted, CASES[case][0].double(), atol=1e-6, rtol=0)


def test_drawing_as_another_rule_expects_is_not_lossless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "mixed up", (verify.specinfer, ordered_tuples))
    emitted = emitted_distribution(monkeypatch, "mixed up", CASES["mixed"], 3)
    assert float((emitted - CASES["mixed"][0].double()).abs().max()) > 1e-3


@pytest.mark.parametrize("q", [CASES["mixed"][1], torch.tensor([0.0, 0.6, 0.4, 0.0, 0.0])])
def test_children_follow_the_law_of_ordered_draws(q: Tensor) -> None:
    runs = 200_000
    generator = torch.Generator().manual_seed(5)
    noise = exponential_noise(torch.rand(runs, 5, generator=generator, dtype=torch.float64))
    drawn = Counter(map(tuple, ordered_draws(q.expand(runs, -1), noise, 3).tolist()))
    law = ordered_tuples(q.double().tolist(), range(5), 3)
    assert set(drawn) <= {tokens for tokens, _ in law}
    observed = [drawn[tokens] for tokens, _ in law]
    expected = [probability * runs for _, probability in law]
    assert stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-4


def test_independent_draws_follow_q_and_repeat() -> None:
    runs, q = 200_000, torch.tensor([0.0, 0.6, 0.4, 0.0, 0.0])
    uniforms = torch.rand(runs, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    drawn = Counter(map(tuple, independent_draws(q.expand(runs, -1), uniforms).tolist()))
    law = replaced_tuples(q.double().tolist(), range(5), 2)
    assert set(drawn) == {tokens for tokens, _ in law}
    observed = [drawn[tokens] for tokens, _ in law]
    expected = [probability * runs for _, probability in law]
    assert stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-4


def test_independent_draws_of_what_is_no_number_are_tokens() -> None:
    """An index out of range would end a GPU's process."""
    q = torch.tensor([[float("nan")] * 3, [0.5, 0.5, float("nan")], [0.0, 0.0, 0.0]])
    drawn = independent_draws(q, torch.full((3, 2), 0.5, dtype=torch.float64))
    assert ((drawn >= 0) & (drawn < 3)).all()


class Runs:
    """Engine steps from one prompt, over and over, with fresh randomness each time."""

    prompt = (1, 0, 2, 1, 0, 2)

    def __init__(
        self,
        growmap: Tree,
        params: SamplingParams,
        draft: DraftModel,
        lookup: Lookup = Lookup.OFF,
        mode: Mode = Mode.SEQUOIA,
        *,
        at_once: bool = False,
        graphs: Graphs | None = None,
    ) -> None:
        self.target = TableModel(4, 11, order=2, scale=1.0)
        self.cache = TokenCache(self.target, draft.model)
        self.speculator = Speculator(self.target, draft, self.cache, graphs=graphs)
        self.sampler = Sampler.of(params, torch.device("cpu"), mode)
        if at_once:
            self.sampler = replace(self.sampler, rule=Judge(mode))
        self.growmap, self.params, self.lookup = growmap, params, lookup
        self.largest = 0

    def first_two(self) -> tuple[int, int]:
        self.cache.start(self.prompt)
        list(self.cache.read_prompt())
        emitted: list[int] = []
        while len(emitted) < 2:
            scored, verdict = self.speculator.step(self.growmap, self.sampler, self.lookup)
            self.largest = max(self.largest, scored.growmap.size)
            tokens = scored.emitted(verdict.path, verdict.bonus_token)
            self.speculator.commit(scored, verdict.path, tokens)
            emitted += tokens
        return emitted[0], emitted[1]

    def joint(self) -> Tensor:
        """The target's exact probability of each pair."""
        first = self.shaped(self.target.logits_after(self.prompt)[None])[0]
        rows = [self.target.logits_after((*self.prompt, token)) for token in range(4)]
        return first[:, None] * self.shaped(torch.stack(rows))

    def shaped(self, logits: Tensor) -> Tensor:
        return shaped_probs(logits, self.params).double()


def p_value(counts: Counter[tuple[int, ...]], probs: Tensor) -> float:
    """Of Pearson's test that tuples of tokens were drawn with these probabilities."""
    observed = torch.zeros_like(probs)
    for tokens, count in counts.items():
        observed[tokens] = count
    possible = probs > 0
    assert observed[~possible].sum() == 0
    expected = counts.total() * probs[possible]
    return float(stats.chisquare(observed[possible], expected, sum_check=False).pvalue)


RUNS = 15_000
"""Of each of the default rule's cases; other rules get half as many. `make lossless`: 200,000."""

RECORDED_RUNS = 1_500


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (Mode.SEQUOIA, "tree"),
        (Mode.SEQUOIA, "wide"),
        (Mode.SEQUOIA, "chain"),
        (Mode.SEQUOIA, "trimmed"),
        (Mode.SEQUOIA, "top-p"),
        (Mode.SPECINFER, "trimmed"),
        (Mode.SPECINFER, "top-p"),
        (Mode.TOPK, "trimmed"),
        (Mode.TOPK, "top-p"),
        (Mode.TRAVERSE, "chain"),
        (Mode.TRAVERSE, "look-up"),
        (Mode.TRAVERSE, "trimmed"),
        (Mode.TRAVERSE, "top-p"),
    ],
)
def test_first_token_and_joint_of_two_match_the_target(
    mode: Mode, name: str, pytestconfig: pytest.Config
) -> None:
    runs = RUNS if mode is Mode.SEQUOIA else RUNS // 2
    check_joint(mode, name, max(runs, pytestconfig.getoption("--least-runs")), at_once=False)


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "name"),
    [
        (Mode.SEQUOIA, "look-up"),
        (Mode.SEQUOIA, "trimmed"),
        (Mode.SEQUOIA, "top-p"),
        (Mode.SPECINFER, "trimmed"),
        (Mode.TOPK, "trimmed"),
    ],
)
def test_judged_at_once_they_match_as_well(
    mode: Mode, name: str, pytestconfig: pytest.Config
) -> None:
    """That each verdict is the walk's is tested in `test_judging`: hence fewer runs."""
    runs = max(4_000, pytestconfig.getoption("--least-runs") // 10)
    check_joint(mode, name, runs, at_once=True)


def check_joint(mode: Mode, name: str, runs: int, *, at_once: bool) -> None:
    trees = {"chain": GrowMap.chain(2), "wide": GrowMap.k_ary([3])}
    growmap = trees.get(name, GrowMap((-1, 0, 0, 1)))
    draft = DraftModel(TableModel(4, 12, order=2, scale=1.0))
    if name == "trimmed":
        draft = DraftModel(TableModel(3, 12, order=2), torch.tensor([0, 1, 3]))
    params = SamplingParams(temperature=0.8, seed=17, top_p=0.8 if name == "top-p" else 1.0)
    lookup = Lookup.ON if name == "look-up" else Lookup.OFF
    run = Runs(growmap, params, draft, lookup, mode, at_once=at_once)
    counts = Counter[tuple[int, ...]](run.first_two() for _ in range(runs))
    firsts = Counter[tuple[int, ...]]()
    for pair, count in counts.items():
        firsts[pair[:1]] += count
    assert p_value(counts, run.joint()) > 1e-4
    assert p_value(firsts, run.joint().sum(1)) > 1e-4


class RecordedRuns(Runs):
    """Of Llamas, whose steps are replayed."""

    def __init__(self, growmap: GrowMap, params: SamplingParams, mode: Mode) -> None:
        config = tiny_config(vocab_size=4, head_vocab_size=4)
        self.llama, target, small = (
            Llama(config, random_weights(config, seed), torch.device("cpu"), torch.float32)
            for seed in (1, 1, 2)
        )
        self.runner = TapeRunner()
        record_forwards(Graphs(self.runner, torch.device("cpu")), target, small)
        self.cache = TokenCache(target, small)
        self.speculator = Speculator(target, DraftModel(small), self.cache)
        self.sampler = Sampler.of(params, torch.device("cpu"), mode)
        self.growmap, self.params, self.lookup, self.largest = growmap, params, Lookup.OFF, 0

    @override
    def joint(self) -> Tensor:
        first = self.shaped(self.logits_after(self.prompt))[0]
        rows = [self.logits_after((*self.prompt, token)) for token in range(4)]
        return first[:, None] * self.shaped(torch.cat(rows))

    def logits_after(self, token_ids: tuple[int, ...]) -> Tensor:
        positions = torch.arange(len(token_ids))
        return self.llama.forward(torch.tensor(token_ids), positions, None, self.llama.new_cache())[
            -1:
        ]


@pytest.mark.long
@pytest.mark.parametrize("mode", [Mode.SEQUOIA, Mode.SPECINFER, Mode.TOPK])
def test_replayed_steps_match_the_target(mode: Mode) -> None:
    """Fewer of them: a replay on a CPU is slow, and its trees are those without recordings."""
    params = SamplingParams(temperature=0.8, seed=5)
    run = RecordedRuns(GrowMap((-1, 0, 0, 1)), params, mode)
    counts = Counter[tuple[int, ...]](run.first_two() for _ in range(RECORDED_RUNS))
    assert p_value(counts, run.joint()) > 1e-4
    assert run.runner.recorded < 10
    assert run.runner.replayed > 2 * RECORDED_RUNS


def test_randomness_is_fresh_each_step_and_a_seed_repeats_it() -> None:
    draft = DraftModel(TableModel(4, 12, order=2, scale=1.0))
    params = SamplingParams(temperature=1.0, seed=3)
    one, two = (Runs(GrowMap.k_ary([2, 1]), params, draft) for _ in range(2))
    pairs = [one.first_two() for _ in range(40)]
    assert len(set(pairs)) > 4
    assert pairs == [two.first_two() for _ in range(40)]


def test_children_are_drawn_from_the_very_tensor_that_is_verified() -> None:
    params = SamplingParams(temperature=0.7, top_p=0.6, top_k=3)
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(1))
    columns, probs = SampledChildren(params, torch.Generator().manual_seed(2))(logits, 2)
    assert torch.equal(probs, draft_probs(logits, params))
    assert (probs.gather(1, columns[:, :1]) > 0).all()
