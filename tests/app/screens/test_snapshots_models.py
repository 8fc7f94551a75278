"""Pictures of the list of models that a person has looked at."""

from app.app import SequoiaApp, Settings
from tests.app.driving import Driver
from tests.app.picturing import Stage
from tests.app.screens.test_models import FakeLoader, choose
from tests.fakes import replay


async def test_models_listed(stage: Stage) -> None:
    app = SequoiaApp(lambda progress: replay(), Settings(), models=FakeLoader())
    async with stage.shown(app) as pilot:
        chat = Driver(app, pilot)
        await chat.ready()
        await choose(chat, "down")
