"""The models that a chat can switch to: listed, checked and loaded. All of it blocks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.errors import ModelLoadError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.model.loading.catalogue import NO_DRAFT, catalogue

from . import model_choice
from .model_choice import DEFAULT_DRAFT, Models, chosen_models, with_draft, with_target
from .paths import config_file, working_folder
from .settings import Settings

if TYPE_CHECKING:
    from sequoia_core.chat.conversation import Conversation
    from sequoia_core.chat.interface import ChatEngine
    from sequoia_core.model.loading.local_models import LocalModel, MemoryRoom, RoomFinder

CATALOGUE, HUB_CACHE = "Pairs of the catalogue", "Cache of the Hugging Face hub"
OLLAMA = "ollama"
NO_ROOM = "choose a smaller model, or start with --offload disk"
_ONLY_DRAFT = "a draft, which cannot decide a text; /draft takes it"
_LM_STUDIO = Path(".lmstudio") / "models"


class ModelKind(StrEnum):
    """What is chosen; the command has the same name."""

    TARGET = "model"
    DRAFT = "draft"


def chosen(kind: ModelKind, settings: Settings, words: str) -> Settings:
    """The settings with another target or draft; raises ParameterError if there is none such."""
    return (with_target if kind is ModelKind.TARGET else with_draft)(settings, words)


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model that can be chosen, and what is known of it."""

    place: str  # heading over it
    name: str
    settings: Settings  # those that choose it
    detail: str = ""  # about it, in a few words
    size: int = 0  # bytes of its files; 0 if that is not known
    needed: int = 0  # bytes of memory for the whole pair; 0 if that is not known
    problem: str = ""  # why it cannot be chosen
    here: bool = True  # otherwise it is downloaded first
    in_use: bool = False


class ModelLoader:
    """Lists, checks and loads models."""

    def rows(self, kind: ModelKind, settings: Settings) -> Iterator[ModelRow]:
        """Every model of a kind that is known, for a chat with these settings."""
        return _Listing(kind, settings).rows()

    def check(self, wanted: Settings, now: Settings, engine: "ChatEngine | None" = None) -> bool:
        """Whether there is memory for a pair while the one in use stays, which `engine` has.

        Raises SequoiaError if it cannot be used: a model is broken, there is too little memory, or
        the tokenizers differ. Reads no weights, and fetches nothing.
        """
        from sequoia_core.model.loading.loader import describe_checkpoint
        from sequoia_core.model.loading.pair import check_tokenizers

        models = chosen_models(wanted)
        target, draft = _found(wanted)
        pair = [target, *([draft] if draft else [])]
        for each in pair:
            if each.problem:
                describe_checkpoint(each.source)  # raises what is wrong in full
                raise ModelLoadError(f"{each.source}: {each.problem}")
        if all(each.here for each in pair):
            check_tokenizers(models.target, models.draft)
        finder = _room_finder(now)
        room = _room(finder, target, draft)
        if room is None:
            return False
        if room.shortage:
            raise ModelLoadError(f"{target.source}: {room.shortage}; {NO_ROOM}")
        held = {}
        if target.model is not None and _with_its_target(engine, models) is not None:
            held = finder.weights_of(target.model, None)
        beside = _room(replace(finder, held=held), target, draft)
        return beside is not None and not beside.shortage

    def load(
        self, settings: Settings, progress: Progress, engine: "ChatEngine | None" = None
    ) -> "ChatEngine":
        """Load a pair, or its draft alone where `engine` has its target, and goes on with it."""
        models = chosen_models(settings)
        if (chat := _with_its_target(engine, models)) is not None:
            return chat.with_draft(models.draft, progress)
        return model_choice.build_chat(settings, progress, insight=settings.insight)


class _Listing:
    def __init__(self, kind: ModelKind, settings: Settings) -> None:
        self._kind, self._settings = kind, settings
        self._now = chosen_models(settings)
        self._finder = _room_finder(settings)
        self._known: dict[str | None, LocalModel] = {}

    def rows(self) -> Iterator[ModelRow]:
        if self._kind is ModelKind.TARGET:
            for entry in catalogue():
                about = f"{entry.target.name} ← {entry.draft.name}"
                row = self._row(CATALOGUE, entry.name, entry.name, about)
                gated = entry.gated and not row.here
                more = "; accept its licence on the hub and set HF_TOKEN first" if gated else ""
                yield replace(row, detail=about + more)
        else:
            yield self._row("For this target", NO_DRAFT, NO_DRAFT, "prompt lookup alone")
            own = chosen_models(replace(self._settings, draft=None))
            if own.target is None or own.draft is not None:
                name = own.draft or "bundled draft"
                yield self._row("For this target", name, DEFAULT_DRAFT, "the target's own")
        for place, name, found in _local_models():
            self._known[found.source] = found
            yield self._row(place, name, found.source)

    def _row(self, place: str, name: str, words: str, detail: str = "") -> ModelRow:
        from sequoia_core.model.loading.local_models import find_draft

        settings = chosen(self._kind, self._settings, words)
        models = chosen_models(settings)
        target = self._find(models.target)
        known = self._known.get(models.draft) if models.draft else None
        draft = known or find_draft(models.target, models.draft)
        pair = [target, *([draft] if draft else [])]
        problem, needed = next((each.problem for each in pair if each.problem), ""), 0
        try:
            if not problem and target.is_draft:
                problem = _ONLY_DRAFT
            elif not problem and (room := _room(self._finder, target, draft)) is not None:
                needed, problem = room.needed, room.shortage
        except SequoiaError as error:
            problem = str(error)
        listed = pair if self._kind is ModelKind.TARGET else pair[1:]
        if self._kind is ModelKind.TARGET and not detail:
            detail = f"with {models.draft}" if models.draft else "no draft: prompt lookup alone"
        return ModelRow(
            place,
            name,
            settings,
            detail,
            size=sum(each.size for each in listed),
            needed=needed,
            problem=problem,
            here=all(each.here for each in pair),
            in_use=models.same(self._now),
        )

    def _find(self, source: str | None) -> "LocalModel":
        from sequoia_core.model.loading.local_models import find_model

        if source not in self._known:
            self._known[source] = find_model(source)
        return self._known[source]


def _with_its_target(engine: "ChatEngine | None", models: Models) -> "Conversation | None":
    """The chat in use, if a pair differs from its own by the draft alone."""
    from sequoia_core.chat.conversation import Conversation

    if isinstance(engine, Conversation) and engine.keeps_target(models.target, models.draft):
        return engine
    return None


def _found(settings: Settings) -> "tuple[LocalModel, LocalModel | None]":
    from sequoia_core.model.loading.local_models import find_draft, find_model

    models = chosen_models(settings)
    return find_model(models.target), find_draft(models.target, models.draft)


def _room(
    finder: "RoomFinder", target: "LocalModel", draft: "LocalModel | None"
) -> "MemoryRoom | None":
    """None if a model's shape is not known."""
    if target.model is None or (draft is not None and draft.model is None):
        return None
    return finder.room(target.model, draft.model if draft else None)


def _room_finder(settings: Settings) -> "RoomFinder":
    """Finds the memory for pairs in place of the one that these settings have loaded."""
    from sequoia_core.model.loading.local_models import RoomFinder

    finder = RoomFinder(
        settings.dtype,
        settings.device,
        settings.weights,
        settings.offload,
        settings.graphs,
        settings.tensor_parallel,
        settings.quantize,
        settings.context_window,
    )
    target, draft = _found(settings)
    if target.model is None:
        return finder
    try:
        held = finder.weights_of(target.model, draft.model if draft else None)
    except SequoiaError:  # such a pair is not loaded, and another may be
        return finder
    return replace(finder, held=held)


def _local_models() -> "Iterator[tuple[str, str, LocalModel]]":
    """Each model on this machine, with the place where it is and its name there."""
    from sequoia_core.model.loading.local_models import cached_models, folder_models, ollama_models

    own = config_file().parent / "models"
    places = {"This folder": working_folder(), str(own): own, "LM Studio": Path.home() / _LM_STUDIO}
    for place, folder in places.items():
        for found in folder_models(folder):
            path = Path(found.source)
            yield place, path.name if path == folder else str(path.relative_to(folder)), found
    for found in ollama_models():
        yield OLLAMA, found.source, found
    for found in cached_models():
        name = Path(found.source).name if found.source.endswith(".gguf") else found.source
        yield HUB_CACHE, name, found
