"""Which models and which tree the settings stand for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sequoia_core.decode.tree_choice import MEASURED
from sequoia_core.model.loading.catalogue import find_pair, known_draft
from sequoia_core.tree.choice import ADAPTIVE, TreeChoice
from sequoia_core.tree.files import find_growmap

from .chat_settings import ChatSettings

if TYPE_CHECKING:  # pydantic is for commands that need settings
    from .settings import Settings


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
