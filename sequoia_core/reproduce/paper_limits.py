"""Whether a machine can hold a published pair, estimated from the models' shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sequoia_core.reproduce.paper_facts import PaperPair

_RESIDENT_LAYERS = 2
_HUB_BYTES = 2  # published weights have 16 bits
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Room:
    """What a machine has.

    Attributes:
        place: where the models would be, for instance `cuda:0`.
        memory: bytes free there.
        disk: bytes free for models that are downloaded.
        value_bytes: of a weight in the number format of the forwards.
        token: whether there is a hub token.
        fetched: whether a model is on the disk already, by its hub id.
    """

    place: str
    memory: int
    disk: int
    value_bytes: int
    token: bool
    fetched: Callable[[str], bool]


def why_not(pair: PaperPair, room: Room, tokens: int) -> str:
    """Why the pair cannot be run with so many tokens in the caches; "" if it seems possible."""
    needed = needed_bytes(pair, room.value_bytes, tokens)
    if needed > room.memory:
        streamed = " with the target's layers streamed" if pair.offload else ""
        return (
            f"needs {needed / _GIB:.1f} GiB{streamed}, {room.memory / _GIB:.1f} GiB are free on "
            f"{room.place}"
        )
    missing = [model for model in (pair.target, pair.draft) if not room.fetched(model.name)]
    size = sum(model.parameters for model in missing) * _HUB_BYTES
    if size > room.disk:
        return (
            f"{size / _GIB:.1f} GiB would be fetched, {room.disk / _GIB:.1f} GiB are free on disk"
        )
    gated = (model.name for model in missing if model.gated and not room.token)
    return next((f"{name} is gated and there is no HF_TOKEN" for name in gated), "")


def needed_bytes(pair: PaperPair, value_bytes: int, tokens: int) -> int:
    """Weights and caches of both models; a streamed target has two layers in memory at a time."""
    target = pair.target
    if pair.offload:
        target = replace(target, config=replace(target.config, num_layers=_RESIDENT_LAYERS))
    weights = (target.parameters + pair.draft.parameters) * value_bytes
    return weights + pair.target.kv_bytes(tokens) + pair.draft.kv_bytes(tokens)
