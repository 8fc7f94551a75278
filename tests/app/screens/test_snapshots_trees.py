"""Pictures of trees that do not fit, that a person has looked at."""

from tests.app.picturing import Stage
from tests.app.widgets.test_tree_view import large_answer
from tests.fakes import replay


async def test_a_large_tree(stage: Stage) -> None:
    """Folded and with a minimap; where there is no room for it, its strip."""
    async with stage.chat(replay(large_answer())) as chat:
        await chat.ask()
        await chat.walk("home", "right_square_bracket")


async def test_a_fold_explained(stage: Stage) -> None:
    async with stage.chat(replay(large_answer())) as chat:
        await chat.ask()
        chat.app.chat.action_why()
        await chat.pilot.press("end", "down")
        tree = chat.tree
        fold = next(row.node for row in reversed(tree._rows) if row.folded)
        tree.point(fold)
