"""Pictures of a chat with branches that a person has looked at."""

from tests.app.driving import Driver
from tests.app.picturing import Stage
from tests.fakes import make_answer, replay

ANSWERS = (
    "Rayleigh scattering: air scatters **blue** light more than red.",
    "Light crosses more air then, and the blue is gone.",
    "At dusk the blue has been scattered away; what is left is red.",
)


async def branch(chat: Driver) -> None:
    await chat.ask("Why is the sky blue?")
    await chat.ask("And red at dusk?")
    await chat.pilot.press("ctrl+r")
    await chat.finish()


async def test_branched(stage: Stage) -> None:
    async with stage.chat(replay(*map(make_answer, ANSWERS))) as chat:
        await branch(chat)


async def test_editing(stage: Stage) -> None:
    async with stage.chat(replay(*map(make_answer, ANSWERS))) as chat:
        await branch(chat)
        await chat.pilot.press("ctrl+e", *"?!")


async def test_editing_the_message_before(stage: Stage) -> None:
    async with stage.chat(replay(*map(make_answer, ANSWERS))) as chat:
        await branch(chat)
        await chat.pilot.press("ctrl+e", "up")
