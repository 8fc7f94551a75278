"""Traversal verification emits the target's law exactly, and is block verification on a path.

By enumeration: every tree that could be drawn, with its probability, and of each tree every verdict
with its own. Emitted tokens are continued by the target, so that whole sequences are compared.
"""

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.step import Sampler
from sequoia_core.events import Outcome
from sequoia_core.speculate import verify
from sequoia_core.speculate.appended_path import append_path
from sequoia_core.speculate.residual import ResidualPair
from sequoia_core.speculate.sampling import shaped_probs
from sequoia_core.speculate.scored_tree import ScoredTree, score
from sequoia_core.speculate.token_tree import HostNodes, TokenTree
from sequoia_core.speculate.traversal import traverse
from sequoia_core.tree.growmap import GrowMap
from tests.core.speculate.test_lossless_sampling import ordered_tuples, replaced_tuples
from tests.core.speculate.test_verify import scored_tree

Tokens = tuple[int, ...]
Growth = Callable[[Sequence[int], Sequence[int]], Sequence[int]]
"""Parents and tokens of a tree so far -> how many children each node of its last level gets."""
ALMOST_ONE = 1.0 - 2.0**-53


class Models(NamedTuple):
    """Distributions by the tokens before: logits [V] and, over the draft's columns, q [W]."""

    vocab: int
    vocab_ids: Tokens | None
    logits: Callable[[Tokens], Tensor]
    q: Callable[[Tokens], Sequence[float]]
    params: SamplingParams = SamplingParams(temperature=1.0)

    def p(self, before: Tokens) -> list[float]:
        return shaped_probs(self.logits(before)[None], self.params)[0].double().tolist()


def random_models(
    seed: int,
    vocab: int = 3,
    vocab_ids: Tokens | None = None,
    *,
    zeros: bool = False,
    params: SamplingParams = SamplingParams(temperature=1.0),  # noqa: B008  # immutable
) -> Models:
    """With `zeros` the draft is often certain, so that its distribution is used up."""
    columns = vocab if vocab_ids is None else len(vocab_ids)

    def rng(before: Tokens, what: str) -> random.Random:
        return random.Random(f"{seed} {before} {what}")

    def logits(before: Tokens) -> Tensor:
        drawn = rng(before, "p")
        values = [drawn.gauss(0.0, 1.5) for _ in range(vocab)]
        if zeros and drawn.random() < 0.4:
            values[drawn.randrange(vocab)] = -1e30
        return torch.tensor(values)

    def q(before: Tokens) -> list[float]:
        drawn = rng(before, "q")
        weights = [drawn.expovariate(1.0) for _ in range(columns)]
        if zeros and drawn.random() < 0.6:
            kept = drawn.randrange(columns)
            weights = [float(at == kept) for at in range(columns)]
        return torch.tensor([each / sum(weights) for each in weights]).tolist()

    return Models(vocab, vocab_ids, logits, q, params)


def fixed(growmap: GrowMap) -> Growth:
    """Of a tree whose nodes are numbered level by level."""

    def grow(parents: Sequence[int], tokens: Sequence[int]) -> list[int]:
        level = last_level(parents)
        return [len(growmap.children[node]) for node in level]

    return grow


def last_level(parents: Sequence[int]) -> list[int]:
    depths = [0]
    for parent in parents[1:]:
        depths.append(depths[parent] + 1)
    return [node for node, depth in enumerate(depths) if depth == max(depths)]


def following(parents: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """A shape that depends on what was drawn everywhere above, other branches included."""
    level = last_level(parents)
    if len(level) == 1 and level[0] == 0:
        return [2]
    if len(parents) > 5:
        return [0] * len(level)
    total = sum(tokens[1:])
    return [(total + 2 * at + tokens[node]) % 3 for at, node in enumerate(level)]


def before(parents: Sequence[int], tokens: Sequence[int], node: int) -> Tokens:
    """Tokens from below the root to a node."""
    found: list[int] = []
    while node > 0:
        found.append(tokens[node])
        node = parents[node]
    return tuple(found[::-1])


def every_tree(
    models: Models, growth: Growth, law: Callable[..., list[tuple[Tokens, float]]] = ordered_tuples
) -> Iterator[tuple[TokenTree, float]]:
    """Every tree that can be drawn and its probability."""
    support = models.vocab_ids or tuple(range(models.vocab))

    def grown(
        parents: list[int], tokens: list[int], rows: list[int], probability: float
    ) -> Iterator[tuple[TokenTree, float]]:
        level = last_level(parents)
        counts = growth(parents, tokens)
        inner = [node for node, count in zip(level, counts, strict=True) if count]
        if not inner:
            yield made(parents, tokens, rows), probability
            return
        laws = []
        for node, count in zip(level, counts, strict=True):
            if count:
                q = models.q(before(parents, tokens, node))
                full = [0.0] * models.vocab
                for at, token in enumerate(support):
                    full[token] = q[at]
                laws.append(law(full, support, count))
        for draws in itertools.product(*laws):
            more = [node for node, (drawn, _) in zip(inner, draws, strict=True) for _ in drawn]
            yield from grown(
                [*parents, *more],
                [*tokens, *(token for drawn, _ in draws for token in drawn)],
                [*rows, *inner],
                probability * math.prod(each for _, each in draws),
            )

    def made(parents: list[int], tokens: list[int], rows: list[int]) -> TokenTree:
        q = {node: models.q(before(parents, tokens, node)) for node in rows}
        columns = [0, *(support.index(token) for token in tokens[1:])]
        probs = [q[parents[node]][columns[node]] for node in range(1, len(parents))]
        return TokenTree(
            GrowMap.numbered(tuple(parents), "enumerated"),
            HostNodes(tuple(tokens), tuple(columns), (1.0, *probs)),
            torch.tensor([q[node] for node in rows]),
            {node: row for row, node in enumerate(rows)},
            torch.tensor(models.vocab_ids) if models.vocab_ids else None,
        )

    yield from grown([-1], [0], [], 1.0)


def scored_by(models: Models, tree: TokenTree) -> ScoredTree:
    parents, tokens = tree.growmap.parents, tree.on_host().token_ids
    places = [before(parents, tokens, node) for node in range(len(parents))]
    return score(tree, torch.stack([models.logits(each) for each in places]), models.params)


class Run(NamedTuple):
    verdict: verify.Verdict
    left: list[float]  # what the bonus token is drawn from


def run(monkeypatch: pytest.MonkeyPatch, scored: ScoredTree, uniforms: Sequence[float]) -> Run:
    drawn: list[list[float]] = []

    def spy(left: Tensor | ResidualPair, uniform: float) -> int:
        found = left if isinstance(left, Tensor) else left.target_probs()
        drawn.append(found.double().tolist())
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", lambda *_, **__: torch.tensor(uniforms, dtype=torch.float64))
        patch.setattr(verify, "_bonus", spy)
        verdict = traverse(scored, torch.Generator())
    (left,) = drawn
    return Run(verdict, left)


def every_verdict(
    monkeypatch: pytest.MonkeyPatch, scored: ScoredTree
) -> Iterator[tuple[Run, float]]:
    """Each node at which the accepted sequence can end, and the probability that it does."""
    uniforms = [ALMOST_ONE] * scored.growmap.size
    probability, rejected = 1.0, [*uniforms]
    while True:
        last = run(monkeypatch, scored, rejected)
        # the first node that is not made to be rejected yet, in the order of the tests
        fresh = next((at for at in last.verdict.attempts if rejected[at] == ALMOST_ONE), None)
        if fresh is None:
            yield last, probability
            return
        accept_prob = last.verdict.attempts[fresh].accept_prob
        accepted = [*rejected]
        accepted[fresh] = 0.0
        if accept_prob > 0:
            found = run(monkeypatch, scored, accepted)
            assert found.verdict.path[-1] == fresh
            yield found, probability * accept_prob
        rejected[fresh] = 1.0
        probability *= 1.0 - accept_prob


def emitted_law(
    monkeypatch: pytest.MonkeyPatch,
    models: Models,
    growth: Growth,
    appended: Tokens = (),
    law: Callable[..., list[tuple[Tokens, float]]] = ordered_tuples,
    longest: int = 4,
) -> tuple[dict[Tokens, float], float, float]:
    """Of sequences as long as the longest possible emission; the sum; mean accepted tokens."""
    found, accepted, whole = defaultdict[Tokens, float](float), 0.0, 0.0
    for tree, drawn in every_tree(models, growth, law):
        scored = scored_by(models, append_path(tree, appended))
        tokens = scored.nodes.token_ids
        for (verdict, left), judged in every_verdict(monkeypatch, scored):
            reach = drawn * judged
            whole += reach
            accepted += reach * (len(verdict.path) - 1)
            kept = tuple(tokens[node] for node in verdict.path[1:])
            for bonus, share in enumerate(left):
                if share > 0:
                    continued(models, found, (*kept, bonus), reach * share, longest)
    return dict(found), whole, accepted


def continued(
    models: Models, found: dict[Tokens, float], tokens: Tokens, reach: float, longest: int
) -> None:
    if len(tokens) == longest:
        found[tokens] += reach
        return
    for token, prob in enumerate(models.p(tokens)):
        if prob > 0:
            continued(models, found, (*tokens, token), reach * prob, longest)


def target_law(models: Models, longest: int) -> dict[Tokens, float]:
    found = defaultdict[Tokens, float](float)
    continued(models, found, (), 1.0, longest)
    return dict(found)


def deviation(one: Mapping[Tokens, float], other: Mapping[Tokens, float]) -> float:
    return max(abs(one.get(key, 0.0) - other.get(key, 0.0)) for key in {*one, *other})


CUT = SamplingParams(temperature=0.8, top_p=0.75)
FEW = SamplingParams(temperature=1.0, top_k=2)
MODELS: dict[str, Callable[[int], Models]] = {
    "plain": random_models,
    "used up": lambda seed: random_models(seed, zeros=True),
    "trimmed": lambda seed: random_models(seed, 4, (0, 2, 3)),
    "trimmed and certain": lambda seed: random_models(seed, 4, (0, 3), zeros=True),
    "top-p": lambda seed: random_models(seed, params=CUT),
    "top-k, trimmed": lambda seed: random_models(seed, 4, (1, 3), params=FEW),
}
GROWTHS: dict[str, Growth] = {
    "chain": fixed(GrowMap.chain(3)),
    "star": fixed(GrowMap.k_ary([2])),
    "tree": fixed(GrowMap((-1, 0, 0, 1, 1, 2))),
    "deep and broad": fixed(GrowMap((-1, 0, 0, 1, 2, 2, 3))),
    "following": following,
}


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("models", MODELS)
def test_what_is_emitted_is_the_targets_law_by_enumeration(
    monkeypatch: pytest.MonkeyPatch, models: str, growth: str
) -> None:
    made = MODELS[models](3)
    if "certain" in models and growth != "chain":
        made = MODELS[models](5)
    law, whole, _ = emitted_law(monkeypatch, made, GROWTHS[growth])
    assert whole == pytest.approx(1.0, abs=1e-6)
    assert deviation(law, target_law(made, 4)) < 3e-6


@pytest.mark.parametrize(
    ("growth", "models", "tokens"),
    [
        *itertools.product(
            ("star", "tree"), ("plain", "trimmed", "top-p"), ((0,), (1, 2), (2, 0, 1))
        ),
        ("following", "plain", (2, 0, 1)),
    ],
)
def test_looked_up_nodes_leave_it_so(
    monkeypatch: pytest.MonkeyPatch, models: str, growth: str, tokens: Tokens
) -> None:
    made = MODELS[models](7)
    law, whole, _ = emitted_law(monkeypatch, made, GROWTHS[growth], tokens, longest=5)
    assert whole == pytest.approx(1.0, abs=1e-6)
    assert deviation(law, target_law(made, 5)) < 3e-6


def test_children_drawn_otherwise_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MODELS["plain"](3)
    law, _, _ = emitted_law(monkeypatch, made, GROWTHS["tree"], law=replaced_tuples)
    assert deviation(law, target_law(made, 4)) > 1e-3


def test_a_shape_that_knows_what_will_be_drawn_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the proof asks of a growth is not for show: here the tree is cut after the draw."""
    made = MODELS["plain"](3)
    found = defaultdict[Tokens, float](float)
    for drawn, probability in every_tree(made, GROWTHS["chain"]):
        cut = drawn.on_host().token_ids[3] == 0
        tree = drawn if not cut else _without_last(drawn)
        scored = scored_by(made, tree)
        for (verdict, left), judged in every_verdict(monkeypatch, scored):
            kept = tuple(scored.nodes.token_ids[node] for node in verdict.path[1:])
            for bonus, share in enumerate(left):
                continued(made, found, (*kept, bonus), probability * judged * share, 4)
    assert deviation(found, target_law(made, 4)) > 1e-3


def _without_last(tree: TokenTree) -> TokenTree:
    nodes, size = tree.on_host(), tree.growmap.size - 1
    rest = HostNodes(nodes.token_ids[:size], nodes.columns[:size], nodes.draft_prob[:size])
    return TokenTree(GrowMap.chain(size - 1), rest, tree.draft_probs, dict(tree.inner_rows))


def block_verification(
    p: Sequence[Sequence[float]], q: Sequence[Sequence[float]], tokens: Sequence[int]
) -> tuple[list[float], list[list[float]]]:
    """Sun et al., Algorithm 2: how likely each length passes its test, and what follows it."""
    reach, passes, follow = 1.0, [1.0], []
    for at, token in enumerate(tokens):
        over = [max(reach * a - b, 0.0) for a, b in zip(p[at], q[at], strict=True)]
        mass = math.fsum(over)
        if at:
            passes.append(mass / (mass + 1.0 - reach) if mass + 1.0 - reach > 0 else 1.0)
        follow.append([each / mass for each in over] if mass > 0 else list(p[at]))
        reach = min(1.0, reach * p[at][token] / q[at][token])
    return [*passes, reach], [*follow, list(p[len(tokens)])]


@pytest.mark.parametrize("seed", range(20))
def test_on_a_path_it_is_block_verification(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    models, length = random_models(seed, 5), 1 + seed % 4
    for tree, _ in itertools.islice(every_tree(models, fixed(GrowMap.chain(length))), 0, None, 17):
        scored = scored_by(models, tree)
        tokens = scored.nodes.token_ids[1:]
        places = [tokens[:at] for at in range(length + 1)]
        p, q = [*map(models.p, places)], [*map(models.q, places[:-1])]
        passes, follow = block_verification(p, q, tokens)
        for end in range(length + 1):
            uniforms = [0.0] * (end + 1) + [1.0] * (length - end)
            verdict, left = run(monkeypatch, scored, uniforms)
            if passes[end] > 0:
                assert verdict.path == tuple(range(end + 1))
                assert left == pytest.approx(follow[end], abs=2e-5)
            assert verdict.path[-1] <= end
        rejected, _ = run(monkeypatch, scored, [1.0] * (length + 1))
        attempts = rejected.attempts
        assert list(attempts) == list(range(length, min(attempts) - 1, -1))
        for node, attempt in attempts.items():
            assert attempt.accept_prob == pytest.approx(passes[node], abs=1e-5)


def independent(p: Sequence[float], q: Sequence[float]) -> Models:
    return Models(len(p), None, lambda _: torch.tensor(p).log(), lambda _: list(q))


def token_by_token(models: Models, length: int) -> float:
    """Mean accepted tokens of Leviathan's rule on a path."""

    def after(tokens: Tokens) -> float:
        if len(tokens) == length:
            return 0.0
        both = zip(models.p(tokens), models.q(tokens), strict=True)
        return sum(min(a, b) * (1.0 + after((*tokens, token))) for token, (a, b) in enumerate(both))

    return after(())


def test_it_accepts_what_the_paper_of_block_verification_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its motivating example: 11/9 tokens of two, where one by one they are 10/9."""
    models = independent((1 / 3, 2 / 3), (2 / 3, 1 / 3))
    _, _, accepted = emitted_law(monkeypatch, models, fixed(GrowMap.chain(2)), longest=3)
    assert accepted == pytest.approx(11 / 9, abs=1e-6)
    assert token_by_token(models, 2) == pytest.approx(10 / 9, abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_on_a_path_it_never_accepts_fewer_than_one_by_one(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    models = random_models(seed, zeros=seed % 2 == 1)
    _, _, accepted = emitted_law(monkeypatch, models, GROWTHS["chain"])
    assert accepted > token_by_token(models, 3) - 1e-6


def random_case(rng: random.Random, *, sharp: bool) -> ScoredTree:
    """A tree of up to 12 nodes; with `sharp` p is 1 for a single token."""
    parents = (-1, *sorted(rng.randrange(at + 1) for at in range(rng.randrange(1, 12))))
    growmap = GrowMap.numbered(parents, "random")
    inner = [node for node in range(growmap.size) if growmap.children[node]]
    vocab = max(8, growmap.branching)
    tokens, q = [0] * growmap.size, []
    for node in inner:
        weights = [rng.expovariate(1.0) for _ in range(vocab)]
        q.append([each / sum(weights) for each in weights])
        drawn = rng.sample(range(vocab), len(growmap.children[node]))
        for child, token in zip(growmap.children[node], drawn, strict=True):
            tokens[child] = token
    p = []
    for node in range(growmap.size):
        best = rng.choice([*(tokens[child] for child in growmap.children[node]), rng.randrange(8)])
        weights = [rng.expovariate(1.0) for _ in range(vocab)]
        p.append(
            [float(at == best) for at in range(vocab)]
            if sharp
            else [each / sum(weights) for each in weights]
        )
    return scored_tree(growmap, tokens, p, q)


def test_where_the_target_is_certain_it_is_the_greedy_rule() -> None:
    rng = random.Random(1)
    for seed in range(200):
        scored = random_case(rng, sharp=True)
        greedy = verify.greedy(scored, torch.Generator())
        found = traverse(scored, torch.Generator().manual_seed(seed))
        assert (found.path, found.bonus_token) == (greedy.path, greedy.bonus_token)


def test_random_trees_are_visited_in_order_and_the_verdict_is_consistent() -> None:
    rng, ends = random.Random(2), set[int]()
    for seed in range(300):
        scored = random_case(rng, sharp=False)
        growmap = scored.growmap
        verdict = traverse(scored, torch.Generator().manual_seed(seed))
        assert verdict.path[0] == 0
        assert all(
            growmap.parents[node] == parent for parent, node in itertools.pairwise(verdict.path)
        )
        order = [node for node in _children_first(growmap) if node in verdict.attempts]
        assert [*verdict.attempts] == order
        for node, attempt in verdict.attempts.items():
            assert attempt.draw is not None
            assert attempt.above is not None
            assert (attempt.draw < attempt.accept_prob) == (node == verdict.path[-1])
            first = attempt.above * attempt.p / attempt.q
            assert attempt.accept_prob <= min(1.0, first) + 1e-6  # rejections make it fall
            if not growmap.children[node]:
                assert attempt.accept_prob == pytest.approx(min(1.0, first))
            assert (attempt.residual is None) == (node == verdict.path[-1])
        outcomes = verdict.outcomes(growmap)
        assert all(outcomes[node] is Outcome.ACCEPTED for node in verdict.path)
        end = verdict.path[-1]
        assert all(outcomes[child] is Outcome.REJECTED for child in growmap.children[end])
        ends.add(len(verdict.path))
    assert len(ends) > 3


def _children_first(growmap: GrowMap, node: int = 0) -> list[int]:
    below = [at for child in growmap.children[node] for at in _children_first(growmap, child)]
    return [*below, node]


def test_the_mode_has_its_rule_and_temperature_0_is_greedy() -> None:
    cpu = torch.device("cpu")
    assert Sampler.of(SamplingParams(0.6, seed=1), cpu, Mode.TRAVERSE).rule is traverse
    assert Sampler.of(SamplingParams(0.0), cpu, Mode.TRAVERSE).rule is verify.greedy
