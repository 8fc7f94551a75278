"""Conversations whose steps are interleaved on one pair of models write what each writes alone."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.events import Event
from sequoia_core.model.llama import Llama
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import make_engine, tokens_of
from tests.core.model.test_pipeline import FEATURES, LAYERS, conditioned_draft
from tests.core.models import random_weights, tiny_config, tiny_llama

WINDOW = 512
PROMPTS = ([3, 1, 4, 1, 5], [2, 7, 1, 8] * 90, [1, 1, 2, 3, 5, 8])
"""The second is read in several chunks."""


def models(conditioned: bool) -> tuple[Llama, Llama]:
    config = tiny_config(num_layers=LAYERS, context_window=WINDOW)
    weights = random_weights(config, seed=0)
    cpu = torch.device("cpu")
    target = Llama(config, weights, cpu, torch.float32, FEATURES)
    draft = conditioned_draft() if conditioned else tiny_llama(1, context_window=WINDOW)
    return target, draft


def engines(conditioned: bool, mode: Mode) -> list[Engine]:
    """One for each prompt, on the same two models."""
    target, draft = models(conditioned)
    trees = (GrowMap.k_ary([2, 2]), GrowMap.chain(3), GrowMap.k_ary([4, 1, 1]))
    return [make_engine(target, draft, tree, mode) for tree in trees]


def answers(made: Sequence[Engine], params: SamplingParams) -> list[Iterator[Event]]:
    return [each.generate(prompt, params) for each, prompt in zip(made, PROMPTS, strict=True)]


@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@settings(deadline=None, max_examples=8)
@given(turns=st.lists(st.integers(0, 2), max_size=150))
def test_interleaving_changes_no_token(
    conditioned: bool, temperature: float, turns: list[int]
) -> None:
    params = SamplingParams(temperature=temperature, seed=5, max_new_tokens=24)
    alone = [list(each) for each in answers(engines(conditioned, Mode.SEQUOIA), params)]
    together = answers(engines(conditioned, Mode.SEQUOIA), params)
    heard: list[list[Event]] = [[], [], []]
    for turn in turns:
        heard[turn] += [event for event in (next(together[turn], None),) if event is not None]
    for events, rest in zip(heard, together, strict=True):
        events += rest
    assert [tokens_of(each) for each in heard] == [tokens_of(each) for each in alone]
