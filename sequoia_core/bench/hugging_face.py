"""`transformers` as systems of the benchmark: plain, assisted by a draft, with prompt lookup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sequoia_core.bench.runs import Decode, PeerError, Run, RunClock, peer_code
from sequoia_core.config import SamplingParams

if TYPE_CHECKING:
    from sequoia_core.model.loading.fitted_draft import OpenedDraft


def hugging_face(model: Any, **speculation: Any) -> Decode:
    """Decoding by `generate`, with further arguments that make it speculate."""

    def decode(prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        from transformers import StoppingCriteriaList

        ids = torch.tensor([list(prompt_ids)], device=model.device)
        sampling: dict[str, Any] = {"do_sample": False}
        if params.temperature:
            sampling = {"do_sample": True, "temperature": params.temperature, "top_k": 0}
            torch.manual_seed(params.seed or 0)
        clock, length = RunClock(), len(prompt_ids)

        def watch(input_ids: Tensor, *_: object, **__: object) -> Tensor:
            """A stopping criterion that never stops; it is called once after each step."""
            nonlocal length
            clock.step(input_ids.shape[1] - length)
            length = input_ids.shape[1]
            return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

        with peer_code(), torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=params.max_new_tokens,
                eos_token_id=None,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([watch]),
                **sampling,
                **speculation,
            )
        return clock.run(output[0, len(prompt_ids) :].tolist())

    return decode


def rebuilt(
    config: Any, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> Any:
    """A model as `transformers` would load it; a trimmed head is left to `rebuilt_draft`.

    Raises PeerError if it is not a Llama.
    """
    import transformers

    if beyond := ", ".join(config.beyond_llama).replace("_", " "):
        raise PeerError(f"it gets Llamas only, and a {config.family} model has {beyond}")

    transformers.logging.set_verbosity_error()  # warnings would appear within the report
    model = transformers.LlamaForCausalLM(llama_config(config)).to(dtype)
    whole = config.head_vocab_size == config.vocab_size
    tensors = {name: weights[name] for name in weights if whole or name != "lm_head.weight"}
    model.load_state_dict(tensors, strict=False)
    if config.tie_word_embeddings:
        model.tie_weights()
    return model.to(device).eval()


def rebuilt_draft(draft: OpenedDraft, device: torch.device, dtype: torch.dtype) -> Any:
    """A draft as an assistant model; tokens that a trimmed head lacks have logits of -infinity."""
    model = rebuilt(draft.config, draft.weights, device, dtype)
    if draft.vocab_ids is None:
        return model
    ids, vocab_size = draft.vocab_ids.to(device), draft.config.vocab_size

    def scattered(_head: nn.Module, _inputs: object, known: Tensor) -> Tensor:
        logits = known.new_full((*known.shape[:-1], vocab_size), float("-inf"))
        logits[..., ids] = known
        return logits

    weight = draft.weights["lm_head.weight"][: len(ids)].to(device, dtype)  # [V_draft, hidden]
    columns, width = weight.shape
    model.lm_head = nn.Linear(width, columns, bias=False, device="meta")
    model.lm_head.weight = nn.Parameter(weight, requires_grad=False)
    model.lm_head.register_forward_hook(scattered)
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
    elif config.rope_divisors:  # whatever they are made of
        factors = list(config.rope_divisors)
        rope |= {
            "rope_type": "longrope",
            "short_factor": factors,
            "long_factor": factors,
            "attention_factor": config.rope_magnitude,
            "original_max_position_embeddings": config.context_window,
        }
    same = ("vocab_size", "hidden_size", "intermediate_size", "head_dim", "rms_norm_eps",
            "tie_word_embeddings", "attention_bias", "mlp_bias")  # fmt: skip
    return LlamaConfig(
        **{name: getattr(config, name) for name in same},
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        max_position_embeddings=config.context_window,
        rope_parameters=rope,
    )
