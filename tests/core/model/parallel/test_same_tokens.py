"""Several processes compute what one does: logits up to rounding, and the same tokens."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sequoia_core import Conversation
from sequoia_core.config import Lookup, Mode, SamplingParams, WeightFormat
from sequoia_core.errors import ContextFullError, ParameterError
from sequoia_core.events import Event
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.eagle3 import Eagle3Llama
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.pair import Pair, load_pair
from sequoia_core.model.parallel.model import LeadLlama, load_shared
from sequoia_core.model.parallel.ranks import lead_of
from sequoia_core.model.parallel.shards import check_divisible
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.tree.choice import DynamicTree, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import save_model, tiny_tokenizer
from tests.core.eagle3_drafts import STYLES, TARGET, save_draft
from tests.core.engines import make_engine, steps_of, tokens_of
from tests.core.families import VARIANTS, save_family
from tests.core.models import random_weights, tiny_config, tiny_llama

CPU = torch.device("cpu")
TEXT = torch.arange(3, 20)
TREE = GrowMap.k_ary([3, 2, 1])
KINDS: dict[str, dict[str, Any]] = {
    "shared KV heads": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "as many KV heads": {"num_key_value_heads": 4},
    "one KV head": {"num_key_value_heads": 1},
}


@dataclass
class Both:
    """A pair in this process alone, and its target divided among several."""

    folder: Path
    one: Pair
    several: Pair

    @property
    def lead(self) -> LeadLlama:
        assert isinstance(self.several.target, LeadLlama)
        return self.several.target


@pytest.fixture(scope="module", params=[2, 4])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Both]:
    """The vocabulary has a remainder, and four processes share KV heads."""
    folder = tmp_path_factory.mktemp("models")
    size = {"vocab_size": 97, "max_position_embeddings": 600}
    save_model(folder / "target", tiny_tokenizer(97), **size)
    save_model(folder / "draft", tiny_tokenizer(97), num_hidden_layers=1, **size)
    names = str(folder / "target"), str(folder / "draft")
    one = load_pair(*names, dtype="float32", device="cpu", weights=WeightFormat.TORCH)
    several = load_pair(*names, dtype="float32", device="cpu", tensor_parallel=request.param)
    yield Both(folder, one, several)
    lead_of(request.param, on_gpu=False).close()


def passes(model: Llama) -> list[Tensor]:
    """Logits of a text, a row, a tree and, after a branch of it was kept, more rows."""
    cache = model.new_cache()
    logits = [model.forward(TEXT, torch.arange(17), None, cache)]
    logits.append(model.forward(torch.tensor([5]), torch.tensor([17]), None, cache))
    growmap = GrowMap((-1, 0, 0, 1, 1, 3))
    positions = torch.tensor(growmap.depths) + 18
    logits.append(model.forward(torch.arange(6), positions, growmap.ancestor_mask(), cache))
    cache.keep(18, [18, 19, 22])
    logits.append(model.forward(torch.tensor([7]), torch.tensor([21]), None, cache))
    cache.truncate(9)
    more = min(300, model.context_window - 10)  # longrope has a short window here
    model.extend(torch.arange(more) % 61, cache)
    cache.release()
    logits.append(model.forward(torch.tensor([7]), torch.tensor([9 + more]), None, cache))
    assert cache.length == 10 + more
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_one_process(both: Both, kind: str) -> None:
    folder = both.folder / kind
    save_model(folder, vocab_size=97, max_position_embeddings=600, **KINDS[kind])
    target = open_directory(folder)
    whole = Llama(target.config, target.weights, CPU, torch.float32)
    lead = both.lead._lead
    divided = load_shared(lead, str(folder), target, ("cpu", CPU), torch.float32)
    expected, found = passes(whole), passes(divided)
    assert len({float(each.sum()) for each in expected}) == len(expected)
    for one, several in zip(expected, found, strict=True):
        torch.testing.assert_close(one, several, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_is_divided_or_refused(both: Both, variant: str) -> None:
    folder, lead = both.folder / variant, both.lead._lead
    save_family(folder, variant, vocab_size=97, max_position_embeddings=600)
    target = open_directory(folder)
    if target.config.qk_norm == "whole":
        with pytest.raises(ParameterError, match="which is not divided among processes"):
            check_divisible(target.config, lead.size)
        return
    check_divisible(target.config, lead.size)
    whole = Llama(target.config, target.weights, CPU, torch.float32)
    divided = load_shared(lead, str(folder), target, ("cpu", CPU), torch.float32)
    for one, several in zip(passes(whole), passes(divided), strict=True):
        torch.testing.assert_close(one, several, rtol=1e-4, atol=3e-4)


@pytest.mark.parametrize("both", [2], indirect=True)
def test_all_processes_take_the_factors_of_a_long_context(both: Both) -> None:
    folder, lead = both.folder / "long", both.lead._lead
    save_family(folder, "phi3 with longrope", vocab_size=97, max_position_embeddings=600)
    target = open_directory(folder)
    target = replace(target, config=target.config.limited(500, "it"))
    assert target.config.takes_long_factors
    whole = Llama(target.config, target.weights, CPU, torch.float32)
    divided = load_shared(lead, str(folder), target, ("cpu", CPU), torch.float32)
    for one, several in zip(passes(whole), passes(divided), strict=True):
        torch.testing.assert_close(one, several, rtol=1e-4, atol=3e-4)


def test_caches_side_by_side_do_not_mix(both: Both) -> None:
    logits = []
    for model in (both.one.target, both.several.target):
        assert isinstance(model, Llama)
        caches = [model.new_cache(), model.new_cache()]
        for token in range(5):
            for at, cache in enumerate(caches):
                row = model.forward(
                    torch.tensor([token + 9 * at]), torch.tensor([token]), None, cache
                )
        logits.append(row)
        del caches
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def test_a_full_context_is_refused_and_the_next_forward_computed(both: Both) -> None:
    lead = both.lead
    cache = lead.new_cache()
    lead.extend(TEXT, cache)
    with pytest.raises(ContextFullError):
        lead.extend(torch.zeros(600, dtype=torch.int64), cache)
    found = lead.forward(torch.tensor([5]), torch.tensor([17]), None, cache)
    alone = both.one.target.new_cache()
    both.one.target.extend(TEXT, alone)
    expected = both.one.target.forward(torch.tensor([5]), torch.tensor([17]), None, alone)
    torch.testing.assert_close(expected, found, rtol=1e-4, atol=1e-4)


CHOICES = {
    "sequoia": TreeChoice(Mode.SEQUOIA, TREE),
    "specinfer": TreeChoice(Mode.SPECINFER, TREE),
    "topk": TreeChoice(Mode.TOPK, TREE),
    "chain": TreeChoice(Mode.SEQUOIA, GrowMap.chain(3)),
    "plain": TreeChoice(Mode.AR),
    "adaptive": TreeChoice(adaptive=True),
    "look-up": TreeChoice(Mode.SEQUOIA, GrowMap.chain(1), lookup=Lookup.AUTO),
}


@pytest.mark.parametrize("both", [2], indirect=True)  # the rules see logits, not processes
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("name", CHOICES)
def test_every_tree_and_rule_writes_the_same_tokens(
    both: Both, name: str, temperature: float
) -> None:
    params = SamplingParams(temperature, seed=5, max_new_tokens=16)
    texts = []
    for pair in (both.one, both.several):
        engine = make_engine(pair.target, pair.draft)
        engine.tree_choice = CHOICES[name]
        prompt = [*TEXT.tolist(), *TEXT.tolist()]
        texts.append(tokens_of(list(engine.generate(prompt, params))))
        # what both caches keep of it is read by the next answer
        texts[-1] += tokens_of(list(engine.generate([*prompt, *texts[-1], 4, 9], params)))
    assert len(texts[0]) == 32
    assert texts[0] == texts[1]


def test_a_draft_reads_the_same_hidden_states(both: Both) -> None:
    target = open_directory(both.folder / "target")
    whole = Llama(target.config, target.weights, CPU, torch.float32, (0, 1))
    lead = both.lead._lead
    source = str(both.folder / "target")
    divided = load_shared(lead, source, target, ("cpu", CPU), torch.float32, (0, 1))
    config = tiny_config(num_layers=1, vocab_size=97, head_vocab_size=97, feature_layers=(0, 1))
    draft, texts = ConditionedLlama(config, random_weights(config, 1), CPU, torch.float32), []
    params = SamplingParams(0.8, seed=2, max_new_tokens=30)
    for model in (whole, divided):
        engine = make_engine(model, draft, TREE)
        texts.append(tokens_of(list(engine.generate(TEXT.tolist(), params))))
    assert len(texts[0]) == 30
    assert texts[0] == texts[1]


EAGLE3_CHOICES = {
    "sequoia": TreeChoice(Mode.SEQUOIA, TREE),
    "dynamic": TreeChoice(Mode.TOPK, dynamic=DynamicTree(9, 3, 3)),
    "adaptive": TreeChoice(adaptive=True),
}


@pytest.mark.parametrize("both", [2], indirect=True)
def test_an_eagle3_draft_reads_the_target_of_all_processes(both: Both) -> None:
    """Above temperature 0 another draft would draw, and accept, other tokens."""
    names = str(both.folder / "read"), str(both.folder / "eagle3")
    save_model(both.folder / "read", tiny_tokenizer(), **TARGET)
    save_draft(both.folder / "eagle3", STYLES["SafeAILab"])
    pairs = [
        load_pair(*names, dtype="float32", device="cpu", **options)
        for options in ({"weights": WeightFormat.TORCH}, {"tensor_parallel": 2})
    ]
    assert isinstance(pairs[1].target, LeadLlama)
    accepted = 0
    for choice, temperature in product(EAGLE3_CHOICES.values(), (0.0, 1.0)):
        found = []
        for pair in pairs:
            assert isinstance(pair.draft, Eagle3Llama)
            engine = make_engine(pair.target, DraftModel(pair.draft, pair.draft_vocab_ids))
            engine.tree_choice = choice
            params = SamplingParams(temperature, seed=3, max_new_tokens=24)
            events = list(engine.generate(TEXT.tolist(), params))
            found.append([(step.token_ids, step.accepted) for step in steps_of(events)])
        assert found[0] == found[1]
        accepted += sum(count for _, count in found[0])
    assert accepted > 5


def answers(pair: Pair, *, cleared: bool) -> list[tuple[int, ...]]:
    """Token ids of a chat of two turns; the second follows the first or, cleared, nothing."""
    chat = Conversation(pair, tree_choice=TreeChoice(Mode.SEQUOIA, TREE))
    found = []
    for words in ("HELLO", "AGAIN"):
        params = SamplingParams(0.8, seed=11, max_new_tokens=20)
        events: list[Event] = list(chat.reply(words, params))
        found.append(tuple(tokens_of(events)))
        if cleared:
            chat.restore(())
    return found


@pytest.mark.parametrize("cleared", [False, True])
def test_a_chat_of_two_turns_is_the_same(both: Both, cleared: bool) -> None:
    one = answers(both.one, cleared=cleared)
    assert one == answers(both.several, cleared=cleared)
    assert len(set(one)) == 2
    assert all(one)


def test_what_other_code_computes_alone_is_refused_at_once(both: Both) -> None:
    from sequoia_core.errors import SequoiaError

    lead, cache = both.lead, both.lead.new_cache()
    with pytest.raises(SequoiaError, match="leave --tensor-parallel out"):
        lead.forward_eagerly(TEXT, torch.arange(17), None, cache)
    with pytest.raises(SequoiaError, match="leave --tensor-parallel out"):
        lead.logits(torch.zeros(1, lead.config.hidden_size))


def test_another_draft_comes_to_the_target_that_is_loaded(both: Both) -> None:
    from sequoia_core.model.loading.pair import with_other_draft

    other = with_other_draft(both.several, str(both.folder / "target"))
    assert other.target is both.several.target
    expected = make_engine(both.one.target, tiny_llama(vocab_size=97, head_vocab_size=97))
    found = make_engine(other.target, other.draft)
    params = SamplingParams(0.0, max_new_tokens=20)
    texts = [tokens_of(list(each.generate([5, 6], params))) for each in (expected, found)]
    assert texts[0] == texts[1]
