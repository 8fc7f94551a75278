"""The embedded pair in float32: every way of decoding gives transformers' own greedy text."""

from collections.abc import Iterator

import pytest
import torch

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.loader import embedded_target_path
from sequoia_core.model.loading.pair import Pair, load_pair
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.text.chat_template import ChatTemplate
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.files import find_growmap
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import check_laws, finish_of, text_of, tokens_of

pytestmark = pytest.mark.embedded
PROMPTS = ("Why is the sky blue?", "Count from one to ten.", "Write a haiku about rain.")
NEW_TOKENS = 48
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=NEW_TOKENS)
CHOICES = {
    "sequoia, packaged": TreeChoice(Mode.SEQUOIA, find_growmap("smollm2-135m/greedy-16x4")),
    "greedy, wide": TreeChoice(Mode.GREEDY, GrowMap.k_ary([8])),
    "greedy, ragged": TreeChoice(Mode.GREEDY, GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7))),
    "chain": TreeChoice(Mode.CHAIN, GrowMap.chain(4)),
    "plain": TreeChoice(Mode.AR),
}


@pytest.fixture(scope="module")
def pair() -> Pair:
    try:
        embedded_target_path()
    except ModelLoadError as error:
        pytest.skip(str(error))
    return load_pair(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def expected(pair: Pair) -> Iterator[dict[str, list[int]]]:
    """What transformers decodes greedily from the same file."""
    from transformers import AutoModelForCausalLM

    path = embedded_target_path()
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    answers = {}
    for prompt in PROMPTS:
        ids = torch.tensor([ChatTemplate(pair.tokenizer, None).whole([], prompt)])
        with torch.inference_mode():
            answer = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=sorted(pair.eos_token_ids),
                pad_token_id=0,
            )
        answers[prompt] = answer[0, ids.shape[1] :].tolist()
    yield answers
    del model


@pytest.fixture(scope="module")
def engine(pair: Pair) -> Engine:
    return Engine.of(pair, BundledAdvisor({}))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_way_of_decoding_gives_transformers_greedy_tokens(
    pair: Pair, engine: Engine, expected: dict[str, list[int]], prompt: str, choice: str
) -> None:
    engine.tree_choice = CHOICES[choice]
    events = list(engine.generate(ChatTemplate(pair.tokenizer, None).whole([], prompt), GREEDY))
    assert tokens_of(events) == expected[prompt]
    assert text_of(events) == pair.tokenizer.decode(expected[prompt], skip_special_tokens=True)
    check_laws(events)
    steps = finish_of(events).totals.steps
    plain = CHOICES[choice].mode is Mode.AR
    assert (steps == len(expected[prompt])) == plain, "a tree that accepts nothing is no tree"


def test_a_seeded_answer_repeats_itself(pair: Pair, engine: Engine) -> None:
    engine.tree_choice = CHOICES["sequoia, packaged"]
    params = SamplingParams(temperature=0.6, top_p=0.9, seed=5, max_new_tokens=12)
    ids = ChatTemplate(pair.tokenizer, None).whole([], PROMPTS[0])
    list(engine.generate(ids, params))  # from here on the same tokens are cached each time
    first, second = (tokens_of(list(engine.generate(ids, params))) for _ in range(2))
    assert first == second
