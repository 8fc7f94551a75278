"""The models and the tree shape that settings name, and conversations with them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from sequoia_core.config import Mode
from sequoia_core.events import Progress
from sequoia_core.model.loading.catalogue import find_pair, known_draft
from sequoia_core.speculate.tree_advisor import DEFAULT_CHAIN, MEASURED, PACKAGED
from sequoia_core.tree.choice import ADAPTIVE, TreeChoice
from sequoia_core.tree.files import find_growmap, largest_packaged
from sequoia_core.tree.growmap import GrowMap

from .settings import Settings

if TYPE_CHECKING:  # every command imports this module, few of them load a model
    from sequoia_core.chat.interface import ChatEngine
    from sequoia_core.model.loading.pair import Pair

SHAPES = ("auto", ADAPTIVE, MEASURED)
"""Growmaps that the machine chooses."""


class Models(NamedTuple):
    """What to load: each a directory, file or hub id."""

    target: str | None  # None is the embedded one
    draft: str | None  # None is the embedded one with the embedded target, else no draft
    remark: str = ""  # what was chosen for the person


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
    if draft is None:
        return Models(target, None, "no draft is named, so it decodes plainly; see --draft")
    return Models(target, draft, f"draft: {draft}, from the catalogue")


class TreeRoom(NamedTuple):
    """What a panel holds of a tree without scrolling."""

    nodes: int
    depth: int


_LEAST_SHOWN = 8  # nodes; in a smaller panel this tree scrolls


def shows_tree(settings: Settings) -> bool:
    """Whether trees are chosen to be looked at: a growmap that a person named stays."""
    unnamed = settings.growmap in SHAPES
    return settings.show_tree and unnamed and settings.mode is not Mode.AR


def show_tree_remark(settings: Settings) -> str:
    """What follows from the value of `show_tree`, as the end of a sentence."""
    if shows_tree(settings):
        return ": the next answer has a tree to look at, which may be slower"
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
    named = settings.growmap not in SHAPES
    return TreeChoice(
        settings.mode,
        find_growmap(settings.growmap, SHAPES) if named else None,
        adaptive={ADAPTIVE: True, MEASURED: False}.get(settings.growmap),
        lookup=settings.lookup,
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

    return load_pair(
        models.target, models.draft, dtype=settings.dtype, device=settings.device,
        weights=settings.weights, offload=settings.offload, progress=progress,
    )  # fmt: skip


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
