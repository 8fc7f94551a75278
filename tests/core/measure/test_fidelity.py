"""Divergences are those of the distributions, and count each position once."""

import numpy as np
import pytest
import torch
from scipy import special

from sequoia_core.errors import ParameterError
from sequoia_core.measure.fidelity import Distances, divergence, divergences, with_answer
from tests.core.models import TableModel

TEXTS = ([3, 1, 4, 1, 5, 9, 2, 6] * 6, [3, 1, 4, 7, 7, 2])


def test_a_divergence_is_that_of_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    found, wanted = (torch.randn(5, 11, generator=generator).double() for _ in range(2))
    wanted[0, 3] = -torch.inf  # what the reference never gives
    p, q = (special.softmax(each.numpy(), axis=-1) for each in (wanted, found))
    made = divergence(found, wanted)
    np.testing.assert_allclose(made.kl, special.rel_entr(p, q).sum(-1), rtol=1e-9)
    assert made.same.tolist() == (p.argmax(-1) == q.argmax(-1)).tolist()


def test_positions_of_all_texts_are_read_with_what_is_before_them() -> None:
    """`TableModel` gives the logits of the last three tokens: a wrong context would show."""
    model, reference = TableModel(10, seed=1), TableModel(10, seed=2)
    parts = list(divergences(model, reference, TEXTS))
    assert [len(part.kl) for part in parts] == [len(TEXTS[0]), 3]  # 3, 1, 4 counted before
    rows = []
    for token_ids, first in zip(TEXTS, (0, 3), strict=True):
        for at in range(first, len(token_ids)):
            logits = []
            for each in (model, reference):
                ids = torch.tensor(token_ids[: at + 1])
                logits.append(each.forward(ids, torch.arange(at + 1), None, each.new_cache())[-1:])
            rows.append(divergence(logits[0].double(), logits[1].double()))
    whole, wanted = Distances.of_all(parts), Distances.of_all(rows)
    np.testing.assert_allclose(whole.kl, wanted.kl, rtol=1e-6)
    assert whole.figures["kl_mean"] == pytest.approx(wanted.kl.mean())
    assert whole.figures["kl_99_percent"] == pytest.approx(np.quantile(wanted.kl, 0.99))
    assert whole.figures["same_argmax"] == pytest.approx(wanted.same.mean())


def test_an_answer_is_the_most_probable_continuation_up_to_its_end() -> None:
    model, question = TableModel(10, seed=1), [3, 1, 4]
    whole = with_answer(model, question, 20, frozenset())
    assert (whole[:3], len(whole)) == (question, 23)
    logits = model.forward(torch.tensor(whole), torch.arange(23), None, model.new_cache())
    assert logits.argmax(-1).tolist()[2:-1] == whole[3:]
    end = whole[8]
    assert with_answer(model, question, 20, frozenset({end})) == whole[: whole.index(end, 3)]
    assert with_answer(model, question, 0, frozenset()) == question


def test_a_model_is_no_distance_from_itself() -> None:
    parts = list(divergences(TableModel(10, seed=1), TableModel(10, seed=1), TEXTS))
    figures = Distances.of_all(parts).figures
    assert (figures["kl_largest"], figures["same_argmax"]) == (0.0, 1.0)


def test_a_text_longer_than_the_window_is_refused() -> None:
    small = TableModel(10, seed=1, window=16)
    with pytest.raises(ParameterError, match="48 tokens, but the context window 16; give a lower"):
        list(divergences(small, small, TEXTS))
