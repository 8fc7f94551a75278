"""The models and the tree shape that settings name, and conversations with them."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from sequoia_core.config import Mode
from sequoia_core.errors import ParameterError, suggest
from sequoia_core.events import Progress
from sequoia_core.files import path_exists
from sequoia_core.model.loading.catalogue import (
    HUB_ID,
    NO_DRAFT,
    catalogue,
    find_pair,
    known_draft,
)
from sequoia_core.model.loading.ollama import is_pulled
from sequoia_core.speculate.tree_advisor import DEFAULT_CHAIN, MEASURED, PACKAGED
from sequoia_core.tree.choice import ADAPTIVE, DYNAMIC, DynamicTree, TreeChoice
from sequoia_core.tree.files import find_growmap, largest_packaged
from sequoia_core.tree.growmap import GrowMap

from .interrupts import INTERRUPTS
from .settings import Settings

DEFAULT_DRAFT = "default"  # the draft that belongs to the target

if TYPE_CHECKING:  # every command imports this module, few of them load a model
    from sequoia_core.chat.interface import ChatEngine
    from sequoia_core.model.loading.pair import Pair

SHAPES = ("auto", ADAPTIVE, DYNAMIC, MEASURED)
"""Growmaps that are neither packaged nor in a file."""


class Models(NamedTuple):
    """What to load: each a directory, file or hub id."""

    target: str | None  # None is the embedded one
    draft: str | None  # None is the embedded one with the embedded target, else no draft
    remark: str = ""  # what was chosen for the person

    def same(self, other: "Models") -> bool:
        """Whether both load the same."""
        return self._loaded == other._loaded

    @property
    def _loaded(self) -> tuple[str | None, str | None]:
        without = self.target is not None and self.draft is None
        return self.target, NO_DRAFT if without else self.draft


def chosen_models(settings: Settings) -> Models:
    """The models that the settings `pair`, `target` and `draft` name.

    Raises ParameterError if the pair is unknown.
    """
    target, draft = settings.target, settings.draft
    if settings.pair is not None:
        entry = find_pair(settings.pair)
        if entry.embedded:
            return Models(None, draft)
        return Models(entry.target.name, draft or entry.draft.name)
    if target is None or draft is not None:
        return Models(target, draft)
    draft = known_draft(target)
    return Models(target, draft, f"draft: {draft}, from the catalogue" if draft else "")


def with_target(settings: Settings, words: str) -> Settings:
    """The settings with another pair or target, and with the draft that belongs to it.

    Raises ParameterError if the words name neither.
    """
    pairs = [entry.name for entry in catalogue()]
    if words in pairs:
        return replace(settings, pair=words, target=None, draft=None)
    _check_source(words, pairs, "/model lists the models here")
    return replace(settings, pair=None, target=words, draft=None)


def with_draft(settings: Settings, words: str) -> Settings:
    """The settings with another draft: `none`, or `default` for the one that belongs to the target.

    Raises ParameterError if the words name no draft.
    """
    if words == DEFAULT_DRAFT:
        return replace(settings, draft=None)
    if words != NO_DRAFT:
        _check_source(words, (NO_DRAFT, DEFAULT_DRAFT), "/draft lists the models here")
    return replace(settings, draft=words)


def _check_source(words: str, known: Iterable[str], otherwise: str) -> None:
    if not path_exists(words) and not HUB_ID.fullmatch(words) and not is_pulled(words):
        hint = suggest(words, known, otherwise=otherwise)
        raise ParameterError(f"{words!r} is no pair, folder, GGUF file or hub id; {hint}")


class TreeRoom(NamedTuple):
    """What a panel holds of a tree without scrolling."""

    nodes: int
    depth: int


_LEAST_SHOWN = 8  # nodes; in a smaller panel this tree scrolls


def shows_tree(settings: Settings) -> bool:
    """Whether trees are chosen to be looked at: a growmap that a person named stays."""
    unnamed = settings.growmap in SHAPES and settings.growmap != DYNAMIC
    return settings.show_tree and unnamed and settings.mode is not Mode.AR


def tree_remark(name: str, settings: Settings) -> str:
    """What follows from another value of `show_tree` or `growmap`, as the end of a sentence."""
    if name == "growmap" and shows_tree(settings):
        return ", used once show_tree is off"
    if name != "show_tree":
        return ""
    if shows_tree(settings):
        return ": larger, maybe slower trees next"
    if settings.show_tree and settings.mode is Mode.AR:
        return ", but mode ar decodes without trees"
    return f", but growmap {settings.growmap}, which you named, stays" if settings.show_tree else ""


def tree_choice(settings: Settings, room: TreeRoom | None = None) -> TreeChoice:
    """Mode, tree shape and lookup. Raises GrowMapError if the named shape cannot be used.

    With `show_tree` the shape is the largest packaged one that has `room`, where that is given.
    """
    if room is not None and shows_tree(settings):
        return TreeChoice(
            settings.mode, _shown_growmap(settings, room), lookup=settings.lookup, shown=True
        )
    dynamic = DynamicTree.named(settings.growmap)
    named = dynamic is None and settings.growmap not in SHAPES
    return TreeChoice(
        settings.mode,
        find_growmap(settings.growmap, SHAPES) if named else None,
        adaptive={ADAPTIVE: True, MEASURED: False}.get(settings.growmap),
        lookup=settings.lookup,
        dynamic=dynamic,
    )


def _shown_growmap(settings: Settings, room: TreeRoom) -> GrowMap:
    if settings.mode is Mode.CHAIN:
        return GrowMap.chain(max(DEFAULT_CHAIN, min(room.nodes - 1, room.depth)))
    greedy = settings.temperature == 0.0 or settings.mode is Mode.GREEDY
    folder, _, _ = PACKAGED["greedy" if greedy else "stochastic"].rpartition("-")
    largest = largest_packaged(f"{folder}-", max(_LEAST_SHOWN, room.nodes), room.depth)
    assert largest is not None, "a tree of so few nodes is flat"
    return largest


def load_chosen(settings: Settings, progress: Progress) -> "Pair":
    models = chosen_models(settings)
    from sequoia_core import load_pair

    def report(message: str, fraction: float | None) -> None:
        INTERRUPTS.check()
        progress(message, fraction)

    pair = load_pair(
        models.target, models.draft, dtype=settings.dtype, device=settings.device,
        weights=settings.weights, offload=settings.offload, graphs=settings.graphs,
        quantize=settings.quantize, tensor_parallel=settings.tensor_parallel,
        context_window=settings.context_window, progress=report,
    )  # fmt: skip
    INTERRUPTS.check()
    return pair


def load_for_many(
    settings: Settings, progress: Progress, *, insight: bool = False
) -> "Callable[[], ChatEngine]":
    """Load the pair once; the function returned begins a conversation with it."""
    choice = tree_choice(settings)  # an error here comes before minutes of loading
    pair = load_chosen(settings, progress)
    from sequoia_core import Conversation

    return lambda: Conversation(
        pair, system_prompt=settings.system, tree_choice=choice, insight=insight
    )


def build_chat(settings: Settings, progress: Progress, *, insight: bool = False) -> "ChatEngine":
    return load_for_many(settings, progress, insight=insight)()
