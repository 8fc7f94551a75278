"""Temperature 0, float32: every mode and tree gives plain greedy decoding, token for token."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.model.interface import LanguageModel
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import make_engine, steps_of, tokens_of, tree_of
from tests.core.models import TableModel, tiny_llama

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
TREES = {
    "chain": GrowMap.chain(4),
    "wide": GrowMap.k_ary([8]),
    "binary": GrowMap.k_ary([2, 2, 2]),
    "ragged": GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7), name="ragged"),
    "root": GrowMap((-1,)),
}


def decode(
    target: LanguageModel,
    draft: LanguageModel | DraftModel,
    growmap: GrowMap,
    mode: Mode = Mode.SEQUOIA,
    limit: int = 40,
) -> list[int]:
    """The tokens of an answer, which the engine has as its own."""
    made = make_engine(target, draft, growmap, mode)
    params = SamplingParams(temperature=0.0, max_new_tokens=limit)
    tokens = tokens_of(list(made.generate(PROMPT, params)))
    assert list(made.token_ids) == PROMPT + tokens
    return tokens


def plain(target: LanguageModel, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy decoding written out without any of the engine's parts: one full pass a token."""
    ids = list(prompt)
    for _ in range(count):
        if isinstance(target, TableModel):
            ids.append(int(target.logits_after(ids).argmax()))
            continue
        positions = torch.arange(len(ids))
        logits = target.forward(torch.tensor(ids), positions, None, target.new_cache())
        ids.append(int(logits[-1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("mode", list(Mode))
def test_llama_tokens_equal_plain_greedy(mode: Mode, tree: str) -> None:
    target, draft = tiny_llama(1), tiny_llama(1, num_layers=1)
    assert decode(target, draft, TREES[tree], mode) == plain(target, PROMPT, 40)


@given(
    parents=st.lists(st.integers(0, 30), max_size=14),
    seed=st.integers(0, 10_000),
    mode=st.sampled_from(list(Mode)),
)
@settings(max_examples=60, deadline=None)
def test_table_tokens_equal_plain_greedy(parents: list[int], seed: int, mode: Mode) -> None:
    target = TableModel(19, seed)
    same = seed % 3 == 0  # a draft that is always right, so that whole paths are accepted
    draft = TableModel(19, seed if same else seed + 1)
    assert decode(target, draft, tree_of(parents), mode) == plain(target, PROMPT, 40)


def test_a_perfect_draft_is_accepted_to_the_leaf_every_step() -> None:
    made = make_engine(TableModel(19, 7), TableModel(19, 7), GrowMap.chain(4))
    params = SamplingParams(temperature=0.0, max_new_tokens=40)
    steps = steps_of(list(made.generate(PROMPT, params)))
    assert [step.accepted for step in steps] == [4] * 8
    assert all(len(step.token_ids) == 5 for step in steps)


def test_a_trimmed_draft_vocabulary_changes_no_token() -> None:
    target = TableModel(19, 3)
    draft = DraftModel(TableModel(5, 4), vocab_ids=torch.tensor([2, 5, 9, 11, 18]))
    assert decode(target, draft, TREES["binary"]) == plain(target, PROMPT, 40)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("limit", range(1, 9))
def test_the_length_limit_cuts_inside_a_path(mode: Mode, limit: int) -> None:
    target, draft = TableModel(19, 7), TableModel(19, 7)
    assert decode(target, draft, GrowMap.chain(4), mode, limit) == plain(target, PROMPT, limit)
