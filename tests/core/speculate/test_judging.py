"""All nodes judged at once decide as the walk does, at the same uniform numbers."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import NumberError
from sequoia_core.model.graphs import Graphs, Rung
from sequoia_core.speculate import grown_plan, judge_plan, judging, verify
from sequoia_core.speculate.appended_path import append_path, with_path
from sequoia_core.speculate.judge_plan import JUDGED_ROWS
from sequoia_core.speculate.judging import Judge, Judging
from sequoia_core.speculate.remainders import left_most_probable
from sequoia_core.speculate.residual import Remainder, Residual
from sequoia_core.speculate.sampling import (
    NUCLEUS_CANDIDATES,
    cut_probs,
    draft_probs,
    exponential_noise,
    full_probs,
    independent_draws,
    ordered_draws,
)
from sequoia_core.speculate.scored_tree import ScoredTree, Uniforms, score
from sequoia_core.speculate.token_tree import (
    DeviceNodes,
    FilledNodes,
    HostNodes,
    LookedUp,
    TokenTree,
)
from sequoia_core.speculate.verify import Verdict
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap
from tests.pretended_device import CUDA, pretended_device
from tests.tape_runner import TapeRunner

RULES = {Mode.SEQUOIA: verify.sequoia, Mode.SPECINFER: verify.specinfer, Mode.TOPK: verify.topk}
TREES = 1000
"""Of each rule. A draw within `TIE` of the threshold may be decided either way."""
TIE = 1e-5
LONG = torch.int64


def some_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.1, 0.5, 1.0]),
        top_p=rng.choice([1.0, 1.0, 0.9]),
        top_k=rng.choice([0, 0, 5]),
    )


def tree_shape(rng: random.Random, size: int) -> GrowMap:
    """Broad and deep places in one tree."""
    parents = (
        rng.randrange(at + 1) if rng.random() < 0.5 else max(0, at - rng.randrange(3))
        for at in range(size - 1)
    )
    return GrowMap((-1, *parents))


def logits_and_tree(rng: random.Random, mode: Mode, params: SamplingParams) -> ScoredTree:
    """Drafts that know the target well, badly or in part, whole or trimmed, perhaps with a path
    that was looked up.
    """
    shape, generator = tree_shape(rng, rng.randrange(1, 40)), torch.Generator()
    generator.manual_seed(rng.randrange(2**32))
    tokens = rng.choice([20, 40, 300])
    columns = tokens if rng.random() < 0.5 else tokens // 2
    shape = shape if shape.branching <= columns else GrowMap.k_ary([3, 2])
    peaked = rng.choice([0.5, 2.0, 5.0])
    logits = torch.randn(shape.size, tokens, generator=generator) * peaked
    if shape.size == 1:
        nodes = HostNodes((rng.randrange(tokens),), (0,), (1.0,))
        return score(TokenTree(ROOT, nodes, torch.empty((0, 0)), {}), logits, params)
    inner = [node for node in range(shape.size) if shape.children[node]]
    kept = torch.randperm(tokens, generator=generator)[:columns]
    noise = torch.randn(len(inner), columns, generator=generator) * rng.choice([0.0, 0.6, 3.0])
    probs, drawn = drawn_children(logits[inner][:, kept] + noise, shape, mode, params, rng)
    places, q = torch.zeros(shape.size, dtype=torch.int64), torch.ones(shape.size)
    for row, node in enumerate(inner):
        for rank, child in enumerate(shape.children[node]):
            places[child], q[child] = drawn[row, rank], probs[row, drawn[row, rank]]
    ids = kept[places]
    rows = {node: row for row, node in enumerate(inner)}
    tree = TokenTree(shape, DeviceNodes(ids, places, q), probs, rows, kept)
    if columns == tokens:
        order = kept.argsort()
        tree = replace(
            tree,
            nodes=DeviceNodes(ids, ids, q),
            draft_probs=probs[:, order],
            vocab_ids=None,
        )
    if rng.random() < 0.4:
        found = [rng.choice([int(rng.choice(ids)), rng.randrange(tokens)]) for _ in range(3)]
        tree = append_path(tree, found)
        more = torch.randn(tree.growmap.size - shape.size, tokens, generator=generator)
        logits = torch.cat((logits, more * peaked))
    return score(tree, logits, params)


def noise_of(probs: Tensor, generator: torch.Generator) -> Tensor:
    return exponential_noise(torch.rand(probs.shape, generator=generator, dtype=torch.float64))


def drawn_children(
    logits: Tensor, shape: GrowMap, mode: Mode, params: SamplingParams, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Distributions of inner nodes, often with zeros, and the columns drawn from them."""
    generator, count = torch.Generator().manual_seed(rng.randrange(2**32)), shape.branching
    if mode is Mode.TOPK:
        return full_probs(logits, 1.0), logits.topk(count, dim=-1).indices
    probs = draft_probs(logits, params)
    if rng.random() < 0.3:
        probs = torch.where(probs < probs.amax(-1, keepdim=True) / 2, 0.0, probs)
        probs = probs / probs.sum(-1, keepdim=True)
    if mode is Mode.SPECINFER:
        uniforms = torch.rand(len(probs), count, generator=generator, dtype=torch.float64)
        return probs, independent_draws(probs, uniforms)
    return probs, ordered_draws(probs, noise_of(probs, generator), count)


def with_rows_of_leaves(tree: TokenTree, rng: random.Random) -> TokenTree:
    """The same where the draft has read nodes as well below which nothing was drawn."""
    rows, drawn = dict(tree.inner_rows), tree.draft_probs
    leaves = [node for node in range(tree.growmap.size) if node not in rows]
    for node in rng.sample(leaves, min(len(leaves), rng.randrange(4)) if rows else 0):
        rows[node] = len(rows)
        drawn = torch.cat((drawn, torch.rand(1, drawn.shape[1]).softmax(-1)))
    return replace(tree, inner_rows=rows, draft_probs=drawn)


def filled_up(scored: ScoredTree, rng: random.Random, seed: int) -> ScoredTree:
    """The same as a tree whose shape is on the device only, with numbers that fill up sizes."""
    tree, nodes = with_rows_of_leaves(scored.tree, rng), scored.nodes
    size, more, rows = tree.growmap.size, rng.randrange(4), len(tree.draft_probs)
    filled = size + more
    read = sorted(tree.inner_rows, key=lambda node: tree.inner_rows[node])
    grown = FilledNodes(
        DeviceNodes(
            torch.tensor([*nodes.token_ids, *[0] * more]),
            torch.tensor([*nodes.columns, *[0] * more]),
            torch.tensor([*nodes.draft_prob, *[0.0] * more]),
        ),
        parents=torch.tensor([0, *tree.growmap.parents[1:], *range(size, filled)]),
        read=torch.tensor([*read, *([filled] * more if rows else ())], dtype=LONG),
        appended=torch.tensor([*sorted(tree.appended), *[filled] * more], dtype=LONG),
        most=tree.growmap.branching + rng.randrange(2),
        levels=tree.growmap.depth + rng.randrange(3),
    )
    probs = pad(tree.draft_probs, (0, 0, 0, len(grown.read) - rows))
    host = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ScoredTree(
        replace(tree, nodes=nodes, draft_probs=probs, grown=grown),
        torch.cat((scored.logits, torch.randn(more, scored.logits.shape[1]))),
        scored.params,
        None,
        Uniforms(host, torch.cat((host, torch.rand(more, dtype=torch.float64))), None),
    )


def with_looked_up(
    scored: ScoredTree, rng: random.Random
) -> tuple[ScoredTree, ScoredTree, Sequence[int]]:
    """A tree with a path that hangs where the host does not know, the same on the host, the path.

    Rows of tokens that were drawn as well say something else, and are not to be used.
    """
    tree, nodes, shape = scored.tree, scored.nodes, scored.tree.growmap
    size, tokens = shape.size, scored.logits.shape[1]
    drawn = shape.paths()[rng.randrange(size)][1:]
    path = [nodes.token_ids[node] for node in drawn if rng.random() < 0.95]
    path = [*path, *(rng.randrange(tokens) for _ in range(3))][: rng.randrange(1, 8)]
    more = len(path) + rng.randrange(4)
    looked_up = LookedUp(tuple(path), torch.tensor([*path, *[-1] * (more - len(path))]))
    there = DeviceNodes(*(torch.tensor(each) for each in nodes_of(nodes)))
    logits = torch.cat((scored.logits, torch.randn(more, tokens) * 3))
    host = torch.rand(size + more, dtype=torch.float64)
    given = Uniforms(host, host, None)
    device = replace(tree, nodes=there, grown=looked_up)
    merged, rows = with_path(tree, nodes, path)
    row_list, place, known_nodes = list(rows), 0, merged.on_host()
    for token in path:  # which the target often wants as well
        logits[row_list[place], token] += rng.choice([0.0, 5.0])
        below = merged.growmap.children[place]
        place = next(each for each in below if known_nodes.token_ids[each] == token)
    known = score(merged, logits[row_list], scored.params)
    known = replace(known, uniforms=Uniforms(host[row_list], host[row_list], None))
    return ScoredTree(device, logits, scored.params, None, given), known, path


def nodes_of(nodes: HostNodes) -> tuple[Sequence[float], ...]:
    return nodes.token_ids, nodes.columns, nodes.draft_prob


def verdicts(scored: ScoredTree, mode: Mode, seed: int) -> tuple[Verdict, Verdict]:
    """By the walk and at once, each from values that it has read itself."""
    walked = RULES[mode](scored, torch.Generator().manual_seed(seed))
    judged = Judge(mode)(replace(scored), torch.Generator().manual_seed(seed))
    return walked, judged


def check_same(walked: Verdict, judged: Verdict, scored: ScoredTree) -> bool:
    """Same path, bonus token and attempts; False where a draw was at the threshold."""
    attempts = walked.attempts.items()
    assert all(each.draw is not None for _, each in attempts)
    if any(abs((each.draw or 0.0) * each.q - each.p) < TIE * each.q for _, each in attempts):
        return False
    assert judged.path == walked.path
    assert judged.bonus_token == walked.bonus_token
    assert list(judged.attempts) == list(walked.attempts)
    for node, each in attempts:
        found = judged.attempts[node]
        assert found.draw == each.draw
        assert found.p == pytest.approx(each.p, rel=1e-4, abs=1e-5)
        assert found.q == pytest.approx(each.q, rel=1e-5)
        assert found.accept_prob == pytest.approx(each.accept_prob, rel=1e-4, abs=1e-5)
        assert (each.residual is None) == (found.residual is None)
    if judged.bonus_prob is not None:
        known = scored.target_prob_of(walked.path[-1], walked.bonus_token)
        assert judged.bonus_prob == pytest.approx(known, rel=1e-5)
    return True


def used_up(scored: ScoredTree, verdict: Verdict) -> bool:
    """Whether a child was compared that was drawn when nothing was left of q."""
    probs, nodes = scored.tree.draft_probs, scored.nodes
    return any(
        node not in scored.tree.appended and not nodes.draft_prob[node] > 0
        for node in verdict.attempts
        if len(probs)
    )


@pytest.mark.parametrize("mode", RULES)
def test_random_trees_are_judged_as_by_the_walk(mode: Mode) -> None:
    rng, seen = random.Random(7), Counter[str]()
    for seed in range(TREES):
        scored = logits_and_tree(rng, mode, some_params(rng))
        walked, judged = verdicts(scored, mode, seed)
        assert judged.bonus_prob is not None, "nothing was left to the walk"
        if not check_same(walked, judged, scored):
            seen["ties"] += 1
            continue
        tokens = [scored.nodes.token_ids[node] for node in walked.attempts]
        seen["attempts"] += len(tokens)
        seen["accepted"] += len(walked.path) - 1
        seen["twice"] += len(set(tokens)) < len(tokens)
        seen["appended"] += any(node in scored.tree.appended for node in walked.attempts)
        seen["trimmed"] += scored.tree.vocab_ids is not None
        seen["used up"] += used_up(scored, walked)
    assert seen["ties"] < TREES // 100
    assert min(seen["accepted"], seen["trimmed"]) > TREES // 4, seen
    assert seen["attempts"] - seen["accepted"] > TREES // 4, seen
    assert seen["appended"] > TREES // 20, seen
    assert mode is not Mode.SEQUOIA or seen["used up"] > TREES // 50, seen
    assert mode is not Mode.SPECINFER or seen["twice"] > TREES // 10, seen


@pytest.mark.parametrize("block", [JUDGED_ROWS, 3])
@pytest.mark.parametrize("mode", RULES)
def test_trees_of_any_shape_are_judged_as_by_the_walk(
    mode: Mode, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By index tensors that are computed of the parents."""
    monkeypatch.setattr(grown_plan, "JUDGED_ROWS", block)
    rng, seen = random.Random(17), Counter[str]()
    for seed in range(TREES // 2):
        scored = logits_and_tree(rng, mode, some_params(rng))
        walked = RULES[mode](scored, torch.Generator().manual_seed(seed))
        judged = Judge(mode)(filled_up(scored, rng, seed), torch.Generator())
        assert judged.bonus_prob is not None, "nothing was left to the walk"
        if check_same(walked, judged, scored):
            seen["rejected"] += len(walked.attempts) - len(walked.path) + 1
            seen["accepted"] += len(walked.path) - 1
            seen["appended"] += any(node in scored.tree.appended for node in walked.attempts)
    assert min(seen["accepted"], seen["rejected"]) > TREES // 8, seen
    assert seen["appended"] > TREES // 50, seen


@pytest.mark.parametrize("block", [JUDGED_ROWS, 3])
@pytest.mark.parametrize("mode", RULES)
def test_a_looked_up_path_is_judged_as_if_the_host_had_appended_it(
    mode: Mode, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grown_plan, "JUDGED_ROWS", block)
    grown_plan._path_plan.cache_clear()
    rng, seen = random.Random(18), Counter[str]()
    torch.manual_seed(18)
    for _ in range(TREES // 2):
        drawn = logits_and_tree(rng, mode, some_params(rng))
        if drawn.tree.appended:
            continue
        scored, known, path = with_looked_up(drawn, rng)
        walked = RULES[mode](known, torch.Generator())
        judged = Judge(mode)(scored, torch.Generator())
        assert judged.bonus_prob is not None, "nothing was left to the walk"
        assert scored.growmap == known.growmap
        assert scored.nodes == known.nodes
        assert scored.tree.appended == known.tree.appended
        assert scored.summary.argmax == known.summary.argmax
        assert scored.summary.log_probs[1:] == pytest.approx(known.summary.log_probs[1:], abs=1e-4)
        if check_same(walked, judged, known):
            appended = [node for node in walked.path if node in scored.tree.appended]
            seen["followed"] += len(appended)
            seen["below a drawn node"] += bool(appended and appended[0] != walked.path[1])
            added = scored.growmap.size - drawn.growmap.size
            seen["drawn as well"] += added < len(path)
    assert min(seen.values()) > TREES // 100, seen
    assert len(seen) == 3
    grown_plan._path_plan.cache_clear()


@pytest.mark.parametrize("mode", RULES)
def test_blocks_of_nodes_change_nothing(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block has fewer ranks than the one before, and none may have two children."""
    rng, blocks = random.Random(8), Counter[int]()
    monkeypatch.setattr(judge_plan, "JUDGED_ROWS", 3)
    judge_plan._plan_of.cache_clear()
    for seed in range(200):
        params = SamplingParams(temperature=0.7, top_p=rng.choice([1.0, 0.8]))
        scored = logits_and_tree(rng, mode, params)
        check_same(*verdicts(scored, mode, seed), scored)
        uniforms = torch.zeros(scored.growmap.size, dtype=torch.float64)
        blocks[len(Judging.of(scored, uniforms, mode).plan.blocks)] += 1
    judge_plan._plan_of.cache_clear()
    assert max(blocks) > 3


def test_a_nucleus_that_is_not_whole_is_left_to_the_walk() -> None:
    """Every fourth node has a tail so heavy that the candidates do not reach the mass."""
    generator, mode = torch.Generator().manual_seed(3), Mode.SEQUOIA
    growmap, tokens, left = GrowMap.k_ary([2, 2]), 4 * NUCLEUS_CANDIDATES, 0
    params = SamplingParams(temperature=1.0, top_p=0.9)
    rows = {0: 0, 1: 1, 2: 2}
    for seed in range(60):
        scale = torch.where(torch.rand(growmap.size, 1, generator=generator) < 0.25, 0.1, 4.0)
        logits = torch.randn(growmap.size, tokens, generator=generator) * scale
        probs = draft_probs(logits[:3], params)
        drawn = ordered_draws(probs, noise_of(probs, generator), 2)
        ids = torch.cat((torch.zeros(1, dtype=torch.int64), drawn.flatten()))
        q = torch.cat((torch.ones(1), probs.gather(1, drawn).flatten()))
        scored = score(TokenTree(growmap, DeviceNodes(ids, ids, q), probs, rows), logits, params)
        walked, judged = verdicts(scored, mode, seed)
        check_same(walked, judged, scored)
        narrow = all(float(scale[node]) > 1 for node in walked.path)
        assert (judged.bonus_prob is not None) == narrow
        left += judged.bonus_prob is None
    assert 10 < left < 50


@pytest.mark.parametrize("form", ["fixed", "filled up", "looked up"])
@pytest.mark.parametrize("mode", RULES)
def test_of_trees_of_any_shape_those_with_a_visited_nucleus_that_is_not_whole_are_left(
    mode: Mode, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked at of some nodes is too little, and no other node decides who judges."""
    few = 4
    monkeypatch.setattr(judging, "NUCLEUS_CANDIDATES", few)
    rng, seen = random.Random(19), Counter[str]()
    for seed in range(TREES // 4):
        params = SamplingParams(temperature=rng.choice([0.5, 1.0]), top_p=0.8)
        known = logits_and_tree(rng, mode, params)
        scored, generator = known, torch.Generator().manual_seed(seed)
        if form == "filled up":
            scored = filled_up(known, rng, seed)
        elif form == "looked up":
            if known.tree.appended:
                continue
            scored, known, _ = with_looked_up(known, rng)
        walked = RULES[mode](known, torch.Generator().manual_seed(seed))
        judged = Judge(mode)(replace(scored), generator)
        if not check_same(walked, judged, known):
            continue
        _, whole = cut_probs(known.logits, params, few)
        assert whole is not None
        narrow = bool(whole[list(walked.path)].all())
        assert (judged.bonus_prob is not None) == narrow
        seen["judged"] += narrow
        seen["left"] += not narrow
        seen["judged beside one that is not whole"] += narrow and not bool(whole.all())
    assert min(seen.values()) > TREES // 100, seen
    assert len(seen) == 3


@pytest.mark.parametrize("mode", RULES)
def test_residuals_are_made_again_from_their_numbers(mode: Mode) -> None:
    rng, compared = random.Random(9), 0
    for seed in range(150):
        params = SamplingParams(temperature=0.8, top_k=rng.choice([0, 6]))
        scored = logits_and_tree(rng, mode, params)
        walked, judged = verdicts(scored, mode, seed)
        if not check_same(walked, judged, scored):
            continue
        nodes = [node for node, each in judged.attempts.items() if each.residual is not None]
        found = [judged.attempts[node].residual for node in nodes]
        remainders = [each for each in found if isinstance(each, Remainder)]
        if not remainders:
            continue
        tokens, probs = left_most_probable(scored, remainders, 5)
        for at, node in enumerate(nodes):
            residual = walked.attempts[node].residual
            assert isinstance(residual, Residual)
            top = dict(residual.top())
            for token, prob in zip(tokens[at].tolist(), probs[at].tolist(), strict=True):
                if prob > 1e-3:
                    assert prob == pytest.approx(top[token], rel=1e-3, abs=1e-5)
                    compared += 1
    assert compared > 200


@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_recording_judges_trees_of_other_shapes(trimmed: bool, top_p: float) -> None:
    """At the same addresses, with nothing left of the trees before; what is stated, anywhere."""
    params, tokens, filled = SamplingParams(temperature=0.8, top_p=top_p), 30, 24
    rng, generator = random.Random(15), torch.Generator().manual_seed(15)
    kept = torch.randperm(tokens, generator=generator)[:16] if trimmed else torch.arange(tokens)
    runner = TapeRunner()
    graphs = Graphs(runner, torch.device("cpu"))
    logits, numbers = torch.zeros(filled, tokens), torch.zeros(filled, dtype=torch.float64)
    place = FilledNodes(
        DeviceNodes(*(torch.zeros(filled, dtype=d) for d in (LONG, LONG, torch.float32))),
        parents=torch.zeros(filled, dtype=LONG),
        read=torch.zeros(16, dtype=LONG),
        appended=torch.zeros(4, dtype=LONG),
        most=8,
        levels=16,
    )
    shapes = set()
    for step in range(40):
        shape = tree_shape(rng, rng.randrange(2, 20))
        shape = shape if shape.branching < 8 and shape.depth < 12 else GrowMap.k_ary([3, 2])
        logits.copy_(torch.randn(logits.shape, generator=generator) * 2)
        inner = [node for node in range(shape.size) if shape.children[node]]
        near = logits[inner][:, kept] + torch.randn((len(inner), len(kept)), generator=generator)
        probs, drawn = drawn_children(near, shape, Mode.SEQUOIA, params, rng)
        columns, q = [0] * shape.size, [1.0] * shape.size
        for row, node in enumerate(inner):
            for rank, child in enumerate(shape.children[node]):
                columns[child] = int(drawn[row, rank])
                q[child] = float(probs[row, columns[child]])
        nodes = HostNodes(tuple(kept[columns].tolist()), tuple(columns), tuple(q))
        rows = {node: row for row, node in enumerate(inner)}
        tree = TokenTree(shape, nodes, probs, rows, kept if trimmed else None)
        tree = append_path(tree, [rng.randrange(tokens) for _ in range(rng.randrange(4))])
        size, nodes = tree.growmap.size, tree.on_host()
        read = sorted(tree.inner_rows, key=lambda node: tree.inner_rows[node])
        for there, values in (
            *zip(place.nodes, nodes_of(nodes), strict=True),
            (place.parents, (0, *tree.growmap.parents[1:], *range(size, filled))),
            (place.read, (*read, *[filled] * (16 - len(read)))),
            (place.appended, (*sorted(tree.appended), *[filled] * (4 - len(tree.appended)))),
        ):
            there[: len(values)] = torch.tensor(values, dtype=there.dtype)
        host = torch.rand(size, generator=generator, dtype=torch.float64)
        numbers[:size] = host
        given = Uniforms(host, numbers, graphs)
        stated = pad(tree.draft_probs, (0, 0, 0, 16 - len(inner)))
        tree = replace(tree, grown=place)
        placed = ScoredTree(replace(tree, draft_probs=stated), logits, params, None, given)
        judged = Judge(Mode.SEQUOIA)(placed, torch.Generator())
        tree = replace(tree, grown=None)
        scored = score(tree, logits[:size], params)
        check_same(verify.walk(scored, host.tolist(), Mode.SEQUOIA), judged, scored)
        assert judged.bonus_prob is not None
        assert runner.replayed == step
        shapes.add(tree.growmap)
    assert len(shapes) > 20
    assert runner.recorded == 1
    assert graphs.rung is Rung.LOOPS


@pytest.mark.parametrize("mode", RULES)
@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_recording_judges_other_trees_of_its_shape(
    mode: Mode, trimmed: bool, top_p: float
) -> None:
    """At the same addresses, with nothing left of the trees before."""
    shape, tokens = GrowMap((-1, 0, 0, 0, 1, 1, 2, 4, 4, 7)), 30
    params = SamplingParams(temperature=0.8, top_p=top_p)
    rng, generator = random.Random(13), torch.Generator().manual_seed(13)
    inner = [node for node in range(shape.size) if shape.children[node]]
    kept = torch.randperm(tokens, generator=generator)[: tokens // 2 if trimmed else tokens]
    kept = kept if trimmed else torch.arange(tokens)
    runner = TapeRunner()
    graphs = Graphs(runner, torch.device("cpu"))
    logits, probs = torch.zeros(shape.size, tokens), torch.zeros(len(inner), len(kept))
    nodes = DeviceNodes(*(torch.zeros(shape.size, dtype=d) for d in (LONG, LONG, torch.float32)))
    numbers = torch.zeros(shape.size, dtype=torch.float64)
    rows = {node: row for row, node in enumerate(inner)}
    tree = TokenTree(shape, nodes, probs, rows, kept if trimmed else None)
    paths = set()
    for step in range(40):
        logits.copy_(torch.randn(logits.shape, generator=generator) * 2)
        near = logits[inner][:, kept] + torch.randn(probs.shape, generator=generator)
        found, drawn = drawn_children(near, shape, mode, params, rng)
        probs.copy_(found)
        for row, node in enumerate(inner):
            for rank, child in enumerate(shape.children[node]):
                nodes.columns[child] = drawn[row, rank]
                nodes.draft_prob[child] = found[row, drawn[row, rank]]
        nodes.token_ids.copy_(kept[nodes.columns])
        host = torch.rand(shape.size, generator=generator, dtype=torch.float64)
        numbers.copy_(host)
        given = Uniforms(host, numbers, graphs)
        judged = Judge(mode)(ScoredTree(tree, logits, params, None, given), torch.Generator())
        scored = score(tree, logits, params)
        check_same(verify.walk(scored, host.tolist(), mode), judged, scored)
        paths.add(judged.path)
        assert runner.replayed == step
    assert len(paths) > 2
    assert runner.recorded == 1
    assert graphs.rung is Rung.LOOPS


def test_a_recording_that_judges_otherwise_is_given_up() -> None:
    runner = TapeRunner(spoils=0.25)
    graphs = Graphs(runner, torch.device("cpu"))
    params, tokens = SamplingParams(temperature=0.8), torch.arange(1)
    logits, numbers = torch.randn(1, 9), torch.full((1,), 0.4, dtype=torch.float64)
    tree = TokenTree(
        ROOT, HostNodes((0,), (0,), (1.0,)), torch.empty((0, 0)), {}, device_ids=tokens
    )
    verdicts = [
        Judge(Mode.SEQUOIA)(
            ScoredTree(tree, logits, params, None, Uniforms(numbers, numbers, graphs)),
            torch.Generator(),
        )
        for _ in range(4)
    ]
    assert runner.replayed == 1
    assert graphs.rung is Rung.FORWARDS
    assert "judged" in graphs.notices[0]
    assert len({each.bonus_token for each in verdicts}) == 1


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches how large the tensors are that operators make."""

    most = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        assert func.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero")
        found = func(*args, **(kwargs or {}))
        made = [found] if isinstance(found, Tensor) else found
        self.most = max(self.most, *(each.numel() for each in made))
        return found


@pytest.mark.parametrize("mode", RULES)
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_large_tree_takes_blocks_of_memory(mode: Mode, top_p: float) -> None:
    """Of a tree of 400 nodes, no tensor has more than a block's rows of the vocabulary."""
    rng, tokens = random.Random(12), 6000
    shape, generator = tree_shape(rng, 400), torch.Generator().manual_seed(1)
    logits = torch.randn(shape.size, tokens, generator=generator)
    inner = [node for node in range(shape.size) if shape.children[node]]
    probs = torch.softmax(logits[inner], -1)
    ids = torch.arange(shape.size)  # no two are equal
    rows = {node: row for row, node in enumerate(inner)}
    parents = torch.tensor([rows[max(parent, 0)] for parent in shape.parents])
    tree = TokenTree(shape, DeviceNodes(ids, ids, probs[parents, ids]), probs, rows)
    scored = score(tree, logits, SamplingParams(temperature=1.0, top_p=top_p))
    uniforms = torch.rand(shape.size, generator=generator, dtype=torch.float64)
    judging = Judging.of(scored, uniforms, mode)
    assert len(judging.plan.blocks) > 1
    with Largest() as watched:  # type: ignore[no-untyped-call]
        judging.judged()
    assert shape.size**2 < JUDGED_ROWS * tokens
    assert watched.most <= JUDGED_ROWS * tokens < len(inner) * tokens


def on_device(scored: ScoredTree) -> ScoredTree:
    tree = scored.tree
    nodes = tree.nodes
    if isinstance(nodes, DeviceNodes):
        nodes = DeviceNodes(*(each.to(CUDA) for each in nodes))
    tree = replace(tree, nodes=nodes, draft_probs=tree.draft_probs.to(CUDA))
    return score(tree, scored.logits.to(CUDA), scored.params)


@pytest.mark.parametrize("mode", RULES)
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_tree_on_the_device_is_read_in_one_copy(mode: Mode, top_p: float) -> None:
    rng = random.Random(10)
    for seed in range(20):
        scored = logits_and_tree(rng, mode, SamplingParams(temperature=0.7, top_p=top_p))
        walked = RULES[mode](scored, torch.Generator().manual_seed(seed))
        with pretended_device() as traffic:
            there = on_device(scored)
            Judge(mode)(there, torch.Generator().manual_seed(seed))  # makes the plan
            there = on_device(scored)
            traffic.forget()
            judged = Judge(mode)(there, torch.Generator().manual_seed(seed))
            assert judged.bonus_prob is not None
            assert there.summary.argmax == scored.summary.argmax
            assert there.nodes == scored.nodes
            assert (traffic.to_host, traffic.to_device) == (1, 1)
        check_same(walked, judged, scored)


@pytest.mark.parametrize("mode", RULES)
def test_a_low_temperature_costs_no_precision_on_the_device(mode: Mode) -> None:
    """Logits over the temperature are in the thousands, where float32 has steps of 1e-4."""
    generator, temperature, apart = torch.Generator().manual_seed(14), 0.02, 0
    for _ in range(30):
        logits = 60 + torch.rand(2, 20, generator=generator) * 0.2
        exact = torch.softmax(logits.double() / temperature, -1)
        token = int(logits[0].argmax())
        ids = torch.tensor([0, token])
        q = torch.tensor([1.0, 0.9])
        probs = torch.full((1, 20), 0.1 / 19).index_fill_(1, ids[1:], 0.9)
        tree = TokenTree(GrowMap.chain(1), DeviceNodes(ids, ids, q), probs, {0: 0})
        scored = score(tree, logits, SamplingParams(temperature))
        apart += abs(scored.target_prob(1) / float(exact[0, token]) - 1) > 1e-5
        with pretended_device():
            there = on_device(scored)
            judged = Judge(mode)(there, torch.Generator().manual_seed(1))
        assert judged.attempts[1].p == pytest.approx(float(exact[0, token]), rel=1e-5)
        assert there.target_prob(1) == pytest.approx(float(exact[0, token]), rel=1e-5)
    assert apart > 5, "a total in float32 would do"


def test_a_logit_that_is_not_a_number_is_refused() -> None:
    scored = logits_and_tree(random.Random(11), Mode.SEQUOIA, SamplingParams(temperature=1.0))
    scored.logits.fill_(float("nan"))
    scored = score(scored.tree, scored.logits, scored.params)
    with pytest.raises(NumberError, match="number format"):
        Judge(Mode.SEQUOIA)(scored, torch.Generator().manual_seed(1))
