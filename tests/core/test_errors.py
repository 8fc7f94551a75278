"""What is suggested for a name that does not exist."""

import pytest

from sequoia_core.errors import close_names, suggest

KNOWN = ("temperature", "top_p", "top_k", "max_new_tokens", "smollm2-135m/greedy-16x4", "chain/4")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temp", "temperature"),
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("top-p", "top_p"),
        ("max", "max_new_tokens"),
        ("greedy-16", "smollm2-135m/greedy-16x4"),
        ("gredy-16x4", "smollm2-135m/greedy-16x4"),
        ("nucleus", "top_p"),
        ("nuclues", "top_p"),
    ],
)
def test_a_close_name_is_found(name: str, meant: str) -> None:
    assert close_names(name, KNOWN, {"nucleus": "top_p"}) == [meant]


def test_a_beginning_that_several_have_names_them() -> None:
    assert close_names("top", KNOWN, most=3) == ["top_p", "top_k"]


@pytest.mark.parametrize("name", ["nope", "", "x", "/"])
def test_where_nothing_is_close_all_are_named(name: str) -> None:
    assert close_names(name, KNOWN) == []
    assert suggest(name, KNOWN) == f"there is {', '.join(KNOWN)}"
    assert suggest(name, KNOWN, otherwise="see the list") == "see the list"


def test_a_suggestion_is_a_question() -> None:
    assert suggest("temp", KNOWN) == "did you mean temperature?"
    assert suggest("top", KNOWN, most=2) == "did you mean top_p or top_k?"
