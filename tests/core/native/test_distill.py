"""A draft's text and teacher made by the native forward."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sequoia_core.distill.options import Options
from sequoia_core.distill.subject import Subject
from sequoia_core.distill.teacher import TeacherCache, TeacherShape, next_is_answer
from sequoia_core.model.native.llama import NativeLlama, Pool
from tests.core.distill.runs import tiny_target
from tests.core.distill.test_generate import same, written
from tests.core.distill.test_train import CONFIG, CORPUS, FEATURES, WEIGHTS
from tests.core.models import random_weights, tiny_config

POOL = Pool(1)
MORE = 2500
"""Tokens of more conversations than there are rows."""


def test_native_text_is_the_same_whatever_breaks_it_off(tmp_path: Path) -> None:
    config = tiny_config(vocab_size=96, head_vocab_size=96, context_window=100)
    model = NativeLlama(config, random_weights(config, 3), POOL)
    whole = written(tmp_path / "whole", iter([]), model, MORE)
    assert len(whole.tokens) >= MORE
    assert whole.conversations > 16  # rows take more than one
    for at, breaks in enumerate(([1], [60, 1, 25])):
        assert same(written(tmp_path / str(at), iter(breaks), model, MORE), whole)


def test_a_native_teacher_thinks_what_the_target_thinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequoia_core.distill.teacher.NATIVE_ROWS", 7)
    model = NativeLlama(CONFIG, WEIGHTS, POOL, feature_layers=FEATURES)
    teacher = TeacherCache(
        tmp_path, TeacherShape(len(CORPUS.tokens), 6, FEATURES, CONFIG.hidden_size)
    )
    list(teacher.fill(model, CORPUS))
    assert teacher.done == CORPUS.conversations
    for index in range(CORPUS.conversations):
        span, cache = CORPUS.span(index), model.new_cache()
        ids = torch.from_numpy(CORPUS.tokens[span].astype(np.int64))
        logits = model.forward(ids, torch.arange(len(ids)), None, cache)
        top = torch.softmax(logits, -1).topk(6)
        wanted = next_is_answer(CORPUS, [span])
        np.testing.assert_array_equal(teacher.top_ids[span][wanted], top.indices[wanted])
        np.testing.assert_allclose(teacher.top_probs[span][wanted], top.values[wanted], rtol=2e-3)
        assert not teacher.top_probs[span][~wanted].any()
        states = cache.features(0, len(ids)).to(torch.bfloat16)
        assert torch.equal(teacher.features(span.start, span.stop), states)


def test_the_target_is_computed_natively_on_a_cpu(tmp_path: Path) -> None:
    name = tiny_target(tmp_path)
    subject = Subject.of(Options(target=name, kind="conditioned", device="cpu"))
    model = subject.model()
    assert isinstance(model, NativeLlama)
    assert model.kept_layers == subject.feature_layers
