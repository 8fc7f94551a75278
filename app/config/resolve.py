"""The models and the tree shape that settings name."""

from dataclasses import dataclass

from sequoia_core.model.loading.catalogue import find_pair, known_draft
from sequoia_core.speculate.tree_advisor import MEASURED
from sequoia_core.tree.choice import ADAPTIVE, TreeChoice
from sequoia_core.tree.files import find_growmap

from .settings import Settings


@dataclass(frozen=True, slots=True)
class Models:
    """What to load.

    Attributes:
        target: a directory, file or hub id; None is the embedded one.
        draft: as `target`; None is the embedded one with the embedded target, else no draft.
        remark: what was chosen for the person; "" if nothing was.
    """

    target: str | None
    draft: str | None
    remark: str = ""


def chosen_models(settings: Settings) -> Models:
    """The models that the settings `pair`, `target` and `draft` name.

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


def tree_choice(settings: Settings) -> TreeChoice:
    """Mode, tree shape and lookup.

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
