"""A draft in OpenVINO's format, with the weights that this engine drafts with.

It is made offline by way of a GGUF file with the target's tokenizer, which OpenVINO GenAI reads and
saves in its own format. Its speculative decoding wants both models' logits of one size, so a
trimmed head is scattered over the whole vocabulary in the saved graph.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sequoia_core.bench.runs import PeerError

if TYPE_CHECKING:
    from sequoia_core.model.loading.draft_fit import OpenedDraft


def export_draft(draft: OpenedDraft, target_gguf: str, directory: Path) -> None:
    """Write a draft into an empty directory, for `openvino.OpenVinoSystem`.

    Raises:
        PeerError: the library cannot read the result, or the draft has biases or a scaled rotary
            embedding, which its reader of GGUF files leaves out.
    """
    import openvino_genai as genai

    config = draft.config
    if config.rope_scaling is not None or config.rope_factor != 1.0:
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
        if name.endswith(".weight"):
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
    """Give the saved graph logits [.., .., V], minus infinity where the head has no row."""
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
