"""From settings to an engine that can answer.

Owns which models a setting means and the order of checks before minutes are spent on loading. Knows
no screen and no terminal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.decode.tree_choice import MEASURED
from sequoia_core.model.loading.catalogue import find_pair, known_draft
from sequoia_core.tree.choice import ADAPTIVE, TreeChoice
from sequoia_core.tree.growmap import find_growmap

from .messages import ChatSettings, LoadProgress

if TYPE_CHECKING:  # pydantic is for commands that need settings
    from sequoia_core.model.loading.pair import Pair

    from ..config.settings import Settings


@dataclass(frozen=True, slots=True)
class Models:
    """What to load.

    Attributes:
        target: a directory, file or hub id; None is the embedded one.
        draft: likewise; None is the embedded one beside the embedded target, else no draft.
        remark: what was decided for the person; "" if nothing was.
    """

    target: str | None
    draft: str | None
    remark: str = ""


def chosen_models(settings: "Settings") -> Models:
    """The models that pair, target and draft come to.

    Raises:
        ParameterError: the pair is unknown.
    """
    if settings.pair is not None:
        entry = find_pair(settings.pair)
        if entry.embedded:
            return Models(None, settings.draft)
        return Models(entry.target.name, settings.draft or entry.draft.name)
    if settings.target is None or settings.draft is not None:
        return Models(settings.target, settings.draft)
    draft = known_draft(settings.target)
    if draft is None:
        return Models(
            settings.target, None, "no draft is named, so it decodes plainly; see --draft"
        )
    return Models(settings.target, draft, f"draft: {draft}, from the catalogue")


def tree_choice(settings: "Settings | ChatSettings") -> TreeChoice:
    """Mode, tree shape and look-up.

    Raises:
        GrowMapError: the named shape does not exist or is malformed.
    """
    others = ("auto", ADAPTIVE, MEASURED)
    named = settings.growmap not in others
    return TreeChoice(
        settings.mode,
        find_growmap(settings.growmap, others) if named else None,
        adaptive={ADAPTIVE: True, MEASURED: False}.get(settings.growmap),
        lookup=settings.lookup,
    )


def load_chosen(settings: "Settings", progress: LoadProgress) -> "Pair":
    """Load the models that the settings mean.

    Raises:
        SequoiaError: a setting names something that is not there, or the models do not load.
    """
    models = chosen_models(settings)
    from sequoia_core import load_pair

    return load_pair(
        models.target,
        models.draft,
        dtype=settings.dtype,
        device=settings.device,
        weights=settings.weights,
        offload=settings.offload,
        progress=progress,
    )


def load_for_many(
    settings: "Settings", progress: LoadProgress, *, insight: bool = False
) -> Callable[[], ChatEngine]:
    """Load the pair once; what is returned begins a conversation with it.

    Args:
        settings: which models, and how conversations begin.
        progress: told what is being loaded.
        insight: steps say why they came out as they did; see `Step.insight`.

    Raises:
        SequoiaError: a setting names something that is not there, or the models do not load.
    """
    choice = tree_choice(settings)
    pair = load_chosen(settings, progress)
    from sequoia_core import Conversation

    return lambda: Conversation(
        pair, system_prompt=settings.system, tree_choice=choice, insight=insight
    )


def build_chat(
    settings: "Settings", progress: LoadProgress, *, insight: bool = False
) -> ChatEngine:
    """Load the pair and begin a conversation; see `load_for_many`.

    Raises:
        SequoiaError: a setting names something that is not there, or the models do not load.
    """
    return load_for_many(settings, progress, insight=insight)()
