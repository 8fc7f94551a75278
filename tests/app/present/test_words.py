"""Titles of chats: the first words that say what a chat is about."""

import pytest

from app.present.words import title_of


@pytest.mark.parametrize(
    ("prompt", "title"),
    [
        ("why is the sky blue?", "why is the sky blue?"),
        ("Hi! Could you please explain trees?", "Explain trees?"),
        ("Hello", "Hello"),
        ("```python\nx = 1\n```\nWhat does this do?", "What does this do?"),
        ("~~~\nonly code\n", "~~~ only code"),
        ("# A heading\n\nText", "A heading"),
        ("\n\n  - item one\n- item two", "item one"),
        ("Canary birds", "Canary birds"),
        ("I'd like you to write a story about a lighthouse and the two people who keep it lit",
         "Write a story about a lighthouse and the two people who…"),
        ("x" * 100, "x" * 60 + "…"),
        ("", ""),
        ("?!", "?!"),
    ],
)  # fmt: skip
def test_a_title_is_the_first_meaningful_words(prompt: str, title: str) -> None:
    assert title_of(prompt) == title
