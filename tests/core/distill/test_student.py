"""The draft in training computes what the draft in decoding will."""

import pytest
import torch
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.distill.student import Student, student_config
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.block_safetensors import FORMATS, BlockWeights, pack_weights
from sequoia_core.model.loading.weights import Weights
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.models import PlainCodec, random_weights, tiny_config

CPU = torch.device("cpu")
CONFIG = tiny_config(num_layers=3, vocab_size=24, head_vocab_size=24)
WEIGHTS = random_weights(CONFIG, 5)
VOCAB_IDS = torch.tensor([0, 2, 3, 5, 7, 8, 11, 13, 17, 19, 20, 23])
FEATURES = (0, 2)
TEXT = torch.tensor([3, 19, 4, 0, 11, 23, 7, 7, 16, 2])
TREES = [GrowMap.chain(3), GrowMap.k_ary([2, 2, 1]), GrowMap.k_ary([3])]


def student(feature_layers: tuple[int, ...], layers: int = 2) -> Student:
    config = student_config(CONFIG, layers, len(VOCAB_IDS), feature_layers)
    made = Student(config, WEIGHTS["model.embed_tokens.weight"], VOCAB_IDS)
    made.begin_from_target(WEIGHTS, CONFIG, range(layers), seed=1)
    if feature_layers:
        made.normalise_inputs(TEXT, hidden_states()[0])
    return made


def target() -> Llama:
    return Llama(CONFIG, WEIGHTS, CPU, torch.float32, feature_layers=FEATURES)


def draft(of: Student) -> Llama:
    weights = of.tensors() | {"model.embed_tokens.weight": of.embedding}
    if of.config.feature_layers:
        return ConditionedLlama(of.config, weights, CPU, torch.float32)
    return Llama(of.config, weights, CPU, torch.float32)


def hidden_states() -> Tensor:
    """The target's, of the token before each of the text: [1, t, F, hidden]."""
    model = target()
    cache = model.new_cache()
    model.extend(TEXT, cache)
    states = cache.features(0, len(TEXT) - 1)
    return torch.cat((torch.zeros_like(states[:1]), states))[None].clone()


def test_an_independent_student_is_the_llama_it_becomes() -> None:
    made = student(())
    (state,) = made.unrolled(TEXT[None], None, [1])
    model = draft(made)
    logits = model.forward(TEXT, torch.arange(len(TEXT)), None, model.new_cache())
    torch.testing.assert_close(made.head(state)[0], logits)


@pytest.mark.parametrize("name", FORMATS)
def test_a_student_multiplies_with_what_its_file_will_hold(name: str) -> None:
    config = tiny_config(
        num_layers=2, vocab_size=24, head_vocab_size=24, hidden_size=32, intermediate_size=64
    )
    target_weights = random_weights(config, 5)
    shape = student_config(config, 1, len(VOCAB_IDS), ())
    made = Student(shape, target_weights["model.embed_tokens.weight"], VOCAB_IDS, name)
    made.begin_from_target(target_weights, config, [0], seed=1)
    (state,) = made.unrolled(TEXT[None], None, [1])
    stored = BlockWeights(Weights(pack_weights(made.tensors(), name), "made"), name)
    held = {each: stored[each] for each in stored}
    held["model.embed_tokens.weight"] = made.embedding
    model = Llama(shape, held, CPU, torch.float32)
    logits = model.forward(TEXT, torch.arange(len(TEXT)), None, model.new_cache())
    torch.testing.assert_close(made.head(state)[0], logits)
    exact = Llama(shape, {**held, **made.tensors()}, CPU, torch.float32)
    apart = exact.forward(TEXT, torch.arange(len(TEXT)), None, exact.new_cache()) - logits
    assert float(apart.abs().max()) > 1e-4
    loss = made.head(state).square().mean()
    loss.backward()
    assert all(
        parameter.grad is not None and bool(parameter.grad.any()) for parameter in made.parameters()
    )


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_step_down_the_tree_is_a_node_of_that_depth(steps: int) -> None:
    made = student(FEATURES)
    expected = made.head(list(made.unrolled(TEXT[None], hidden_states(), [1] * steps))[-1])[0]
    big, small = target(), draft(made)
    for last in range(steps, len(TEXT)):
        root = last - steps + 1  # the target has read the tokens before it
        target_cache = big.new_cache()
        big.extend(TEXT[:root], target_cache)
        cache = small.new_cache(target_cache)
        logits = small.forward(TEXT[: root + 1], torch.arange(root + 1), None, cache)
        for node in range(root + 1, last + 1):
            mask = torch.ones((1, 1), dtype=torch.bool)
            ids, place = TEXT[node : node + 1], torch.tensor([node])
            logits = small.forward(ids, place, mask, cache, torch.tensor([-1]))
        torch.testing.assert_close(logits[-1], expected[last], rtol=1e-4, atol=1e-4)


def test_fewer_conversations_below_the_first_step_change_nothing_for_those() -> None:
    made, two = student(FEATURES), torch.stack((TEXT, TEXT.flip(0)))
    states = hidden_states().repeat(2, 1, 1, 1)
    everything = list(made.unrolled(two, states, [2, 2, 2]))
    fewer = list(made.unrolled(two, states, [2, 1, 1]))
    torch.testing.assert_close(fewer[0], everything[0])
    for some, every in zip(fewer[1:], everything[1:], strict=True):
        torch.testing.assert_close(some, every[:1])


def test_a_branchs_row_reads_the_output_of_its_own_parent() -> None:
    made = student(FEATURES)
    big, small = target(), draft(made)
    target_cache = big.new_cache()
    big.extend(TEXT[:4], target_cache)

    def guess(path: list[int], sibling: int | None) -> Tensor:
        """After root, child and grandchild; perhaps with a sibling of the child between them."""
        cache = small.new_cache(target_cache)
        small.forward(TEXT[:5], torch.arange(5), None, cache)
        level = [path[0]] if sibling is None else [sibling, path[0]]
        mask = torch.eye(len(level), dtype=torch.bool)
        places, roots = torch.full((len(level),), 5), torch.full((len(level),), -1)
        small.forward(torch.tensor(level), places, mask, cache, roots)
        last = torch.tensor([[0] * (len(level) - 1) + [1, 1]], dtype=torch.bool)
        ids, place, parent = torch.tensor(path[1:]), torch.tensor([6]), torch.tensor([-1])
        return small.forward(ids, place, last, cache, parent)

    torch.testing.assert_close(guess([7, 2], None), guess([7, 2], 13))


@pytest.mark.parametrize("growmap", TREES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_what_is_kept_of_a_step_drafts_as_a_draft_that_begins_anew(
    growmap: GrowMap, temperature: float
) -> None:
    """A conversation of many steps leaves the draft's cache as reading its text at once would."""
    made = student(FEATURES)
    models = target(), draft(made)
    engine = make_engine(*models)
    engine.tree_choice = TreeChoice(growmap=growmap)
    params = SamplingParams(temperature, seed=3, max_new_tokens=24)
    list(engine.generate(TEXT.tolist(), params))
    text = torch.tensor(engine.token_ids)
    left = engine._cache.draft_cache
    assert left is not None
    assert left.length > len(TEXT)
    target_cache = models[0].new_cache()
    models[0].extend(text, target_cache)
    fresh = models[1].new_cache(target_cache)
    models[1].extend(text[: left.length], fresh)
    rest = text[left.length : left.length + 1]
    place = torch.tensor([left.length])
    torch.testing.assert_close(
        models[1].forward(rest, place, None, left), models[1].forward(rest, place, None, fresh)
    )


@pytest.mark.parametrize("growmap", TREES)
def test_greedy_text_is_that_of_plain_decoding(growmap: GrowMap) -> None:
    params = SamplingParams(0.0, max_new_tokens=30)
    texts = []
    for tree in (GrowMap((-1,)), growmap):
        engine = make_engine(target(), draft(student(FEATURES)))
        engine.tree_choice = TreeChoice(growmap=tree)
        list(engine.generate(TEXT.tolist(), params))
        texts.append(engine.token_ids)
    assert texts[0] == texts[1]


def make_engine(big: Llama, small: Llama) -> Engine:
    return Engine(
        big,
        DraftModel(small, VOCAB_IDS),
        codec=PlainCodec(),
        eos_token_ids=frozenset(),
        advisor=BundledAdvisor({}),
    )
