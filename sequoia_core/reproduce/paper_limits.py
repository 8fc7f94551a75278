"""Whether a machine can hold a published pair, told before anything is downloaded.

Owns the estimate from the models' shapes. Asks the machine nothing: what it has is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sequoia_core.model.loading.catalogue import ModelShape
from sequoia_core.reproduce.paper_facts import PaperPair

_RESIDENT_LAYERS = 2
_HUB_BYTES = 2  # published weights have 16 bits
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Room:
    """What a machine has.

    Attributes:
        place: where the models would lie, for instance `cuda:0`.
        memory: bytes free there.
        disk: bytes free where models are kept that are fetched.
        value_bytes: of a weight in the number format that is computed in.
        token: whether the hub would be asked with one.
        fetched: whether a model lies here already, by its hub id.
    """

    place: str
    memory: int
    disk: int
    value_bytes: int
    token: bool
    fetched: Callable[[str], bool]


def why_not(pair: PaperPair, room: Room, tokens: int) -> str:
    """Why the pair cannot be run, in a few words; "" where nothing is known to stand against it.

    Args:
        pair: both models.
        room: what there is for them.
        tokens: in the caches.
    """
    return _memory(pair, room, tokens) or _fetching(pair, room)


def _memory(pair: PaperPair, room: Room, tokens: int) -> str:
    needed = needed_bytes(pair, room.value_bytes, tokens)
    if needed <= room.memory:
        return ""
    streamed = " with the target's layers streamed" if pair.offload else ""
    return (
        f"needs {needed / _GIB:.1f} GiB{streamed}, {room.memory / _GIB:.1f} GiB are free on "
        f"{room.place}"
    )


def needed_bytes(pair: PaperPair, value_bytes: int, tokens: int) -> int:
    """Weights and caches of both models; of a streamed target two layers and what is no layer."""
    target = pair.target
    if pair.offload:
        target = replace(target, config=replace(target.config, num_layers=_RESIDENT_LAYERS))
    weights = (target.parameters + pair.draft.parameters) * value_bytes
    return weights + pair.target.kv_bytes(tokens) + pair.draft.kv_bytes(tokens)


def _fetching(pair: PaperPair, room: Room) -> str:
    missing = [model for model in (pair.target, pair.draft) if not room.fetched(model.name)]
    size = sum(model.parameters for model in missing) * _HUB_BYTES
    if size > room.disk:
        return (
            f"{size / _GIB:.1f} GiB would be fetched, {room.disk / _GIB:.1f} GiB are free on disk"
        )
    return next((_gate(model) for model in missing if model.gated and not room.token), "")


def _gate(model: ModelShape) -> str:
    return f"{model.name} is gated and there is no HF_TOKEN"
