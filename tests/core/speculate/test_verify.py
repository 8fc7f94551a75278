"""The acceptance rules on trees made by hand, against Algorithm 2 written out plainly."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.model.loading.memory_plan import SCORED_ROWS
from sequoia_core.speculate import verify
from sequoia_core.speculate.residual import ResidualPair
from sequoia_core.speculate.scored_tree import ScoredTree, score
from sequoia_core.speculate.token_tree import DeviceNodes, TokenTree
from sequoia_core.tree.growmap import GrowMap

SAMPLED = SamplingParams(temperature=1.0)


def scored_tree(
    growmap: GrowMap,
    tokens: Sequence[int],
    p: Sequence[Sequence[float]],
    q: Sequence[Sequence[float]],
    vocab_ids: Sequence[int] | None = None,
) -> ScoredTree:
    """Tokens, one target distribution per node and one draft distribution per inner node."""
    inner = [node for node in range(growmap.size) if growmap.children[node]]
    columns = [0, *(vocab_ids.index(token) if vocab_ids else token for token in tokens[1:])]
    rows = {node: row for row, node in enumerate(inner)}
    drafted = [
        q[rows[parent]][column]
        for parent, column in zip(growmap.parents[1:], columns[1:], strict=True)
    ]
    tree = TokenTree(
        growmap=growmap,
        nodes=DeviceNodes(
            torch.tensor(tokens), torch.tensor(columns), torch.tensor([1.0, *drafted])
        ),
        draft_probs=torch.tensor(q),
        inner_rows=rows,
        vocab_ids=torch.tensor(vocab_ids) if vocab_ids else None,
    )
    return score(tree, torch.tensor(p).log().clamp(min=-1e30), SAMPLED)


def judge(
    monkeypatch: pytest.MonkeyPatch, scored: ScoredTree, uniforms: Sequence[float]
) -> tuple[verify.Verdict, Tensor]:
    """The verdict for given uniform numbers, and the distribution its bonus was drawn from."""
    drawn: list[Tensor] = []
    real = verify._bonus

    def spy(left: Tensor | ResidualPair, uniform: float) -> int:
        drawn.append(left if isinstance(left, Tensor) else left.target_probs())
        return real(left, uniform)

    def given_numbers(size: int, **options: object) -> Tensor:
        assert size == len(uniforms)
        return torch.tensor(uniforms, dtype=torch.float64)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", given_numbers)
        patch.setattr(verify, "_bonus", spy)
        verdict = verify.sequoia(scored, torch.Generator())
    return verdict, drawn[0]


WIDE = GrowMap.k_ary([2])


@pytest.mark.parametrize(
    ("uniform", "accepted"),
    [(0.0, True), (0.499, True), (0.5, False), (0.75, False)],
)
def test_a_child_is_accepted_when_r_is_strictly_below_p_over_q(
    monkeypatch: pytest.MonkeyPatch, uniform: float, accepted: bool
) -> None:
    q = (0.5, 0.25, 0.25)
    p = (0.25, 0.25, 0.5)
    scored = scored_tree(GrowMap.chain(1), (0, 0), [p, p], [q])
    verdict, _ = judge(monkeypatch, scored, [0.0, uniform])
    attempt = verdict.attempts[1]
    assert attempt.accept_prob == pytest.approx(0.5)
    assert attempt.draw == uniform
    assert (verdict.path == (0, 1)) == accepted == (uniform < attempt.accept_prob)


def test_a_token_the_target_excludes_is_never_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)
    scored = scored_tree(GrowMap.chain(1), (0, 0), [p, p], [q])
    verdict, bonus = judge(monkeypatch, scored, [0.5, 0.0])
    assert verdict.path == (0,)
    assert verdict.bonus_token == 1
    torch.testing.assert_close(bonus, torch.tensor(p))


def test_after_a_rejection_the_bonus_comes_from_the_residual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, q = (0.1, 0.5, 0.4), (0.6, 0.3, 0.1)
    scored = scored_tree(GrowMap.chain(1), (0, 0), [p, p], [q])
    verdict, bonus = judge(monkeypatch, scored, [0.39, 0.9])
    torch.testing.assert_close(bonus, torch.tensor([0.0, 0.4, 0.6]))
    assert verdict.bonus_token == 1
    assert judge(monkeypatch, scored, [0.41, 0.9])[0].bonus_token == 2


def test_a_second_child_is_held_against_the_residual_and_what_is_left_of_q(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Residual (0, .4, .6); q without token 0 is (0, .75, .25); so token 1 passes at .4 / .75."""
    p, q = (0.1, 0.5, 0.4), (0.6, 0.3, 0.1)
    scored = scored_tree(WIDE, (0, 0, 1), [p, p, p], [q])
    verdict, _ = judge(monkeypatch, scored, [0.5, 0.9, 0.5])
    assert verdict.attempts[2].accept_prob == pytest.approx(0.4 / 0.75)
    assert verdict.path == (0, 2)
    verdict, bonus = judge(monkeypatch, scored, [0.5, 0.9, 0.55])
    assert verdict.path == (0,)
    torch.testing.assert_close(bonus, torch.tensor([0.0, 0.0, 1.0]))


def test_where_p_equals_q_nothing_is_lost_and_nothing_is_nan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All is accepted; and if rounding let a draw through, the bonus comes from p."""
    p = (0.5, 0.25, 0.25)
    scored = scored_tree(WIDE, (0, 0, 1), [p, p, p], [p])
    verdict, bonus = judge(monkeypatch, scored, [0.3, 1 - 1e-6, 0.9])
    assert verdict.path == (0, 1)
    torch.testing.assert_close(bonus, torch.tensor(p))
    pair = ResidualPair(scored, 0)
    pair.reject(0)
    assert torch.equal(pair.target_probs(), torch.tensor(p))


def test_when_q_is_used_up_it_becomes_uniform_over_what_was_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, q = (0.2, 0.3, 0.4, 0.1), (1.0, 0.0, 0.0, 0.0)
    scored = scored_tree(WIDE, (0, 0, 1), [p, p, p], [q])
    verdict, _ = judge(monkeypatch, scored, [0.5, 0.9, 0.9])
    # the residual is p without token 0, renormalised; the fallback gives each other token 1/3
    assert verdict.attempts[2].accept_prob == pytest.approx(min(1.0, (0.3 / 0.8) / (1 / 3)))
    assert verdict.path == (0, 2)


@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("vocab_ids", [(1, 3), (3,), (0, 1, 2, 3)])
def test_a_bonus_follows_the_residual_inside_and_outside_the_drafts_columns(
    vocab_ids: tuple[int, ...], top_k: int
) -> None:
    p, q = (0.2, 0.3, 0.4, 0.1), [0.0] * len(vocab_ids)
    q[-1] = 1.0
    scored = scored_tree(GrowMap.chain(1), (0, vocab_ids[-1]), [p, p], [q], vocab_ids=vocab_ids)
    pair = ResidualPair(replace(scored, params=replace(SAMPLED, top_k=top_k)), 0)
    pair.reject(len(vocab_ids) - 1)
    residual, runs = pair.target_probs(), 1000
    assert float(residual.sum()) == pytest.approx(1.0)
    drawn = Counter(pair.draw((at + 0.5) / runs) for at in range(runs))
    for token, prob in enumerate(residual.tolist()):
        assert drawn[token] / runs == pytest.approx(prob, abs=2 / runs)


def test_the_fallback_of_a_trimmed_draft_stays_within_its_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, q = (0.2, 0.3, 0.4, 0.1), (1.0, 0.0)
    scored = scored_tree(WIDE, (0, 1, 3), [p, p, p], [q], vocab_ids=(1, 3))
    verdict, bonus = judge(monkeypatch, scored, [0.99, 0.9, 0.9])
    assert verdict.attempts[1].accept_prob == pytest.approx(0.3)
    assert verdict.attempts[2].accept_prob == pytest.approx(0.1 / 0.7)
    assert verdict.path == (0,)
    # p - q with q all on token 3 leaves tokens 0 and 2, in the ratio of p
    torch.testing.assert_close(bonus, torch.tensor([1 / 3, 0.0, 2 / 3, 0.0]))
    assert verdict.bonus_token == 2


DISTRIBUTION = st.lists(st.integers(0, 6), min_size=5, max_size=5).filter(any)


def plain_rule(
    p: Sequence[float],
    q: Sequence[float],
    tokens: Sequence[int],
    support: Sequence[int],
    uniforms: Sequence[float],
) -> tuple[int | None, list[float]]:
    """Algorithm 2 at one node: the accepted child, and p when it or none was accepted."""
    p, q, tried = list(p), list(q), set[int]()
    for child, token in enumerate(tokens):
        if q[token] > 0 and uniforms[child] < p[token] / q[token]:
            return child, p
        left = [max(a - b, 0.0) for a, b in zip(p, q, strict=True)]
        if math.fsum(left) > 1e-9:
            p = [each / math.fsum(left) for each in left]
        tried.add(token)
        q[token] = 0.0
        if math.fsum(q) > 0:
            q = [each / math.fsum(q) for each in q]
        else:
            untried = [each for each in support if each not in tried]
            q = [1 / len(untried) if each in untried else 0.0 for each in range(len(q))]
    return None, p


@given(
    target=DISTRIBUTION,
    draft=DISTRIBUTION,
    trimmed=st.booleans(),
    order=st.permutations(range(5)),
    uniforms=st.lists(st.integers(0, 96).map(lambda at: (at + 0.37) / 97), min_size=4, max_size=4),
)
@example(  # the fallback, twice: what was tried must not count among what is left
    target=[0, 1, 1, 6, 12],
    draft=[1, 0, 0, 0, 0],
    trimmed=False,
    order=[0, 1, 3, 2, 4],
    uniforms=[0.5, 0.9, 0.9, 0.45],
)
@settings(max_examples=300, deadline=None)
def test_the_rule_is_algorithm_2(
    target: list[int], draft: list[int], trimmed: bool, order: list[int], uniforms: list[float]
) -> None:
    support = [0, 1, 3, 4] if trimmed else [0, 1, 2, 3, 4]
    weights = [draft[token] if token in support else 0 for token in range(5)]
    weights = weights if any(weights) else [1 if token in support else 0 for token in range(5)]
    p = [each / sum(target) for each in target]
    q = [each / sum(weights) for each in weights]
    tokens = [token for token in order if token in support]
    tokens = sorted(tokens, key=lambda token: q[token] == 0)[:3]  # without mass only at the end
    growmap = GrowMap.k_ary([3])
    columns = [q[token] for token in support]
    scored = scored_tree(
        growmap, (0, *tokens), [p] * 4, [columns], vocab_ids=support if trimmed else None
    )
    with pytest.MonkeyPatch.context() as patch:
        verdict, bonus = judge(patch, scored, [0.5, *uniforms[1:]])
    expected, left = plain_rule(p, q, tokens, support, uniforms[1:])
    assert verdict.path == ((0,) if expected is None else (0, expected + 1))
    if expected is None:
        torch.testing.assert_close(bonus, torch.tensor(left), atol=1e-5, rtol=1e-4)
    assert torch.isfinite(bonus).all()


def test_the_walk_goes_down_and_stops_at_a_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root -> second child -> its only child, a leaf, after which the bonus is drawn from p."""
    growmap = GrowMap((-1, 0, 0, 2))
    sure = (0.0, 1.0, 0.0)
    last = (0.2, 0.3, 0.5)
    p = [sure, sure, sure, last]
    q = [(0.5, 0.4, 0.1), (0.1, 0.8, 0.1)]
    scored = scored_tree(growmap, (0, 0, 1, 1), p, q)
    verdict, bonus = judge(monkeypatch, scored, [0.1, 0.5, 0.5, 0.5])
    assert verdict.path == (0, 2, 3)
    assert list(verdict.attempts) == [1, 2, 3]
    torch.testing.assert_close(bonus, torch.tensor(last))
    assert verdict.bonus_token == 0
    names = [outcome.name for outcome in verdict.outcomes(growmap)]
    assert names == ["ACCEPTED", "REJECTED", "ACCEPTED", "ACCEPTED"]


@given(parents=st.lists(st.integers(0, 30), max_size=10), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_greedy_follows_the_argmax_as_far_as_the_tree_goes(parents: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    growmap = GrowMap((-1, *(parent % (at + 1) for at, parent in enumerate(parents))))
    tokens = torch.randint(3, (growmap.size,), generator=generator).tolist()
    p = torch.rand(growmap.size, 3, generator=generator).softmax(-1)
    inner = sum(1 for children in growmap.children if children)
    scored = scored_tree(growmap, tokens, p.tolist(), [[0.4, 0.3, 0.3]] * inner)
    verdict = verify.greedy(scored, torch.Generator())
    node, path = 0, [0]
    while True:
        wanted = int(p[node].argmax())
        match = [child for child in growmap.children[node] if tokens[child] == wanted]
        if not match:
            break
        node = match[0]
        path.append(node)
    assert verdict.path == tuple(path)
    assert verdict.bonus_token == wanted
    assert all(attempt.draw is None for attempt in verdict.attempts.values())


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("nodes", [SCORED_ROWS, SCORED_ROWS + 1, 3 * SCORED_ROWS])
def test_a_large_tree_is_scored_in_blocks(nodes: int, temperature: float) -> None:
    """Nodes whose parents lie in other blocks among them; whole distributions are not kept."""
    growmap = GrowMap((-1, *(at // 3 if at % 2 else at for at in range(nodes - 1))))
    generator = torch.Generator().manual_seed(nodes)
    logits = torch.randn(nodes, 40, generator=generator) * 3
    tokens = torch.randint(40, (nodes,), generator=generator)
    tree = TokenTree(
        growmap=growmap,
        nodes=DeviceNodes(tokens, tokens, torch.ones(nodes)),
        draft_probs=torch.empty((0, 0)),
        inner_rows={},
    )
    scored = score(tree, logits, SamplingParams(temperature))
    probs = torch.softmax(logits / (temperature or 1.0), -1)
    expected = [float(probs[growmap.parents[node], tokens[node]]) for node in range(1, nodes)]
    found = [scored.target_prob(node) for node in range(1, nodes)]
    assert found == pytest.approx(expected, rel=1e-5)
    assert scored.summary.argmax == logits.argmax(-1).tolist()
    assert scored.target_prob_of(nodes - 1, 5) == pytest.approx(float(probs[-1, 5]), rel=1e-5)
    if temperature:
        torch.testing.assert_close(scored.target_probs(7), probs[7])
