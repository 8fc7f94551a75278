"""A draft's text and labels made by the native forward."""

from pathlib import Path

from sequoia_core.distill.options import Options
from sequoia_core.distill.target import DistillTarget
from sequoia_core.model.native.library import Pool
from sequoia_core.model.native.llama import NativeLlama
from tests.core.distill.runs import tiny_target
from tests.core.distill.test_generate import KEPT_LAYERS, check_labels, content, written
from tests.core.models import random_weights, tiny_config

POOL = Pool(1)
MORE = 2500
"""Tokens of more conversations than there are rows."""


def target(feature_layers: tuple[int, ...] = KEPT_LAYERS) -> NativeLlama:
    config = tiny_config(vocab_size=96, head_vocab_size=96, context_window=100)
    return NativeLlama(config, random_weights(config, 3), POOL, feature_layers=feature_layers)


def test_native_text_is_the_same_whatever_breaks_it_off(tmp_path: Path) -> None:
    model = target()
    whole = written(tmp_path / "whole", iter([]), model, MORE)
    assert len(whole.corpus.tokens) >= MORE
    assert len(whole.corpus) > 16  # rows take more than one
    for at, breaks in enumerate(([1], [60, 1, 25])):
        assert content(written(tmp_path / str(at), iter(breaks), model, MORE)) == content(whole)
    given = written(tmp_path / "given", iter([9]), model, MORE, whole.corpus)
    assert content(given) == content(whole)


def test_native_labels_are_those_of_a_plain_forward_over_the_text(tmp_path: Path) -> None:
    model = target()
    check_labels(written(tmp_path / "conditioned", iter([]), model), model)
    plain = target(())
    text = written(tmp_path / "independent", iter([]), plain)
    assert text.conversation(0).features.shape[1] == 0


def test_the_target_is_computed_natively_on_a_cpu(tmp_path: Path) -> None:
    name = tiny_target(tmp_path)
    chosen = DistillTarget.of(Options(target=name, kind="conditioned", device="cpu"))
    model = chosen.model()
    assert isinstance(model, NativeLlama)
    assert model.kept_layers == chosen.feature_layers
