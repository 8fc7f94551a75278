"""`transformers` as systems of the benchmark: plain, assisted by a draft, and with prompt lookup.

Models are rebuilt in memory under its classes, with the same weights, device and dtype. Options not
named here are the library's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sequoia_core.bench.runs import Run, RunClock, peer_code
from sequoia_core.config import SamplingParams

if TYPE_CHECKING:
    from sequoia_core.model.loading.draft_fit import OpenedDraft


class HuggingFaceSystem:
    """Decoding by `generate`, with further arguments that make it speculate."""

    def __init__(self, name: str, model: Any, **speculation: Any) -> None:
        self.name = name
        self._model, self._speculation = model, speculation

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt."""
        from transformers import StoppingCriteriaList

        ids = torch.tensor([list(prompt_ids)], device=self._model.device)
        sampling: dict[str, Any] = {"do_sample": False}
        if params.temperature:
            sampling = {"do_sample": True, "temperature": params.temperature, "top_k": 0}
            torch.manual_seed(params.seed or 0)
        clock = RunClock()
        watch = _Watch(clock, len(prompt_ids))
        with peer_code(), torch.inference_mode():
            output = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=params.max_new_tokens,
                eos_token_id=None,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([watch]),
                **sampling,
                **self._speculation,
            )
        return clock.run(output[0, len(prompt_ids) :].tolist())


class _Watch:
    """A stopping criterion that never stops; it is called once after each step."""

    def __init__(self, clock: RunClock, length: int) -> None:
        self._clock, self._length = clock, length

    def __call__(self, input_ids: Tensor, *_: object, **__: object) -> Tensor:
        self._clock.step(input_ids.shape[1] - self._length)
        self._length = input_ids.shape[1]
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


class ScatteredHead(nn.Module):
    """An output head [V_draft, hidden] for some tokens; all others' logits are minus infinity."""

    def __init__(self, weight: Tensor, vocab_ids: Tensor, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._vocab_ids = nn.Buffer(vocab_ids)
        self._vocab_size = vocab_size

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden] -> [..., V]."""
        known = nn.functional.linear(hidden, self.weight)
        logits = known.new_full((*known.shape[:-1], self._vocab_size), float("-inf"))
        logits[..., self._vocab_ids] = known
        return logits


def rebuilt(
    config: Any, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Any:
    """A model as `transformers` would load it; a trimmed head is left to `rebuilt_draft`."""
    import transformers

    transformers.logging.set_verbosity_error()  # warnings would appear within the report
    model = transformers.LlamaForCausalLM(llama_config(config)).to(dtype)
    whole = config.head_vocab_size == config.vocab_size
    tensors = {name: weights[name] for name in weights if whole or name != "lm_head.weight"}
    model.load_state_dict(tensors, strict=False)
    if config.tie_word_embeddings:
        model.tie_weights()
    return model.to(device).eval()


def rebuilt_draft(draft: OpenedDraft, device: torch.device, dtype: torch.dtype) -> Any:
    """A draft as an assistant model, its trimmed head scattered over the whole vocabulary."""
    model = rebuilt(draft.config, draft.weights, device, dtype)
    if draft.vocab_ids is not None:
        head = draft.weights["lm_head.weight"][: len(draft.vocab_ids)].to(device, dtype)
        ids = draft.vocab_ids.to(device)
        model.lm_head = ScatteredHead(head, ids, draft.config.vocab_size)
    return model


def llama_config(config: Any) -> Any:
    """A `ModelConfig` as the library's configuration."""
    from transformers import LlamaConfig

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
        attention_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
        rope_parameters=rope,
    )
