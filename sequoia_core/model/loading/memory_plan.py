"""The memory that decoding takes, planned before anything is loaded. Loads no torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sequoia_core.errors import MemoryFullError
from sequoia_core.model.config import ModelConfig

PLANNED_ROWS = 128  # nodes of the largest tree that memory is planned for in any case
SCORED_ROWS = 64  # rows of logits that become probabilities at once
PREFILL_ROWS = 256  # of a prompt at once: bounds its mask and activations
LEAST_CONTEXT = 512  # tokens that must fit with the weights, unless the window is shorter
CUDA_BYTES = 512 << 20  # what a CUDA context, its libraries and their workspaces take of a GPU
RECORDING_BYTES = 8 << 20  # of a CUDA graph, an estimate until one was measured (0074)
PLANNED_RECORDINGS = 40  # of the steps over two spans
ROW_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
"""Rows of recorded forwards, which have inputs and logits of their own for each."""
MOST_STATED = 1 << 24  # probabilities of a tree that is drafted by one recording
NUMBER_BYTES = 12  # of such a probability, with the float64 number that is drawn for it beforehand
FLOAT32 = 4  # bytes of a number

_OUT_OF_MEMORY = (
    "cuda error: out of memory", "not enough memory", "can't allocate memory",
    "cannot allocate memory", "alloc_failed",
)  # fmt: skip
"""Messages of PyTorch's allocators and CUDA's libraries, where the error has no own class."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    weights: int  # of every model on it
    token: int  # per token of context: keys, values, hidden states for a draft, and the mask
    logits: int = 0  # of the largest tree, with the probabilities made of them at once
    activations: int = 0  # of the rows of a prompt read at once
    runtime: int = 0  # CUDA's own
    recordings: int = 0  # CUDA graphs, and what they read and write at fixed addresses
    window: int = 0  # most tokens of context
    layer: int = 0  # of a layer that may be streamed or stay
    resident_layers: int = 0  # that stay since there is room
    row: int = 0  # of one more node of the largest tree, with the whole window visible
    rows: int = PLANNED_ROWS  # of that tree

    def needed(self, context: int) -> int:
        return self._fixed + self.resident + self._more_rows + self.token * context

    @property
    def resident(self) -> int:
        """Bytes of the layers that stay."""
        return self.layer * self.resident_layers

    def with_resident_layers(self, layer: int, most: int, free: int) -> "MemoryPlan":
        """With as many layers of so many bytes as fit into what is free next to the whole window.

        One more stays free: for caches that are copied as they grow, and for what an allocator
        cannot use.
        """
        spare = free - self.needed(self.window) - layer
        return replace(self, layer=layer, resident_layers=max(0, min(most, spare // layer)))

    def with_rows(self, free: int) -> "MemoryPlan":
        """With trees as large as fit into what is free next to all else that is planned."""
        spare = free - self.needed(self.window) - self.layer
        fitting = (rows for rows in ROW_BUCKETS if self.row * (rows - self.rows) <= spare)
        return replace(self, rows=max([self.rows, *fitting])) if self.row else self

    @property
    def _more_rows(self) -> int:
        return self.row * (self.rows - PLANNED_ROWS)

    @property
    def least_context(self) -> int:
        """Tokens of context without which a pair is useless."""
        return min(LEAST_CONTEXT, self.window)

    @property
    def least(self) -> int:
        """Bytes without which loading is refused."""
        return self._fixed + self.token * self.least_context

    def context_in(self, free: int) -> int:
        """Tokens of context that fit into so many bytes, at most the window."""
        return max(min(self.window, (free - self.needed(0)) // max(self.token, 1)), 0)

    def words(self, context: int) -> str:
        parts = {
            "weights": self.weights,
            f"{self.resident_layers} resident layers": self.resident,
            f"KV cache and masks of {context:,} tokens": self.token * context,
            "logits": self.logits,
            f"trees of up to {self.rows} nodes": self._more_rows,
            "activations": self.activations,
            "CUDA": self.runtime,
            "CUDA graphs": self.recordings,
        }
        sizes = (f"{name} {size_text(size)}" for name, size in parts.items() if size)
        return f"{size_text(self.needed(context))}: {', '.join(sizes)}"

    @property
    def _fixed(self) -> int:
        return self.weights + self.logits + self.activations + self.runtime + self.recordings


def plan_memory(
    target: ModelConfig,
    draft_columns: int,  # of the draft's logits; 0 without a draft
    held: tuple[int, int],  # bytes of the weights on it, and of one token in all their caches
    *,
    value_bytes: int,  # of a number of weights, activations and caches
    on_gpu: bool,  # CUDA's own memory counts
    native: bool = False,  # logits are float32 from the start, and masks are not converted
) -> MemoryPlan:
    weights, token = held
    head_bytes = FLOAT32 if native else value_bytes + FLOAT32  # as computed, and in float32
    logits = PLANNED_ROWS * target.vocab_size * head_bytes
    logits += 2 * SCORED_ROWS * target.vocab_size * FLOAT32
    logits += PLANNED_ROWS * draft_columns * (head_bytes + FLOAT32)
    groups = target.num_heads // target.num_kv_heads
    heads = (target.num_heads + 2 * target.num_kv_heads) * target.head_dim
    row = (3 * target.intermediate_size + 2 * heads + 4 * target.hidden_size) * value_bytes
    masks = PREFILL_ROWS * (groups * value_bytes + 1)
    if target.sliding_window is not None:
        masks += PREFILL_ROWS * (groups * value_bytes + 4 * FLOAT32)  # with what they are made of
    if target.attention_softcap is not None:
        masks += 2 * PREFILL_ROWS * target.num_heads * FLOAT32  # scores, and what they become
    return MemoryPlan(
        weights=weights,
        token=token + (PLANNED_ROWS if native else masks),
        logits=logits,
        activations=PREFILL_ROWS * row,
        runtime=CUDA_BYTES if on_gpu else 0,
        window=target.context_window,
        row=row
        + masks // PREFILL_ROWS * target.context_window
        + target.vocab_size * head_bytes
        + draft_columns * (head_bytes + FLOAT32),
    )


def recording_bytes(columns: int, draft_columns: int) -> int:
    """Of a pair's CUDA graphs with the logits of each bucket of rows and of drafting a tree.

    The columns are those of the models' logits.
    """
    rows = sum(bucket for bucket in ROW_BUCKETS if bucket <= PLANNED_ROWS)
    stated = min(PLANNED_ROWS * draft_columns, MOST_STATED)
    outputs = FLOAT32 * rows * (columns + draft_columns)
    return PLANNED_RECORDINGS * RECORDING_BYTES + outputs + NUMBER_BYTES * stated


def recorded_row_bytes(columns: int, draft_columns: int) -> int:
    """Bytes of CUDA graphs for each node of a tree beyond those that `recording_bytes` counts."""
    larger = next(bucket for bucket in ROW_BUCKETS if bucket > PLANNED_ROWS)
    drafted = larger * draft_columns <= MOST_STATED
    return FLOAT32 * (columns + draft_columns) + drafted * NUMBER_BYTES * draft_columns


def kv_token_bytes(config: ModelConfig, value_bytes: int, feature_slots: int = 0) -> int:
    """Bytes that one token takes in a cache with so many bytes per number and hidden states."""
    values = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return value_bytes * (values + feature_slots * config.hidden_size)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in message for words in _OUT_OF_MEMORY)


@contextmanager
def memory_errors(message: Callable[[], str]) -> Iterator[None]:
    """Raise MemoryFullError with the message in place of an error that says that memory is full."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryFullError(message()) from None


def size_text(size: int) -> str:
    """Bytes in binary units, with one decimal."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
