"""Sequoia tree speculation as a library: a pair of models, a conversation, a stream of events.

Each public name is loaded on first use, so that importing the package stays cheap.

    from sequoia_core import Conversation, SamplingParams, load_pair

    chat = Conversation(load_pair())
    for event in chat.reply("Why is the sky blue?", SamplingParams(), lambda: False):
        print(event)
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sequoia_core import events
    from sequoia_core.chat.conversation import Conversation
    from sequoia_core.config import Mode, SamplingParams
    from sequoia_core.decode.engine import Engine
    from sequoia_core.errors import SequoiaError
    from sequoia_core.model.loading.pair import load_pair
    from sequoia_core.text.chat_template import Turn
    from sequoia_core.tree.choice import TreeChoice
    from sequoia_core.tree.growmap import GrowMap

__all__ = [
    "Conversation", "Engine", "GrowMap", "Mode", "SamplingParams", "SequoiaError", "TreeChoice",
    "Turn", "__version__", "events", "load_pair",
]  # fmt: skip

_MODULES = {
    "Conversation": "chat.conversation",
    "Engine": "decode.engine",
    "GrowMap": "tree.growmap",
    "Mode": "config",
    "SamplingParams": "config",
    "SequoiaError": "errors",
    "TreeChoice": "tree.choice",
    "Turn": "text.chat_template",
    "load_pair": "model.loading.pair",
}

try:
    __version__ = metadata.version("sequoia-chat")
except metadata.PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+checkout"


def __getattr__(name: str) -> Any:
    if name == "events":
        return import_module("sequoia_core.events")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"sequoia_core.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
