"""What decoding with a pair takes in memory, planned before anything is loaded.

Owns the arithmetic from shapes to bytes, and which errors say that memory is full. It imports no
torch, so that the catalogue can use it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from sequoia_core.errors import MemoryFullError

PLANNED_ROWS = 128
"""Nodes of the tree that memory is planned for, the largest that is searched for."""

SCORED_ROWS = 64
"""Rows of logits that become probabilities at once."""

PREFILL_ROWS = 256
"""Rows of a prompt read at once: bounds the mask and the activations of a long prompt."""

LEAST_CONTEXT = 512
"""Tokens of context that must fit with the weights, where the window is not shorter still."""

CUDA_BYTES = 512 << 20
"""What a CUDA context, its libraries and their workspaces take of a GPU."""

FLOAT32 = 4
"""Bytes of a number."""

_OUT_OF_MEMORY = (
    "cuda error: out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
)
"""What PyTorch's allocators and CUDA's libraries say where the error has no class of its own."""


class Shape(Protocol):
    """The sizes of a model, named as in `ModelConfig`."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, `V`."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def intermediate_size(self) -> int:
        """Width inside the MLP."""
        ...

    @property
    def num_layers(self) -> int:
        """`L`."""
        ...

    @property
    def num_heads(self) -> int:
        """Query heads, `H`."""
        ...

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads, `K`."""
        ...

    @property
    def head_dim(self) -> int:
        """`D`."""
        ...

    @property
    def context_window(self) -> int:
        """Most tokens of context."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes of models that lie on one device.

    Attributes:
        weights: of all of them.
        token: of one token in all their caches.
    """

    weights: int
    token: int

    def __add__(self, other: "Held") -> "Held":
        return Held(self.weights + other.weights, self.token + other.token)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes that one device holds while it decodes.

    Attributes:
        weights: of every model on it.
        token: per token of context: keys, values, hidden states for a draft, and the mask.
        logits: of the largest tree, with the probabilities made of them at once.
        activations: of the rows of a prompt read at once.
        runtime: CUDA's own; 0 on a CPU.
        window: most tokens of context.
    """

    weights: int
    token: int
    logits: int
    activations: int
    runtime: int
    window: int

    def needed(self, context: int) -> int:
        """Bytes in all at so many tokens of context."""
        return self._fixed + self.token * context

    @property
    def least(self) -> int:
        """Bytes without which loading is refused: the context may be short, but not useless."""
        return self.needed(min(LEAST_CONTEXT, self.window))

    def context_in(self, free: int) -> int:
        """Tokens of context that fit into so many bytes, at most the window."""
        return max(min(self.window, (free - self._fixed) // max(self.token, 1)), 0)

    def words(self, context: int) -> str:
        """The parts and their sum, one line."""
        parts = {
            "weights": self.weights,
            f"KV cache and masks of {context:,} tokens": self.token * context,
            "logits": self.logits,
            "activations": self.activations,
            "CUDA": self.runtime,
        }
        sizes = (f"{name} {size_text(size)}" for name, size in parts.items() if size)
        return f"{size_text(self.needed(context))}: {', '.join(sizes)}"

    @property
    def _fixed(self) -> int:
        return self.weights + self.logits + self.activations + self.runtime


def plan_memory(
    target: Shape,
    draft_columns: int,
    held: Held,
    *,
    value_bytes: int,
    on_gpu: bool,
    native: bool = False,
) -> MemoryPlan:
    """The plan of a device that computes logits.

    Args:
        target: decides the window.
        draft_columns: of the draft's logits; 0 without a draft.
        held: what lies on the device.
        value_bytes: of a number of weights, activations and caches.
        on_gpu: whether CUDA's own memory counts.
        native: logits are made in float32 at once, and masks stay as they are given.
    """
    head_bytes = FLOAT32 if native else value_bytes + FLOAT32  # as computed, and in float32
    logits = PLANNED_ROWS * target.vocab_size * head_bytes
    logits += 2 * SCORED_ROWS * target.vocab_size * FLOAT32
    logits += PLANNED_ROWS * draft_columns * (head_bytes + FLOAT32)
    groups = target.num_heads // target.num_kv_heads
    heads = (target.num_heads + 2 * target.num_kv_heads) * target.head_dim
    row = 3 * target.intermediate_size + 2 * heads + 4 * target.hidden_size
    return MemoryPlan(
        weights=held.weights,
        token=held.token + (PLANNED_ROWS if native else PREFILL_ROWS * (groups * value_bytes + 1)),
        logits=logits,
        activations=PREFILL_ROWS * row * value_bytes,
        runtime=CUDA_BYTES if on_gpu else 0,
        window=target.context_window,
    )


def kv_token_bytes(shape: Shape, value_bytes: int, feature_slots: int = 0) -> int:
    """Bytes that one token takes in a model's cache.

    Args:
        shape: of the model.
        value_bytes: of a number in the cache.
        feature_slots: hidden states held per token.
    """
    values = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
    return value_bytes * (values + feature_slots * shape.hidden_size)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch or Python says that memory is full."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _OUT_OF_MEMORY)


@contextmanager
def memory_errors(message: Callable[[], str]) -> Iterator[None]:
    """Say in one line what to do where memory does not suffice for what is done inside.

    Raises:
        MemoryFullError: with the message.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryFullError(message()) from None


def size_text(size: int) -> str:
    """Bytes as a person reads them, in binary units."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
