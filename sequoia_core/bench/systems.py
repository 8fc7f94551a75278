"""Ways to decode the same prompt, each timed by the same clock.

A run counts decoding only: from the moment the first tokens are out to the last, so that reading
the prompt is left out for all alike. No system stops at an end-of-sequence token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from time import perf_counter
from typing import Any, Protocol

import torch

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.engine import Engine
from sequoia_core.events import Step
from sequoia_core.measure.tuning import Tuner
from sequoia_core.pair import Pair, open_target
from sequoia_core.protocols import TreeChoice


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt decoded by one system.

    Attributes:
        token_ids: what was decoded.
        tokens: tokens after the first ones.
        seconds: wall time of those.
        steps: decoding steps they took; as many as tokens without speculation.
        draft_ms: mean per step in draft forwards.
        verify_ms: mean per step in target forwards.
        bookkeeping_ms: mean per step of all else.
    """

    token_ids: tuple[int, ...]
    tokens: int
    seconds: float
    steps: int
    draft_ms: float = 0.0
    verify_ms: float = 0.0
    bookkeeping_ms: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed."""
        return self.tokens / self.seconds


class System(Protocol):
    """One way to decode."""

    @property
    def name(self) -> str:
        """For the report."""
        ...

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode exactly `params.max_new_tokens` tokens."""
        ...


class OwnSystem:
    """This engine in one mode.

    Args:
        name: for the report.
        pair: models.
        tuner: advises on trees.
        choice: mode and growmap.
    """

    def __init__(self, name: str, pair: Pair, tuner: Tuner, choice: TreeChoice) -> None:
        self.name = name
        self._engine = Engine.of(replace(pair, eos_token_ids=frozenset()), tuner)
        self._engine.tree_choice = choice

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt."""
        steps: list[Step] = []
        ends: list[float] = []
        for event in self._engine.generate(prompt_ids, params):
            if isinstance(event, Step):
                steps.append(event)
                ends.append(perf_counter())
        timed = steps[1:]
        return Run(
            token_ids=tuple(token for step in steps for token in step.token_ids),
            tokens=sum(len(step.token_ids) for step in timed),
            seconds=ends[-1] - ends[0],
            steps=len(timed),
            draft_ms=fmean(step.timings.draft_ms for step in timed),
            verify_ms=fmean(step.timings.verify_ms for step in timed),
            bookkeeping_ms=fmean(step.timings.bookkeeping_ms for step in timed),
        )


class HuggingFaceSystem:
    """`transformers`' own `generate` on the same weights, device and dtype.

    Args:
        pair: whose target is decoded with.
        source: where the target's weights come from; None is the embedded one.
    """

    name = "Hugging Face generate"

    def __init__(self, pair: Pair, source: str | None) -> None:
        from transformers import LlamaForCausalLM

        checkpoint = open_target(source, pair.target.dtype)
        self._model: Any = LlamaForCausalLM(_hf_config(pair))
        self._model.to(pair.target.dtype)
        self._model.load_state_dict(dict(checkpoint.weights), strict=False)
        self._model.tie_weights()
        self._model.to(pair.target.device).eval()

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt."""
        from transformers import StoppingCriteriaList

        ids = torch.tensor([list(prompt_ids)], device=self._model.device)
        clock = _Clock()
        sampling: dict[str, Any] = {"do_sample": False}
        if params.temperature:
            sampling = {"do_sample": True, "temperature": params.temperature, "top_k": 0}
        with torch.inference_mode():
            output = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=params.max_new_tokens,
                eos_token_id=None,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]),
                **sampling,
            )
        tokens = tuple(output[0, ids.shape[1] :].tolist())
        return Run(tokens, len(tokens) - 1, clock.ends[-1] - clock.ends[0], len(tokens) - 1)


class _Clock:
    """A stopping criterion that never stops: it is called once after each token."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        self.ends.append(perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def own_systems(pair: Pair, tuner: Tuner, modes: Sequence[Mode]) -> list[System]:
    """This engine in several modes, the tree left to the machine."""
    return [OwnSystem(f"sequoia {mode.value}", pair, tuner, TreeChoice(mode)) for mode in modes]


def _hf_config(pair: Pair) -> Any:
    from transformers import LlamaConfig

    config = pair.target.config
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_window,
        }
    elif config.rope_factor != 1.0:
        rope |= {"rope_type": "linear", "factor": config.rope_factor}
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        max_position_embeddings=config.context_window,
        tie_word_embeddings=config.tie_word_embeddings,
        rope_parameters=rope,
    )
