"""The text of a lane of a race."""

from hypothesis import given
from hypothesis import strategies as st
from rich.style import Style

from app.widgets.lane_text import GrowingLines


@given(
    texts=st.lists(st.text("ab \n\t日🙂", max_size=40), max_size=8),
    width=st.integers(1, 30),
    own=st.one_of(st.none(), st.integers(0, 80)),
)
def test_a_text_that_grows_is_wrapped_as_if_it_came_at_once(
    texts: list[str], width: int, own: int | None
) -> None:
    styles = Style(), Style(bold=True)
    grown, whole = GrowingLines(*styles), GrowingLines(*styles)
    text = ""
    for part in texts:
        text += part
        grown.wrap(text, None, width)
    assert grown.wrap(text, own, width) == whole.wrap(text, own, width)
