"""Whole answers on a device that is pretended: the tokens are the CPU's, and no more copies, masks
and forwards are asked for than a step needs. See `tests.pretended_device`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Generic, TypeVar

import pytest
import torch
from torch import Tensor

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode import step
from sequoia_core.decode.step import Speculator
from sequoia_core.events import PrefillDone, Step
from sequoia_core.model.attention import AttentionChoice
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.graphs import Graphs, Runner
from sequoia_core.model.kv_cache import CUDA_BUCKET
from sequoia_core.model.llama import Llama
from sequoia_core.model.recorded import CHECKED, record_forwards
from sequoia_core.model.tensor_names import expected_shapes
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.judging import Judging, rule_of
from sequoia_core.speculate.prompt_lookup import PromptLookup
from sequoia_core.speculate.scored_tree import ScoredTree, score
from sequoia_core.speculate.traversal import traverse
from sequoia_core.speculate.verify import Verdict
from sequoia_core.tree.choice import DynamicTree, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import any_path, make_engine
from tests.core.models import random_weights, tiny_config
from tests.pretended_device import CUDA, HOST, MixedDevicesError, Traffic, pretended_device
from tests.tape_runner import TapeRecording, TapeRunner

T = TypeVar("T")

TREE = GrowMap.k_ary([2, 2])
PROMPT = (1, 2, 3, 4, 5, 1, 2, 3)
LENGTH = 8
KEPT = range(0, 60, 2)
FEATURES = (0, 1)
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=LENGTH)
SAMPLED = SamplingParams(temperature=0.8, seed=1, max_new_tokens=LENGTH)
NUCLEUS = SamplingParams(temperature=0.8, top_p=0.7, seed=1, max_new_tokens=LENGTH)
FIXED = TreeChoice(Mode.SEQUOIA, TREE)
CHOICES = {
    "plain": TreeChoice(Mode.AR),
    "tree": FIXED,
    "large tree": TreeChoice(Mode.SEQUOIA, GrowMap.k_ary([4, 4, 4])),
    "chain": TreeChoice(Mode.CHAIN, GrowMap.chain(3)),
    "adaptive": TreeChoice(adaptive=True, lookup=Lookup.ON),
    "dynamic": TreeChoice(Mode.TOPK, dynamic=DynamicTree(12, 3, 3)),
    "large dynamic": TreeChoice(Mode.TOPK, dynamic=DynamicTree(150, 3, 30)),
    "look-up": TreeChoice(Mode.SEQUOIA, TREE, lookup=Lookup.ON),
    "topk": TreeChoice(Mode.TOPK, TREE),
    "specinfer": TreeChoice(Mode.SPECINFER, TREE),
    "traverse": TreeChoice(Mode.TRAVERSE, TREE, lookup=Lookup.ON),
}


class NumberCodec:
    """Token 7 reads `7 `."""

    def decode(self, token_ids: Any) -> str:
        return "".join(map(self.token_text, token_ids))

    def token_text(self, token_id: int) -> str:
        return f"{token_id} "


@dataclass(frozen=True, slots=True)
class Counted:
    """A step, and what the device was asked for during it."""

    step: Step
    to_device: int
    to_host: int
    operators: int


def models(kind: str, device: torch.device) -> tuple[Llama, DraftModel]:
    """A target, and a draft that is whole, trimmed, or conditioned on the target."""
    config = tiny_config(context_window=1024)
    features = FEATURES if kind == "conditioned" else ()
    target = Llama(
        config, random_weights(config, 0), device, torch.float32, feature_layers=features
    )
    columns = len(KEPT) if kind == "trimmed" else 61
    small = tiny_config(
        context_window=1024, num_layers=1, head_vocab_size=columns, feature_layers=features
    )
    weights = random_weights(small, 1)
    if kind != "conditioned":
        draft = Llama(small, weights, device, torch.float32)
        ids = torch.tensor(list(KEPT), device=device) if kind == "trimmed" else None
        return target, DraftModel(draft, ids)
    return target, DraftModel(ConditionedLlama(small, weights, device, torch.float32))


def decoded(
    choice: TreeChoice,
    params: SamplingParams,
    traffic: Traffic | None = None,
    kind: str = "whole",
    insight: bool = False,
    runner: Runner | None = None,
) -> list[Counted]:
    """The steps of an answer, on the pretended device where its traffic is given.

    A runner records the forwards.
    """
    target, draft = models(kind, HOST if traffic is None else CUDA)
    if runner is not None:
        assert isinstance(draft.model, Llama)
        record_forwards(Graphs(runner, CUDA), target, draft.model)
    engine = make_engine(target, None if kind == "none" else draft, codec=NumberCodec())
    engine.tree_choice, engine.insight = choice, insight
    traffic = traffic or Traffic()
    counted = []
    for event in engine.generate(PROMPT, params):
        if isinstance(event, Step):
            operators = sum(traffic.operators.values())
            counted.append(Counted(event, traffic.to_device, traffic.to_host, operators))
        if isinstance(event, Step | PrefillDone):
            traffic.forget()
    return counted


class OneLaunch:
    """Records with another runner; a replay counts as one operator, with the copies inside."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic, self._runner = traffic, TapeRunner()

    def record(self, work: Callable[[], T]) -> "Launched[T]":
        return Launched(self._traffic, self._runner.record(work))

    def free(self) -> int:
        return self._runner.free()


class Launched(Generic[T]):
    def __init__(self, traffic: Traffic, recording: TapeRecording[T]) -> None:
        self._traffic, self._recording = traffic, recording
        self.outputs, self.nbytes = recording.outputs, recording.nbytes

    def replay(self) -> T:
        before = Counter(self._traffic.operators)
        found = self._recording.replay()
        self._traffic.operators.clear()
        self._traffic.operators.update(before + Counter({"replay": 1}))
        return found


def tokens_of(counted: list[Counted]) -> list[int]:
    return [token for each in counted for token in each.step.token_ids]


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    with pretended_device() as seen:
        yield seen


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is looked up for every step, of any length."""
    monkeypatch.setattr(PromptLookup, "propose", any_path)


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "whole") for name in CHOICES), ("tree", "trimmed"), ("tree", "conditioned")],
)
def test_a_greedy_answer_is_the_cpus(name: str, kind: str) -> None:
    expected = tokens_of(decoded(CHOICES[name], GREEDY, kind=kind))
    with pretended_device() as seen:
        found = decoded(CHOICES[name], GREEDY, seen, kind)
    assert tokens_of(found) == expected
    assert all(each.operators > 0 for each in found)


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize("name", CHOICES)
def test_no_sampled_answer_mixes_devices(name: str, traffic: Traffic) -> None:
    """Not where everything is on: a cut distribution, a trimmed draft, reports of the steps."""
    params = SamplingParams(0.8, top_p=0.9, top_k=20, seed=1, max_new_tokens=LENGTH)
    found = decoded(CHOICES[name], params, traffic, "trimmed", insight=True)
    assert len(tokens_of(found)) == LENGTH
    assert all(each.step.insight is not None for each in found)


@pytest.mark.parametrize("recorded", [False, True], ids=["eager", "recorded"])
@pytest.mark.parametrize("kind", ["whole", "trimmed", "conditioned"])
@pytest.mark.parametrize("name", ["plain", "tree", "chain"])
def test_a_greedy_step_takes_one_copy_each_way(
    name: str, kind: str, recorded: bool, traffic: Traffic
) -> None:
    """Up go the pending tokens and the rows that were kept of both caches, back the tree's values.

    The first steps make recordings and compare them with forwards without.
    """
    runner = TapeRunner() if recorded else None
    steps = decoded(CHOICES[name], replace(GREEDY, max_new_tokens=24), traffic, kind, runner=runner)
    late = steps[3 * CHECKED if recorded else 1 :]
    assert len(late) > 1
    assert {(each.to_device, each.to_host) for each in late} == {(1, 1)}


@pytest.mark.parametrize("kind", ["whole", "trimmed", "conditioned"])
@pytest.mark.parametrize("name", ["tree", "large tree", "chain"])
def test_a_recorded_step_is_a_few_launches_between_two_copies(
    name: str, kind: str, traffic: Traffic
) -> None:
    """Of any tree and any model: noise for each level, and the replays.

    In half of the steps at least: the others make recordings and compare them.
    """
    params = replace(SAMPLED, max_new_tokens=30)
    steps = decoded(CHOICES[name], params, traffic, kind, runner=OneLaunch(traffic))
    usual = sorted(steps, key=lambda each: each.operators)[: len(steps) // 2]
    assert len(usual) > 3
    for each in usual:
        assert (each.to_device, each.to_host) == (1, 1)
        assert each.operators <= 45


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, NUCLEUS], ids=["greedy", "sampled", "top-p"])
@pytest.mark.parametrize("name", ["tree", "topk", "specinfer"])
def test_the_report_of_a_step_waits_once_more(
    name: str, params: SamplingParams, traffic: Traffic
) -> None:
    trials = 0
    for each in decoded(CHOICES[name], params, traffic, "trimmed", insight=True)[1:]:
        assert each.to_host == 2
        assert each.step.insight is not None
        trials += sum(trial.residual is not None for trial in each.step.insight.trials)
    assert trials > 0 or params is GREEDY


@pytest.mark.parametrize("params", [SAMPLED, NUCLEUS], ids=["sampled", "top-p"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "whole") for name in ("plain", "tree", "chain", "topk", "specinfer")),
        *((name, "trimmed") for name in ("tree", "topk", "specinfer")),
        ("tree", "conditioned"),
    ],
)
def test_a_sampled_step_waits_once(
    name: str, kind: str, params: SamplingParams, traffic: Traffic
) -> None:
    """For the tree's values and the verdict; uniform numbers go up with what else does."""
    for each in decoded(CHOICES[name], params, traffic, kind)[1:]:
        assert (each.to_device, each.to_host) == (1, 1)


@pytest.mark.parametrize("params", [SAMPLED, NUCLEUS], ids=["sampled", "top-p"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("plain", "whole"), ("tree", "whole"), ("topk", "whole"), ("tree", "trimmed")],
)
def test_a_sampled_answer_is_the_same_by_recordings(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    params: SamplingParams,
    traffic: Traffic,
) -> None:
    """Of drafting, forwards and verdicts, whose replays are nearly all that a step launches."""
    params, runner, real = replace(params, max_new_tokens=24), OneLaunch(traffic), Judging.packed
    expected = decoded(CHOICES[name], params, traffic, kind)
    computed: list[Judging] = []

    def packed(judging: Judging) -> Any:
        computed.append(judging)
        return real(judging)

    monkeypatch.setattr(Judging, "packed", packed)
    found = decoded(CHOICES[name], params, traffic, kind, runner=runner)
    assert tokens_of(found) == tokens_of(expected)
    assert [each.step.path for each in found] == [each.step.path for each in expected]
    once_eager, recording = 1, 2
    assert len(computed) == once_eager + recording + CHECKED
    late = found[3 * CHECKED :]
    assert {(each.to_device, each.to_host) for each in late} == {(1, 1)}
    # a path of another length may record how its rows are moved
    assert median(each.operators for each in late) <= 16


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize("params", [SAMPLED, NUCLEUS], ids=["sampled", "top-p"])
@pytest.mark.parametrize("kind", ["whole", "trimmed"])
@pytest.mark.parametrize(
    "name",
    ["plain", "tree", "look-up", "adaptive", "dynamic", "large dynamic", "topk", "specinfer"],
)
def test_an_answer_is_that_of_the_walk(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: str, params: SamplingParams
) -> None:
    params = replace(params, max_new_tokens=3 * LENGTH)
    with pretended_device() as seen:
        judged = decoded(CHOICES[name], params, seen, kind)
        monkeypatch.setattr(step, "rule_of", lambda mode, _device: rule_of(mode, HOST))
        walked = decoded(CHOICES[name], params, seen, kind)
    assert tokens_of(judged) == tokens_of(walked)
    assert [each.step.path for each in judged] == [each.step.path for each in walked]
    copies = [sum(each.to_host for each in found) for found in (judged, walked)]
    assert copies[0] < copies[1]


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize("params", [SAMPLED, NUCLEUS], ids=["sampled", "top-p"])
@pytest.mark.parametrize("kind", ["whole", "trimmed"])
def test_traversal_reads_what_it_visits_and_decides_as_on_the_host(
    monkeypatch: pytest.MonkeyPatch, kind: str, params: SamplingParams, traffic: Traffic
) -> None:
    seen = list[tuple[Verdict, Verdict, int]]()

    def both(scored: ScoredTree, generator: torch.Generator) -> Verdict:
        state, before = generator.get_state(), traffic.to_host
        there = traverse(scored, generator)
        copies = traffic.to_host - before
        tree = replace(scored.tree, nodes=scored.nodes, draft_probs=scored.tree.draft_probs.cpu())
        rows = list(scored.rows)
        on_host = score(tree, scored.logits.cpu()[rows], params)
        if (given := scored.uniforms) is not None:
            on_host = replace(on_host, uniforms=given._replace(host=given.host[rows]))
        generator.set_state(state)
        seen.append((there, traverse(on_host, generator), copies))
        return there

    monkeypatch.setattr(step, "rule_of", lambda _mode, _device: both)
    decoded(CHOICES["traverse"], replace(params, max_new_tokens=3 * LENGTH), traffic, kind)
    assert max(len(there.path) for there, _, _ in seen) > 1
    for there, here, _ in seen:
        assert (there.path, there.bonus_token) == (here.path, here.bonus_token)
        assert [*there.attempts] == [*here.attempts]
    assert max(copies for _, _, copies in seen) > 1


def test_memory_that_ends_in_judging_is_tried_again_with_a_smaller_tree(
    monkeypatch: pytest.MonkeyPatch, traffic: Traffic
) -> None:
    """How much it takes follows from the tree's shape, not from what was drawn."""
    real = Judging.judged

    def judged(judging: Judging) -> tuple[Tensor, ...]:
        if judging.scored.growmap.size > 3:
            raise torch.OutOfMemoryError
        return real(judging)

    monkeypatch.setattr(Judging, "judged", judged)
    found = decoded(CHOICES["tree"], SAMPLED, traffic)
    assert len(tokens_of(found)) == LENGTH
    assert {len(each.step.nodes) for each in found} == {3}


LONG = replace(SAMPLED, max_new_tokens=48)
EACH_WAY = [
    ("whole", replace(GREEDY, max_new_tokens=48)),
    ("whole", LONG),
    ("trimmed", LONG),
    ("trimmed", replace(LONG, top_p=0.7)),
    ("conditioned", replace(LONG, top_k=5)),
]
"""Drafts and parameters."""


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize("recorded", [False, True], ids=["eager", "recorded"])
@pytest.mark.parametrize(("kind", "params"), [*EACH_WAY, ("none", LONG)])
def test_a_step_with_looked_up_tokens_takes_one_copy_each_way(
    kind: str, params: SamplingParams, recorded: bool, traffic: Traffic
) -> None:
    """Where they hang, which depends on what was drawn, is found out on the device."""
    runner = TapeRunner() if recorded else None
    steps = decoded(CHOICES["look-up"], params, traffic, kind, runner=runner)
    late = steps[len(steps) // 2 :]  # a path whose size is new brings up its layout
    assert min(len(each.step.nodes) for each in late) > (1 if kind == "none" else TREE.size)
    assert {(each.to_device, each.to_host) for each in late} == {(1, 1)}


@pytest.mark.usefixtures("paths")
@pytest.mark.parametrize("recorded", [False, True], ids=["eager", "recorded"])
@pytest.mark.parametrize(("kind", "params"), EACH_WAY)
@pytest.mark.parametrize("lookup", [Lookup.OFF, Lookup.ON])
def test_an_adaptive_step_takes_one_copy_each_way_for_each_level_and_one_more(
    monkeypatch: pytest.MonkeyPatch,
    lookup: Lookup,
    kind: str,
    params: SamplingParams,
    recorded: bool,
    traffic: Traffic,
) -> None:
    """A level's tokens and what they see go up, and what the draft states comes back."""
    read, real = list[int](), Speculator._learn

    def learn(self: Speculator, proposal: Any, *rest: Any) -> None:
        read.append(len(proposal.passes))
        real(self, proposal, *rest)

    monkeypatch.setattr(Speculator, "_learn", learn)
    runner, choice = TapeRunner() if recorded else None, TreeChoice(adaptive=True, lookup=lookup)
    steps = list(zip(decoded(choice, params, traffic, kind, runner=runner), read, strict=True))
    usual = [levels for each, levels in steps if each.to_device == each.to_host == levels + 1]
    # what is recorded of a new size is compared, and more of the text may be read first
    assert len(usual) >= len(steps) * (0.5 if recorded else 0.9)
    assert max(usual) > 1


def test_plain_decoding_takes_attention_without_a_mask(traffic: Traffic) -> None:
    """Over the text's own keys: that is the kernel that divides a long context."""
    target, _ = models("whole", CUDA)
    cache = target.new_cache()
    target.extend(torch.ones(40, dtype=torch.int64, device=CUDA), cache)
    assert {(seen.keys, seen.masked, seen.causal) for seen in traffic.attention} == {
        (40, False, True)
    }
    traffic.forget()
    row = torch.ones(1, dtype=torch.int64, device=CUDA)
    target.forward(row, row * 40, None, cache)
    assert {(seen.keys, seen.masked, seen.causal) for seen in traffic.attention} == {
        (41, False, False)
    }
    traffic.forget()
    mask = torch.ones((3, 3), dtype=torch.bool, device=CUDA)
    target.forward(row.repeat(3), row.repeat(3) * 41, mask, cache)
    assert {(seen.keys, seen.masked) for seen in traffic.attention} == {(CUDA_BUCKET, True)}


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_split_attention_is_the_cpus(kv_heads: int) -> None:
    """Of chunks of a prompt, a tree and a chain; the kernels are CUDA's, see `_KERNELS`."""
    config = tiny_config(context_window=1024, num_kv_heads=kv_heads)
    ids = torch.arange(700) % 61
    logits: list[list[Tensor]] = []
    for device in (HOST, CUDA):
        with pretended_device() as seen:
            model = Llama(config, random_weights(config, 0), device, torch.float32)
            if device == CUDA:
                model.attention = AttentionChoice(split_from=300)
            cache, found = model.new_cache(), []
            model.extend(ids.to(device), cache)
            mask = TREE.ancestor_mask().to(device)
            depths = torch.tensor(TREE.depths, device=device)
            for rows in (mask, None):
                count = TREE.size
                tokens = torch.arange(count, device=device)
                positions = (depths if rows is not None else tokens) + cache.length
                found.append(model.forward(tokens, positions, rows, cache).cpu())
            logits.append(found)
            taken = seen.operators["_scaled_dot_product_flash_attention"]
            # of the second chunk that sees 300 keys or more, and of two forwards
            assert taken == (device == CUDA) * 3 * config.num_layers
    torch.testing.assert_close(logits[1], logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_prompt_read_without_a_mask_is_read_as_on_the_cpu(kv_heads: int) -> None:
    """Also where several query heads share the keys of one, and in more than one chunk."""
    config = tiny_config(context_window=1024, num_kv_heads=kv_heads)
    ids = torch.arange(300) % 61
    logits: list[Tensor] = []
    for device in (HOST, CUDA):
        with pretended_device() as seen:
            model = Llama(config, random_weights(config, 0), device, torch.float32)
            cache = model.new_cache()
            model.extend(ids.to(device), cache)
            row = torch.tensor([7], device=device)
            logits.append(model.forward(row, row * 0 + 300, None, cache).cpu())
            assert any(each.causal for each in seen.attention) == (device == CUDA)
    torch.testing.assert_close(logits[1], logits[0], atol=1e-4, rtol=1e-4)


def test_a_tied_embedding_lies_on_the_device_once(traffic: Traffic) -> None:
    config = tiny_config(tie_word_embeddings=True)
    model = Llama(config, random_weights(config, 0), CUDA, torch.float32)
    assert isinstance(model._head, partial)
    assert model._head.keywords["weight"] is model.embedding
    frequencies, norms = 1, 2 * config.num_layers + 1  # a norm keeps its epsilon as well
    assert traffic.to_device == len(expected_shapes(config)) + frequencies + norms


@pytest.mark.parametrize("harm", ["mix", "read"])
def test_the_device_notices_harm(harm: str, traffic: Traffic) -> None:
    there, here = torch.ones(3, device=CUDA), torch.ones(3)
    traffic.forget()
    if harm == "mix":
        with pytest.raises(MixedDevicesError, match="add"):
            there + here
        return
    assert float(there.sum()) == 3.0
    assert (traffic.to_host, traffic.to_device) == (1, 0)
