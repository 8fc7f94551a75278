"""What `/model` and `/draft` do: the list, and other models in the running chat."""

from dataclasses import dataclass, replace

from sequoia_core.events import PairDescription

from ...config.model_choice import chosen_models
from ...config.model_list import ModelKind, ModelLoader, chosen
from ...config.preferences import Preferences
from ...config.settings import Settings
from ...engine.decode_thread import DecodeThread
from ...engine.messages import Loading, Ready, Report, Switch, SwitchFailed
from ...present.words import progress_text, without_draft
from ...state.chat_session import ChatError, ChatSession
from ...state.history import turns
from ...ui.base_app import errors_shown
from ...widgets.prompt import Prompt
from ..models import ChosenModels, ModelsScreen
from .branches import TranscriptPages

SHARED = (
    "windows share their models: `sequoia web --target MODEL` starts with others, "
    "and so does `sequoia` in a terminal"
)
STILL_LOADING = "the models are still loading: choose others in a moment"
IN_USE = "these models are in use already"


@dataclass(slots=True)
class ModelSwitch:
    session: ChatSession
    decoder: DecodeThread
    loader: ModelLoader | None  # None: the models are not this window's own
    preferences: Preferences
    pages: TranscriptPages
    prompt: Prompt
    _wanted: ChosenModels | None = None  # what is being loaded

    @property
    def loading(self) -> bool:
        return self._wanted is not None

    def act(self, kind: ModelKind, words: str) -> None:
        """Choose from a list, or what is named; raises ChatError if that cannot be done now."""
        loader, settings = self._check(), self.session.settings
        if words:
            self._load(loader, ChosenModels(chosen(kind, settings, words), keep=False))
        else:
            screen = ModelsScreen(kind, settings, lambda: loader.rows(kind, settings))
            self.prompt.app.push_screen(screen, self._chosen)

    def _check(self) -> ModelLoader:
        if self.loader is None:
            raise ChatError(SHARED)
        self.session.check_idle()
        if self.loading or (self.session.pair is None and self.session.unready == "loading"):
            raise ChatError(STILL_LOADING)
        return self.loader

    def _chosen(self, choice: ChosenModels | None) -> None:
        with errors_shown(self.prompt.hint):
            if choice is not None:
                self._load(self._check(), choice)

    def _load(self, loader: ModelLoader, choice: ChosenModels) -> None:
        session, now, wanted = self.session, self.session.settings, choice.settings
        if session.pair is not None and chosen_models(wanted).same(chosen_models(now)):
            self.prompt.hint(self._keep(wanted) if choice.keep else IN_USE)
            return
        self.decoder.submit(
            Switch(
                check=lambda engine: loader.check(wanted, now, engine),
                load=lambda engine, progress: loader.load(wanted, progress, engine),
                load_again=lambda progress: loader.load(now, progress),
                turns=turns(session.history.branch),
            )
        )
        self._wanted, session.pair, session.unready = choice, None, "loading"
        self.prompt.hint("Looking at the models", passing=True)

    def take(self, report: Report) -> None:
        """Take in what came of it, after the session did."""
        choice, session = self._wanted, self.session
        match report:
            case Loading(message, fraction) if choice is not None:
                doing = progress_text(message, fraction)
                self.prompt.hint(f"{doing} (chat.stop stops it)", passing=True)
            case Ready(pair) if choice is not None:
                self._wanted = None
                wanted = choice.settings
                session.settings = replace(
                    session.settings, pair=wanted.pair, target=wanted.target, draft=wanted.draft
                )
                session.tree = None  # the known one is of the models before
                after = session.last.id if session.last is not None else ""
                self.pages.note(_news(pair, session.settings), topic=f"models after {after}")
                if choice.keep:
                    with errors_shown(lambda error: self.pages.note(error, error=True)):
                        self.pages.note(self._keep(wanted))
            case SwitchFailed(message, pair):
                self._wanted = None
                session.pair, session.unready = pair, "no model"
                session.tree = None  # the models may have been loaded again, without it
                self.pages.name_answers()
                goes_on = f"; {pair.target} stays" if pair is not None else "; /model chooses one"
                self.prompt.hint(message + goes_on)

    def _keep(self, settings: Settings) -> str:
        """Keep the models for the next start; a line that says so."""
        remark = self.preferences.write_models(settings)
        return f"kept for the next start{f'; {remark}' if remark else ''}"


def _news(pair: PairDescription, settings: Settings) -> str:
    if pair.draft is not None:
        return f"{pair.target} ← {pair.draft} answers from here on"
    return (
        f"{pair.target} answers from here on; it has no draft: {without_draft(settings)}. "
        "/draft chooses one"
    )
