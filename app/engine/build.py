"""Loads the models that the settings name, or raises SequoiaError; begins conversations."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sequoia_core.events import Progress

from ..config.model_choice import chosen_models, tree_choice
from ..config.settings import Settings

if TYPE_CHECKING:  # every command imports this module, few of them load a model
    from sequoia_core.chat.interface import ChatEngine
    from sequoia_core.model.loading.pair import Pair


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
