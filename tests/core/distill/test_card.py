"""The model card states what can be measured again."""

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path

import pytest
import torch

from sequoia_core.distill.corpus import Corpus
from sequoia_core.distill.draft_figures import (
    TEMPERATURES,
    UNKNOWN_LICENCE,
    accepted,
    answers,
    stated_licence,
)
from sequoia_core.distill.pipeline import UNROLL, WORK
from sequoia_core.model.loading.pair import Pair, load_pair
from sequoia_core.model.tensor_names import DRAFT_VOCAB_IDS, EMBEDDING, expected_shapes
from tests.core.distill.runs import TINY_RUN, load_text, run, tiny_target


@pytest.fixture(scope="module", params=["independent", "conditioned"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, Pair, Corpus]:
    """Kind, card, pair and held-out text of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    target = tiny_target(folder / "target")
    (folder / "target" / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    out = folder / "out"
    run(out, {**TINY_RUN, "target": target, "kind": request.param, "tokens": 3000})
    text = load_text(out / WORK / "text.npz")
    apart = text.held_out(max(len(text) // 20, 1), TINY_RUN["seed"])
    card = (out / "README.md").read_text()
    return request.param, card, load_pair(target, str(out), device="cpu"), text.select(apart)


def row(card: str, name: str) -> list[str]:
    """Cells of the table row that begins so."""
    lines = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
    assert len(lines) == 1, name
    return [cell.strip() for cell in lines[0].strip("|").split("|")][1:]


def shown(rates: Sequence[float]) -> list[str]:
    return [f"{rate:.4f}" for rate in rates]


def test_acceptance_is_what_the_decoders_own_code_counts(
    made: tuple[str, str, Pair, Corpus],
) -> None:
    _, card, pair, held_out = made
    rates, positions = accepted(pair, held_out, TINY_RUN["seed"])
    for kind, temperature in TEMPERATURES.items():
        stated = pair.acceptance_rates[kind]
        assert row(card, f"temperature {temperature:g}") == shown(rates[kind]) == shown(stated)
    assert f"over {positions:,} answer tokens of held-out" in card
    assert positions == int(held_out.answers.sum())


def test_first_choices_agree_as_often_as_counted_by_hand(
    made: tuple[str, str, Pair, Corpus],
) -> None:
    _, card, pair, held_out = made
    assert pair.draft is not None
    hits = total = 0
    for ids, prompt in answers(held_out):
        cache, tokens = pair.target.new_cache(), torch.tensor(ids)
        positions = torch.arange(len(ids))
        wanted = pair.target.forward(tokens, positions, None, cache).argmax(-1)
        target_cache = pair.draft.new_cache(cache)
        guessed = pair.draft.forward(tokens, positions, None, target_cache).argmax(-1)
        if pair.draft_vocab_ids is not None:
            guessed = pair.draft_vocab_ids[guessed]
        judged = slice(prompt - 1, len(ids) - 1)
        hits += int((wanted == guessed)[judged].sum())
        total += len(ids) - prompt
    assert total > 20
    # rows read in another grouping may round differently, so a near-tie may fall otherwise
    assert float(row(card, "temperature 0")[0]) == pytest.approx(hits / total, abs=1.5 / total)


def test_data_cost_and_origin_are_stated(made: tuple[str, str, Pair, Corpus]) -> None:
    kind, card, pair, held_out = made
    assert f"Kind: {kind}." in card
    assert "whose licence is: mit" in card
    began = "at random" if kind == "conditioned" else "as the target's 0, 1, 2, 3"
    assert f"which began {began}, " in card
    assert row(card, "steps") == ["6"]
    assert row(card, "conversations")[0].endswith(f", {len(held_out):,} held out")
    assert re.search(r"--kind conditioned|--steps 6", row(card, "command")[0])
    for name in ("draft", "target"):
        assert all(float(cell.removesuffix(" ms")) > 0 for cell in row(card, name))
    assert pair.draft is not None
    shapes = expected_shapes(pair.draft.config)
    own = shapes.keys() - {EMBEDDING, DRAFT_VOCAB_IDS}
    expected = sum(prod(shapes[name]) for name in own)
    stated = re.search(r"([\d,]+) parameters of its own", card)
    assert stated
    assert int(stated[1].replace(",", "")) == expected


def test_a_card_of_a_conditioned_draft_lists_depths_apart(
    made: tuple[str, str, Pair, Corpus],
) -> None:
    kind, card, _, _ = made
    depths = [line for line in card.splitlines() if re.match(r"\| \d \| \d\.", line)]
    assert len(depths) == (UNROLL if kind == "conditioned" else 1)


def test_a_licence_is_found_or_said_to_be_unknown(tmp_path: Path) -> None:
    assert "Apache" in stated_licence(None, {})
    assert stated_licence(str(tmp_path), {}) == UNKNOWN_LICENCE
    assert stated_licence(str(tmp_path), {"license": "bsd"}) == "bsd"
    assert stated_licence("owner/name", {"license": 3}) == UNKNOWN_LICENCE
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert stated_licence(str(tmp_path), {}) == "apache-2.0"


def test_every_answer_ends_before_the_question_after_it() -> None:
    talk = [1, 5, 3, 7, 8, 2, 5, 3, 9, 2], [False] * 3 + [True] * 3 + [False] * 2 + [True] * 2
    open_ended = [1, 3, 7], [False, False, True]
    begun, alone = ([7, 8], [True, True]), ([7, 3], [True, False])
    text = Corpus.of([talk, ([1, 2], [False, False]), open_ended, begun, alone], 96)
    expected = [([1, 5, 3, 7, 8, 2], 3), (talk[0], 8), ([1, 3, 7], 2), ([7, 8], 1)]
    assert list(answers(text)) == expected
