"""The catalogue of target and draft pairs, `pairs.toml`, and the memory that they need."""

import functools
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sequoia_core.errors import ParameterError, suggest
from sequoia_core.model.config import Eagle3, ModelConfig
from sequoia_core.model.config_entries import families
from sequoia_core.model.loading.memory_plan import (
    MemoryPlan,
    kv_token_bytes,
    plan_memory,
    recording_bytes,
)
from sequoia_core.model.tensor_names import weight_values

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
NO_DRAFT = "none"
_CONTEXT = 4096
BYTES_PER_VALUE = 2


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model's name on the Hugging Face hub and the shape that decides its memory."""

    name: str
    config: ModelConfig  # only the sizes are known; `vocab_size` is the rows of the output head
    gated: bool = False  # its licence must be accepted on the hub first, and `HF_TOKEN` set

    @classmethod
    def of(
        cls,
        name: str,
        *,
        family: str = "llama",
        gated: bool = False,
        feature_layers: int = 0,
        eagle3: bool = False,  # it reads a target as wide as itself, and its embedding
        **sizes: Any,
    ) -> "ModelShape":
        """From an entry of a catalogue: `ModelConfig`'s names, but the number of feature layers."""
        known: dict[str, Any] = {
            "embeddings_from_target": eagle3,
            "eagle3": Eagle3(sizes["hidden_size"]) if eagle3 else None,
            "tie_word_embeddings": False,
            "head_vocab_size": sizes["vocab_size"],
            "feature_layers": tuple(range(feature_layers)),
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "family": family,
            **families()[family].features,
        }
        return cls(name, ModelConfig(**(known | sizes)), gated)

    @property
    def parameters(self) -> int:
        return weight_values(self.config)

    def kv_bytes(self, context: int, feature_slots: int = 0) -> int:
        return context * kv_token_bytes(self.config, BYTES_PER_VALUE, feature_slots)


@dataclass(frozen=True, slots=True)
class PairEntry:
    """A pair under the name that `--pair` takes; an embedded one comes with the program."""

    name: str
    target: ModelShape
    draft: ModelShape
    embedded: bool = False

    @property
    def gated(self) -> bool:
        return self.target.gated or self.draft.gated

    @property
    def context(self) -> int:
        """Tokens of context that memory is counted for: both windows, at most 4096."""
        windows = self.target.config.context_window, self.draft.config.context_window
        return min(_CONTEXT, *windows)

    def plan(self, on_gpu: bool) -> MemoryPlan:
        weights = BYTES_PER_VALUE * (self.target.parameters + self.draft.parameters)
        states = self.draft.config.feature_count
        token = self.target.kv_bytes(1, states) + self.draft.kv_bytes(1, min(states, 1))
        columns = self.target.config.vocab_size, self.draft.config.head_vocab_size
        plan = plan_memory(
            self.target.config,
            columns[1],
            (weights, token),
            value_bytes=BYTES_PER_VALUE,
            on_gpu=on_gpu,
        )
        return replace(plan, recordings=recording_bytes(*columns)) if on_gpu else plan

    def fits(self, total: int, on_gpu: bool) -> bool:
        """Whether it fits into so many bytes, a tenth of them left for everything else."""
        return self.plan(on_gpu).needed(self.context) <= 0.9 * total


@functools.cache
def catalogue() -> tuple[PairEntry, ...]:
    """All known pairs, smallest target first."""
    data = tomllib.loads((Path(__file__).parent / "pairs.toml").read_text(encoding="utf-8"))
    models = {name: ModelShape.of(name, **entry) for name, entry in data["models"].items()}
    return tuple(
        PairEntry(**{**pair, "target": models[pair["target"]], "draft": models[pair["draft"]]})
        for pair in data["pairs"]
    )


def find_pair(name: str) -> PairEntry:
    """The pair of that name. Raises ParameterError with close names if there is none."""
    by_name = {entry.name: entry for entry in catalogue()}
    if name in by_name:
        return by_name[name]
    hint = suggest(name, by_name, most=3)
    raise ParameterError(f"pair {name!r} is not in the catalogue; {hint}")


def known_draft(target: str) -> str | None:
    """The hub id of the draft the catalogue has for a target's hub id."""
    for entry in catalogue():
        if entry.target.name.lower() == target.lower() and not entry.embedded:
            return entry.draft.name
    return None
