"""OpenVINO GenAI as systems of the benchmark, and drafts for it by way of GGUF files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.bench.runs import Decode, PeerError, Run, RunClock, peer_code
from sequoia_core.config import SamplingParams

if TYPE_CHECKING:
    from torch import Tensor

    from sequoia_core.model.loading.fitted_draft import OpenedDraft

DRAFTED = 3  # tokens drafted a step
_ALL_TOKENS = 2**31 - 1  # its `top_k` has no 0 for off


def openvino_genai(gguf: str, threads: int, draft: Path | None = None) -> Decode:
    """Plain decoding, or speculative with a draft of `export_draft`."""
    import openvino_genai as genai

    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    # by default it keeps earlier prompts, and then sampling with a draft fails (2026.4)
    options: dict[str, Any] = {"scheduler_config": genai.SchedulerConfig(), **properties}
    if draft is not None:
        options["draft_model"] = genai.draft_model(str(draft), "CPU", **properties)
    pipeline: Any = genai.LLMPipeline(gguf, "CPU", **options)

    def decode(prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        import numpy as np
        import openvino as ov

        ids = ov.Tensor(np.array([list(prompt_ids)], dtype=np.int64))
        config = genai.GenerationConfig()
        config.max_new_tokens = params.max_new_tokens
        config.ignore_eos = True
        config.do_sample = params.temperature > 0
        if params.temperature:
            config.temperature = params.temperature
            config.top_k, config.top_p = _ALL_TOKENS, 1.0
            config.rng_seed = params.seed or 0
        if draft is not None:
            config.num_assistant_tokens = DRAFTED
        clock = RunClock()

        class Watch(genai.StreamerBase):  # type: ignore[misc]  # the library has no types
            def write(self, tokens: int | list[int]) -> Any:
                """Receive one token, or those of a speculative step."""
                clock.step(1 if isinstance(tokens, int) else len(tokens))
                return genai.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        with peer_code():
            result = pipeline.generate(ids, config, Watch())
        return clock.run(result.tokens[0])

    return decode


def export_draft(draft: OpenedDraft, target_gguf: str, directory: Path) -> None:
    """Write a draft into an empty directory.

    Raises PeerError if the library cannot read the result, or the draft has biases or a scaled
    rotary embedding, which its reader of GGUF files leaves out.
    """
    import openvino_genai as genai

    config = draft.config
    if config.rope_scaling is not None or config.rope_factor != 1.0 or config.rope_divisors:
        raise PeerError("the draft's rotary embedding is scaled, which its GGUF reader leaves out")
    if config.attention_bias or config.mlp_bias:
        raise PeerError("the draft has biases, which its GGUF reader leaves out")
    file = directory / "draft.gguf"
    write_gguf(draft, target_gguf, file)
    try:
        genai.LLMPipeline(str(file), "CPU", enable_save_ov_model=True)
    except RuntimeError as error:
        raise PeerError(f"it cannot read the draft: {str(error).splitlines()[0]}") from None
    file.unlink()
    if draft.vocab_ids is not None:
        _scatter_head(directory, draft.vocab_ids, config.vocab_size)


def write_gguf(draft: OpenedDraft, target_gguf: str, file: Path) -> None:
    """Write a draft as a GGUF file of 16-bit floats; a trimmed head stays trimmed."""
    import gguf

    config = draft.config
    writer = gguf.GGUFWriter(file, "llama")
    _copy_tokenizer(target_gguf, writer)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context_window)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    for name in draft.weights:
        if not name.endswith(".weight"):
            continue
        tensor = draft.weights[name].float()
        if (part := name.split(".")[-2]) in heads:
            tensor = _interleaved(tensor, heads[part])
        values = tensor.contiguous().numpy()
        kind = gguf.GGMLQuantizationType.F16 if tensor.dim() == 2 else None
        stored = values if kind is None else gguf.quantize(values, kind)
        writer.add_tensor(names.get_name(name, (".weight",)), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_tokenizer(source: str, writer: Any) -> None:
    import gguf

    for field in gguf.GGUFReader(source).fields.values():
        if field.name.startswith("tokenizer."):
            kind = field.types[0]
            inner = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, inner)


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k in llama.cpp's order: its rotary embedding rotates neighbours, not halves."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _scatter_head(directory: Path, vocab_ids: Tensor, vocab_size: int) -> None:
    """Give the saved graph logits [.., .., V], minus infinity where the head has no row.

    Speculative decoding wants both models' logits of one size.
    """
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    graph = directory / "openvino_model.xml"
    model = ov.Core().read_model(graph)
    result = model.get_results()[0]
    trimmed = result.input_value(0)  # [batch, tokens, V_draft]
    column = np.full(vocab_size, len(vocab_ids), dtype=np.int64)  # the padded one, unless known
    column[vocab_ids.numpy()] = np.arange(len(vocab_ids))
    padded = ops.pad(
        trimmed, np.array([0, 0, 0]), np.array([0, 0, 1]), "constant", np.float32(-np.inf)
    )
    logits = ops.gather(padded, column, np.int64(2))
    result.input(0).replace_source_output(logits.output(0))
    logits.output(0).set_names({"logits"})
    model.validate_nodes_and_infer_types()
    # the weights are still mapped from the file that is being replaced
    ov.save_model(model, directory / "scattered.xml", compress_to_fp16=False)
    del model, result, trimmed, padded, logits
    for suffix in (".xml", ".bin"):
        os.replace(directory / f"scattered{suffix}", graph.with_suffix(suffix))  # noqa: PTH105
