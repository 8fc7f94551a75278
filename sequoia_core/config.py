"""What a caller may choose about decoding: sampling parameters, the mode, formats."""

from dataclasses import dataclass
from enum import StrEnum

from sequoia_core.errors import ParameterError

LOWEST_TEMPERATURE = 0.01  # below it logits leave float32's precision; 0 itself is argmax
ANSWER_SHARE = 4  # at most 1 / ANSWER_SHARE of the context window is kept free for an answer
DRAFT_TOP_P = 1.0  # the release's testbeds draw from the whole of the draft's distribution


class Mode(StrEnum):
    """How tokens are decided. See `sequoia_core.speculate.verify` for the acceptance rules.

    At temperature 0 every tree is drafted and verified as with `GREEDY`.
    """

    SEQUOIA = "sequoia"  # a token tree, children drawn without replacement
    GREEDY = "greedy"  # a tree of the draft's top-k children; temperature is taken as 0
    SPECINFER = "specinfer"  # a tree, children drawn with replacement (SpecInfer's rule)
    TOPK = "topk"  # a tree of the draft's top-k children, kept where the target's own draw is one
    TRAVERSE = "traverse"  # trees as of `SEQUOIA`, judged from the leaves up by whole sequences
    CHAIN = "chain"  # the `sequoia` rule on a path: Leviathan's speculative sampling
    AR = "ar"  # plain autoregressive decoding, one target forward a token


NON_SEQUOIA_MODES = frozenset({Mode.SPECINFER, Mode.TOPK})
"""Modes whose children are not those of `SEQUOIA`."""
OTHER_RATES = NON_SEQUOIA_MODES | {Mode.TRAVERSE}
"""Modes whose guesses are not accepted as often as those of `SEQUOIA` above temperature 0."""
RANKED_MODES = frozenset({Mode.GREEDY, Mode.TOPK})
"""Modes whose children are the draft's most probable tokens at any temperature."""
GROWING_MODES = frozenset({Mode.SEQUOIA, Mode.GREEDY, Mode.TRAVERSE})
"""Modes whose trees may be adaptive without being asked to, and have looked-up nodes."""


class WeightFormat(StrEnum):
    """How weights are stored in memory, and which forward pass computes with them."""

    AUTO = "auto"  # NATIVE on a CPU where that is possible, else TORCH
    NATIVE = "native"  # as their files store them, by the native library
    INT8 = "int8"  # as NATIVE, with `Quantize.INT8`
    TORCH = "torch"  # as tensors of the dtype, by PyTorch


class Quantize(StrEnum):
    """To how many bits the matrices of the target's layers are rounded: another model, near it."""

    NONE = "none"
    AUTO = "auto"  # the most bits that fit into the memory; on a CPU 8, where it has more
    INT8 = "int8"
    INT4 = "int4"
    NF4 = "nf4"  # 4 bits for numbers that are normally distributed (arXiv 2305.14314)


class Offload(StrEnum):
    """Where the target's layers stay while the model decodes; see `model.offload`."""

    NONE = "none"  # on the device that computes
    CPU = "cpu"  # in the main memory, next to a GPU
    DISK = "disk"  # in the model's files


class GraphChoice(StrEnum):
    """Whether a GPU's kernels are recorded and replayed as CUDA graphs; see `model.graphs`."""

    AUTO = "auto"  # where one GPU holds the whole target
    ON = "on"  # the same, and an error elsewhere
    OFF = "off"


class Lookup(StrEnum):
    """Whether continuations found in the conversation itself are speculated with."""

    ON = "on"  # whenever one is found
    OFF = "off"
    AUTO = "auto"  # where they were right often enough to pay for their rows


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the target's distribution is shaped and when the text ends.

    Raises ParameterError if a value is outside its range.
    """

    temperature: float = 0.6  # logits are divided by it; 0 means argmax decoding
    top_p: float = 1.0  # nucleus mass in (0, 1]; 1 keeps every token
    top_k: int = 0  # most probable tokens that are kept; 0 keeps every token
    seed: int | None = None  # of the answer's `torch.Generator`; None draws a fresh one
    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()  # strings that end the text, and are not emitted themselves

    def __post_init__(self) -> None:
        if not (self.temperature == 0.0 or LOWEST_TEMPERATURE <= self.temperature <= 100.0):
            raise ParameterError(
                f"temperature is {self.temperature}; give 0 (greedy) or a number from "
                f"{LOWEST_TEMPERATURE} to 100"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ParameterError(f"top_p is {self.top_p}; give a number above 0 and at most 1")
        if self.top_k < 0:
            raise ParameterError(f"top_k is {self.top_k}; give 0 (off) or a positive whole number")
        if self.max_new_tokens < 1:
            raise ParameterError(f"max_new_tokens is {self.max_new_tokens}; give at least 1")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ParameterError(f"seed is {self.seed}; give a whole number from 0 to 2**63 - 1")
        if "" in self.stop:
            raise ParameterError("a stop string is empty; give at least one character")

    def room(self, context_window: int) -> int:
        """Tokens of a context window that are kept free for the answer."""
        return min(self.max_new_tokens, context_window // ANSWER_SHARE)

    @property
    def shapes(self) -> bool:
        """Whether a distribution is cut by top-p or top-k."""
        return self.top_p < 1.0 or self.top_k > 0
