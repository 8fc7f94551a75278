"""What a step says about itself is true, and asking for it changes nothing else."""

import json
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch import Tensor

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode import report as explaining
from sequoia_core.decode.report import explain, explained_nodes
from sequoia_core.events import Outcome, Ranking, Step
from sequoia_core.files import decode, encode
from sequoia_core.speculate import verify
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.residual import TOP, ResidualPair
from sequoia_core.speculate.sampling import most_probable
from sequoia_core.speculate.scored_tree import ScoredTree, score
from sequoia_core.speculate.token_tree import DeviceNodes, TokenTree
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import make_engine, steps_of
from tests.core.models import PlainCodec, TableModel

VOCAB = 24
CLOSE = 2e-6
KEPT = (0, 2, 3, 5, 8, 9, 11, 13, 14, 17, 20, 22, 23)
"""The target's ids that a trimmed draft knows."""


def answer(
    mode: Mode, params: SamplingParams, *, insight: bool, trimmed: bool = False
) -> list[Step]:
    columns = len(KEPT) if trimmed else VOCAB
    vocab_ids = torch.tensor(KEPT) if trimmed else None
    draft = DraftModel(TableModel(columns, 5, order=2), vocab_ids)
    tree = GrowMap.chain(4) if mode is Mode.CHAIN else GrowMap.k_ary([3, 2, 2])
    engine = make_engine(TableModel(VOCAB, 4), draft, tree, mode)
    engine.insight = insight
    return steps_of(list(engine.generate([1, 2, 3], params)))


MODES = pytest.mark.parametrize("mode", list(Mode))
TRIMMED = pytest.mark.parametrize("trimmed", [False, True], ids=["whole", "trimmed"])
SHAPES = pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0, max_new_tokens=24),
        SamplingParams(temperature=0.9, seed=11, max_new_tokens=24),
        SamplingParams(temperature=1.0, top_p=0.8, top_k=9, seed=12, max_new_tokens=24),
    ],
    ids=["greedy", "sampled", "nucleus"],
)


@MODES
@SHAPES
@TRIMMED
def test_an_answer_is_the_same_with_and_without(
    mode: Mode, params: SamplingParams, trimmed: bool
) -> None:
    def decoded(insight: bool) -> list[tuple[object, ...]]:
        steps = answer(mode, params, insight=insight, trimmed=trimmed)
        assert all((step.insight is not None) == insight for step in steps)
        return [(s.nodes, s.path, s.bonus_token_id, s.bonus_prob, s.token_ids) for s in steps]

    assert decoded(insight=True) == decoded(insight=False)


@MODES
@SHAPES
@TRIMMED
def test_a_step_agrees_with_itself(mode: Mode, params: SamplingParams, trimmed: bool) -> None:
    for step in answer(mode, params, insight=True, trimmed=trimmed):
        assert step.insight is not None
        parents = {node.parent for node in step.nodes if node.parent >= 0}
        assert {each.node for each in step.insight.opinions} == parents | set(step.path)
        for index, node in enumerate(step.nodes):
            trial = step.insight.trial(index)
            assert (trial is not None) == (node.draw is not None)
            opinion = step.insight.opinion(node.parent)
            if node.parent >= 0 and opinion is not None:
                check_listed(node.token_id, node.target_prob, opinion.target)
            if trial is None:
                continue
            assert node.accept_prob is not None
            assert node.draw is not None
            ratio = trial.p / trial.q if trial.q else float(trial.p > 0)
            assert (trial.residual is None) == (node.outcome is Outcome.ACCEPTED)
            assert (node.draw < node.accept_prob) == (node.outcome is Outcome.ACCEPTED)
            assert (trial.above is not None) == (node.parent >= 0 and mode is Mode.TRAVERSE)
            if trial.above is not None and step.children[index]:  # were rejected before it
                assert node.accept_prob <= min(1.0, trial.above * ratio) + CLOSE
                continue
            above = 1.0 if trial.above is None else trial.above
            assert node.accept_prob == pytest.approx(min(1.0, above * ratio))


def check_listed(token_id: int, prob: float | None, ranking: Ranking) -> None:
    """A token is in a ranking with its probability, or less probable than all of it."""
    assert prob is not None
    if token_id in ranking.token_ids:
        assert ranking.probs[ranking.token_ids.index(token_id)] == pytest.approx(prob, abs=CLOSE)
    else:
        assert prob <= min(ranking.probs) + CLOSE or prob < CLOSE


def check_ranking(ranking: Ranking, probs: Sequence[float]) -> None:
    """It is the top of a distribution over the target's ids."""
    best = sorted(probs, reverse=True)[:TOP]
    assert ranking.probs == pytest.approx([p for p in best if round(p, 6) > 0], abs=CLOSE)
    for token, prob in zip(ranking.token_ids, ranking.probs, strict=True):
        assert prob == pytest.approx(probs[token], abs=CLOSE)
    assert len(set(ranking.token_ids)) == len(ranking.token_ids)
    assert ranking.texts == tuple(map(PlainCodec().token_text, ranking.token_ids))


def residuals(
    p: Sequence[float], q: Sequence[float], tokens: Sequence[int], *, replaced: bool
) -> list[list[float]]:
    """Algorithm 2 written out: what is left of p after each of the tokens was rejected."""
    left, q, tried, found = list(p), list(q), set[int](), []
    for token in tokens:
        rest = [max(a - b, 0.0) for a, b in zip(left, q, strict=True)]
        left = [each / sum(rest) for each in rest] if sum(rest) > 0 else left
        found.append(left)
        tried.add(token)
        if not replaced:
            q[token] = 0.0
            if sum(q) > 0:
                q = [each / sum(q) for each in q]
    return found


def distribution(weights: Sequence[int]) -> list[float]:
    return [each / sum(weights) for each in weights]


WEIGHTS = st.lists(st.integers(1, 50), min_size=VOCAB, max_size=VOCAB).map(distribution)
DRAFT_WEIGHTS = st.lists(st.integers(1, 50), min_size=len(KEPT), max_size=len(KEPT))
RULES: Mapping[str, Callable[[ScoredTree, torch.Generator], verify.Verdict]] = {
    "sequoia": verify.sequoia,
    "specinfer": verify.specinfer,
}


def star(
    p: Sequence[float], q: Sequence[float], columns: Sequence[int], trimmed: bool
) -> ScoredTree:
    """A root with children at these draft columns."""
    growmap = GrowMap.k_ary([len(columns)])
    ids = KEPT if trimmed else range(VOCAB)
    tree = TokenTree(
        growmap=growmap,
        nodes=DeviceNodes(
            torch.tensor([0, *(ids[column] for column in columns)]),
            torch.tensor([0, *columns]),
            torch.ones(growmap.size),
        ),
        draft_probs=torch.tensor([q]),
        inner_rows={0: 0},
        vocab_ids=torch.tensor(KEPT) if trimmed else None,
    )
    return score(tree, torch.tensor([p] * growmap.size).log(), SamplingParams(temperature=1.0))


@given(
    p=WEIGHTS,
    weights=DRAFT_WEIGHTS,
    columns=st.permutations(range(len(KEPT))),
    seed=st.integers(0, 2**20),
    trimmed=st.booleans(),
    rule=st.sampled_from(sorted(RULES)),
)
@settings(max_examples=150, deadline=None)
def test_residuals_are_those_of_algorithm_2(
    p: list[float],
    weights: list[int],
    columns: list[int],
    seed: int,
    trimmed: bool,
    rule: str,
) -> None:
    known = distribution(weights)
    q = known if trimmed else known + [0.0] * (VOCAB - len(known))
    scored = star(p, q, columns[:4], trimmed)
    verdict = RULES[rule](scored, torch.Generator().manual_seed(seed))
    insight = explain(scored, verdict, PlainCodec())
    spread = [0.0] * VOCAB
    for column, prob in enumerate(known):
        spread[KEPT[column] if trimmed else column] = prob
    wanted = residuals(p, spread, scored.nodes.token_ids[1:], replaced=rule == "specinfer")
    rejected = [each for each in insight.trials if each.residual is not None]
    for at, trial in enumerate(rejected):
        assert trial.node == at + 1
        assert trial.residual is not None
        if min(sum(w) for w in wanted[: at + 1]) > 0.99:
            check_ranking(trial.residual, wanted[at])
    root = insight.opinion(0)
    assert root is not None
    assert root.draft is not None
    check_ranking(root.target, p)
    check_ranking(root.draft, spread)


def test_the_last_residual_is_what_the_bonus_is_drawn_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[list[float]] = []

    def spy(left: Tensor | ResidualPair, uniform: float) -> int:
        drawn.append((left if isinstance(left, Tensor) else left.target_probs()).tolist())
        return 0

    monkeypatch.setattr(verify, "_bonus", spy)
    p, q = distribution(range(1, VOCAB + 1)), distribution(range(len(KEPT) + 2, 2, -1))
    seen = 0
    for seed in range(40):
        scored = star(p, q, (0, 1, 2), trimmed=True)
        verdict = verify.sequoia(scored, torch.Generator().manual_seed(seed))
        if verdict.path != (0,):
            continue
        seen += 1
        last = explain(scored, verdict, PlainCodec()).trials[-1]
        assert last.residual is not None
        check_ranking(last.residual, drawn[-1])
    assert seen > 3


def test_a_large_tree_explains_its_path_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "MOST_NODES", 5)
    for step in answer(Mode.SEQUOIA, SamplingParams(seed=3, max_new_tokens=24), insight=True):
        assert step.insight is not None
        kept = [opinion.node for opinion in step.insight.opinions]
        assert len(kept) == 5
        assert set(step.path) <= set(kept)
        assert kept == sorted(kept)


@given(
    width=st.integers(1, 3000),
    rows=st.lists(st.integers(0, 6), min_size=1, max_size=7),
    coarse=st.booleans(),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=150, deadline=None)
def test_the_most_probable_are_those_of_topk(
    width: int, rows: list[int], coarse: bool, seed: int
) -> None:
    probs = torch.rand((7, width), generator=torch.Generator().manual_seed(seed))
    probs = (probs * 8).round() if coarse else probs  # many equal ones
    values, columns = most_probable(probs, rows, TOP)
    wanted = probs[rows].topk(min(TOP, width)).values
    assert torch.equal(values, wanted)
    assert torch.equal(probs[rows].gather(1, columns), wanted)
    assert all(len(set(row)) == len(row) for row in columns.tolist())


def test_it_survives_json_and_a_step_without_it_is_read() -> None:
    step = answer(Mode.SEQUOIA, SamplingParams(seed=3, max_new_tokens=8), insight=True)[0]
    assert decode(Step, json.loads(json.dumps(encode(step)))) == step
    older = encode(replace(step, insight=None))
    del older["insight"]
    assert decode(Step, older) == replace(step, insight=None)


def test_explained_nodes_are_the_inner_ones_and_the_end() -> None:
    scored = star(distribution([1] * VOCAB), distribution([1] * len(KEPT)), (0, 1), trimmed=True)
    assert explained_nodes(scored, verify.Verdict((0, 2), 0, {})) == [0, 2]
    assert explained_nodes(scored, verify.Verdict((0,), 0, {})) == [0]
