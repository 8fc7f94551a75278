"""The picture of a tree: well-formed whatever models write, and verdicts differ without colour."""

import itertools
from collections import defaultdict
from xml.etree import ElementTree as Xml

from hypothesis import given
from msgspec.structs import replace

from app.present.tree_picture import tree_svg
from app.state.sanitize import fit, quote_token
from sequoia_core.events import Step
from tests.app.present.test_tree_rows import quick, trees
from tests.fakes import PAIR, make_step

COLORS: dict[str, str] = defaultdict(lambda: "#808080")
SVG = "{http://www.w3.org/2000/svg}"
STEP = make_step(7, "a", [("b", 1), ("c", 2), ("d", 0)])


def drawn(step: Step) -> Xml.Element:
    return Xml.fromstring(tree_svg(step, PAIR, 2.9, COLORS))


def texts(root: Xml.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}text")]


@quick
@given(step=trees())
def test_every_token_is_in_it_as_text_whatever_it_is(step: Step) -> None:
    tokens = [*(node.text for node in step.nodes), step.bonus_text]
    found = texts(drawn(step))
    assert sorted(text for text in found if text.startswith('"')) == sorted(
        fit(quote_token(token), 18).rstrip() for token in tokens
    )


def test_names_of_models_are_text_too() -> None:
    pair = replace(PAIR, target="<script>&\x1b[31m\uffff", draft=None)
    svg = tree_svg(STEP, pair, 0.0, COLORS)
    assert "<script>" not in svg
    assert "<script>&␛[31m�" in texts(Xml.fromstring(svg))


def test_the_title_says_models_step_tokens_time_and_size() -> None:
    title, subtitle = texts(drawn(STEP))[:2]
    assert title == f"{PAIR.target} with {PAIR.draft}"
    assert subtitle == (
        f"Step 7: 3 tokens from one pass of the target, in {STEP.timings.total_ms:.1f} ms. "
        "Tree of 16 nodes, depth 4. So far 2.90 tokens per pass."
    )


def test_lines_are_as_wide_as_the_draft_is_sure_and_dashed_unless_emitted() -> None:
    root = drawn(STEP)
    lines = [each for each in root.iter(f"{SVG}path") if "C" in each.get("d", "")]
    assert len(lines) == len(STEP.nodes)  # one to each node but the root, and one to the bonus
    solid = [each for each in lines if each.get("stroke-dasharray") is None]
    assert len(solid) == len(STEP.path)
    widths = sorted(float(each.get("stroke-width", "0")) for each in lines)
    probs = sorted([*(node.draft_prob or 0.0 for node in STEP.nodes[1:]), STEP.bonus_prob])
    for width, prob in zip(widths, probs, strict=True):
        assert abs(width - (1.0 + 8.0 * prob)) < 0.01


def test_nothing_lies_outside_and_no_two_boxes_meet() -> None:
    root = drawn(STEP)
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    places = [
        (float(each.get("x", "0")), float(each.get("y", "0")))
        for each in root.iter(f"{SVG}text")
        if (each.text or "").startswith('"')
    ]
    assert all(0 < x < width and 0 < y < height for x, y in places)
    assert len(set(places)) == len(STEP.nodes) + 1
    columns = defaultdict(list)
    for x, y in places:
        columns[x].append(y)
    for heights in columns.values():
        heights.sort()
        assert all(b - a >= 25 for a, b in itertools.pairwise(heights))
