"""The models and the tree shape that settings name, and conversations with them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from sequoia_core.events import Progress
from sequoia_core.model.loading.catalogue import find_pair, known_draft
from sequoia_core.speculate.tree_advisor import MEASURED
from sequoia_core.tree.choice import ADAPTIVE, TreeChoice
from sequoia_core.tree.files import find_growmap

from .settings import Settings

if TYPE_CHECKING:  # every command imports this module, few of them load a model
    from sequoia_core.chat.interface import ChatEngine
    from sequoia_core.model.loading.pair import Pair


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


def tree_choice(settings: Settings) -> TreeChoice:
    """Mode, tree shape and lookup. Raises GrowMapError if the named shape cannot be used."""
    others = ("auto", ADAPTIVE, MEASURED)
    named = settings.growmap not in others
    return TreeChoice(
        settings.mode,
        find_growmap(settings.growmap, others) if named else None,
        adaptive={ADAPTIVE: True, MEASURED: False}.get(settings.growmap),
        lookup=settings.lookup,
    )


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
