"""The catalogue of target and draft pairs: their names, sizes and the memory they need.

Owns `pairs.toml` and the arithmetic from a model's shape to bytes. Knows nothing of this machine
and loads no model.
"""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

from sequoia_core.errors import ParameterError, suggest
from sequoia_core.model.loading.memory_plan import Held, MemoryPlan, kv_token_bytes, plan_memory

_CONTEXT = 4096
_BYTES_PER_VALUE = 2


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model's name on the Hugging Face hub and the sizes that decide its memory.

    Attributes are named as in `model.config.ModelConfig`. `vocab_size` is the rows of the output
    head; `feature_layers` is how many hidden states of its target a conditioned draft reads.
    """

    name: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_window: int
    tie_word_embeddings: bool = False
    gated: bool = False
    feature_layers: int = 0

    @property
    def parameters(self) -> int:
        """Weights of a Llama of this shape; a tied output head counts once."""
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        layers = self.num_layers * (attention + mlp + norms)
        return layers + embeddings + self.hidden_size + self._conditioning

    @property
    def _conditioning(self) -> int:
        """Weights of a conditioned draft's inputs, with their shifts and scales."""
        if not self.feature_layers:
            return 0
        inputs = self.feature_layers + 1
        return self.hidden_size * ((inputs + 2) * self.hidden_size + 2 * inputs)

    def kv_bytes(self, context: int) -> int:
        """Keys and values of `context` tokens in 16 bits."""
        return context * kv_token_bytes(self, _BYTES_PER_VALUE)


@dataclass(frozen=True, slots=True)
class PairEntry:
    """One line of the catalogue.

    Attributes:
        name: what `--pair` takes.
        target: the model whose text it is.
        draft: the small model that speculates.
        embedded: both come with the program; nothing is downloaded.
    """

    name: str
    target: ModelShape
    draft: ModelShape
    embedded: bool = False

    @property
    def gated(self) -> bool:
        """A model's licence must be accepted on the hub first, and `HF_TOKEN` set."""
        return self.target.gated or self.draft.gated

    @property
    def context(self) -> int:
        """Tokens of context that memory is counted for: both windows, at most 4096."""
        return min(_CONTEXT, self.target.context_window, self.draft.context_window)

    def plan(self, on_gpu: bool) -> MemoryPlan:
        """What both models take in 16 bits."""
        models = (self.target, self.draft)
        held = Held(
            weights=_BYTES_PER_VALUE * sum(model.parameters for model in models),
            token=sum(model.kv_bytes(1) for model in models),
        )
        return plan_memory(
            self.target,
            self.draft.vocab_size,
            held,
            value_bytes=_BYTES_PER_VALUE,
            on_gpu=on_gpu,
        )

    def fits(self, total: int, on_gpu: bool) -> bool:
        """Whether it fits into so many bytes, a tenth of them left for everything else."""
        return self.plan(on_gpu).needed(self.context) <= 0.9 * total


@functools.cache
def catalogue() -> tuple[PairEntry, ...]:
    """All known pairs, smallest target first."""
    data = tomllib.loads((Path(__file__).parent / "pairs.toml").read_text(encoding="utf-8"))
    models = {name: ModelShape(name, **shape) for name, shape in data["models"].items()}
    return tuple(
        PairEntry(
            name=pair["name"],
            target=models[pair["target"]],
            draft=models[pair["draft"]],
            embedded=pair.get("embedded", False),
        )
        for pair in data["pairs"]
    )


def find_pair(name: str) -> PairEntry:
    """The pair of that name.

    Raises:
        ParameterError: there is none; close names are listed.
    """
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
