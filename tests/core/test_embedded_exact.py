"""The embedded pair in bfloat16 with `--exact`: a tree's greedy text is plain decoding's."""

import pytest

from sequoia_core.chat_template import ChatTemplate
from sequoia_core.config import Kernels, Mode, SamplingParams, WeightFormat
from sequoia_core.engine import Engine
from sequoia_core.errors import ModelLoadError
from sequoia_core.growmap import GrowMap
from sequoia_core.model.device import cpu_multiplies_bfloat16
from sequoia_core.pair import Pair, embedded_target_path, load_pair
from sequoia_core.protocols import TreeChoice
from sequoia_core.trees import BundledAdvisor
from tests.core.engines import tokens_of

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(not cpu_multiplies_bfloat16(), reason="this CPU does not multiply bfloat16"),
]
PROMPTS = ("Why is the sky blue?", "Write a haiku about rain.")
TREES = (GrowMap.k_ary([3, 2, 1]), GrowMap.k_ary([16, 1]))
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=24)


@pytest.fixture(scope="module", params=[WeightFormat.AUTO, WeightFormat.FULL])
def pair(request: pytest.FixtureRequest) -> Pair:
    try:
        embedded_target_path()
    except ModelLoadError as error:
        pytest.skip(str(error))
    kernels = Kernels(request.param, row_invariant=True)
    return load_pair(dtype="bfloat16", device="cpu", kernels=kernels)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_trees_write_what_plain_decoding_writes(pair: Pair, prompt: str) -> None:
    engine = Engine.of(pair, BundledAdvisor.default({}))
    ids = ChatTemplate(pair.tokenizer, None).whole([], prompt)
    answers = []
    for choice in (TreeChoice(Mode.AR), *(TreeChoice(Mode.SEQUOIA, tree) for tree in TREES)):
        engine.tree_choice = choice
        answers.append(tokens_of(list(engine.generate(ids, GREEDY))))
    assert answers[1:] == answers[:1] * len(TREES)
    assert len(answers[0]) > 8
