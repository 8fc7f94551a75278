"""Drafts of every kind change no token at temperature 0, whatever family the target is of."""

from pathlib import Path

import pytest
import torch

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.config import Eagle3
from sequoia_core.model.eagle3 import Eagle3Llama
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.native.library import Pool, find_library
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import reference_text
from tests.core.engines import make_engine, steps_of, tokens_of
from tests.core.families import VARIANTS, save_family
from tests.core.models import random_weights, tiny_config

CPU = torch.device("cpu")
TOKENS = 6  # so few that a random draft is right now and then
PROMPT = [3, 1, 4, 1, 5, 0, 2, 4, 3, 1, 4]
FEATURES = (0, 2)
BUILT = pytest.mark.skipif(find_library() is None, reason="the native library was not built")


def draft_of(kind: str, native: bool) -> Llama | NativeLlama | None:
    if kind == "look-up":
        return None
    conditioned = kind == "conditioned"
    config = tiny_config(
        num_layers=1,
        vocab_size=TOKENS,
        head_vocab_size=TOKENS,
        feature_layers=FEATURES,
        eagle3=None if conditioned else Eagle3(32),
    )
    weights = random_weights(config, 2)
    if native and conditioned:  # an EAGLE-3 draft of a native target is PyTorch's
        return NativeLlama(config, weights, Pool(1))
    make = ConditionedLlama if conditioned else Eagle3Llama
    return make(config, weights, CPU, torch.float32)


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=BUILT)])
@pytest.mark.parametrize("kind", ["look-up", "conditioned", "EAGLE-3"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_are_those_of_plain_decoding(
    variant: str, kind: str, native: bool, tmp_path: Path
) -> None:
    theirs = save_family(tmp_path, variant, vocab_size=TOKENS)
    opened = open_directory(tmp_path)
    target: Llama | NativeLlama
    if native:
        target = NativeLlama(opened.config, opened.weights, Pool(2), feature_layers=FEATURES)
    else:
        target = Llama(opened.config, opened.weights, CPU, torch.float32, FEATURES)
    engine = make_engine(target, draft_of(kind, native))
    tree, lookup = (None, Lookup.ON) if kind == "look-up" else (GrowMap.k_ary([4, 2]), Lookup.OFF)
    engine.tree_choice = TreeChoice(Mode.SEQUOIA, tree, lookup=lookup)
    events = list(engine.generate(PROMPT, SamplingParams(temperature=0.0, max_new_tokens=24)))
    assert PROMPT + tokens_of(events) == reference_text(theirs, PROMPT, 24)
    assert sum(step.accepted for step in steps_of(events)) > 0
