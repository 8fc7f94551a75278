"""Names and shapes of the tensors that a model's forward pass reads. Loads no torch."""

from math import prod

from sequoia_core.model.config import Eagle3, ModelConfig

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"
ATTENTION_NORM, MLP_NORM = "input_layernorm.weight", "post_attention_layernorm.weight"
BETWEEN_NORM, LAST_NORM = "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"
QUERY_NORM, KEY_NORM = "self_attn.q_norm.weight", "self_attn.k_norm.weight"
DRAFT_VOCAB_IDS = "draft_vocab_ids"

TARGET_INPUT = "conditioning.target.weight"  # of a conditioned draft: embedding and states -> input
OWN_INPUT = "conditioning.own.weight"  # below a tree's first level: embedding and own output
INPUT_SHIFT = "conditioning.shift"  # subtracted from embedding and states before they are read
INPUT_SCALE = "conditioning.scale"  # multiplied with the differences; float32

HIDDEN_NORM = "hidden_norm.weight"  # of an EAGLE-3 draft's layer: of the feature
FEATURES, FEATURES_BIAS = "fc.weight", "fc.bias"  # of an EAGLE-3 draft: states -> feature
ALL_FEATURES_NORM = "input_norm.weight"

PRODUCTS = {
    "query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""A Llama's products of a layer and their matrices; those of the same input become one product."""

FUSED_PRODUCTS = PRODUCTS | {
    "query_key_value": ("self_attn.qkv_proj",),
    "gate_up": ("mlp.gate_up_proj",),
}


def products(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """A layer's products and the modules whose matrices lie one above the other in each."""
    return FUSED_PRODUCTS if config.fused else PRODUCTS


def feature_norm(slot: int) -> str:
    return f"fc_norm.{slot}.weight"


def layer_name(layer: int | str, name: str) -> str:
    return f"model.layers.{layer}.{name}"


def matrix_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Rows and columns of a layer's matrices, by module; the same in every layer."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    if config.fused:
        return {
            "self_attn.qkv_proj": (queries + 2 * keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "mlp.gate_up_proj": (2 * inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
    read = 2 * hidden if config.eagle3 else hidden  # the embedding and the feature
    return {
        "self_attn.q_proj": (queries, read),
        "self_attn.k_proj": (keys, read),
        "self_attn.v_proj": (keys, read),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def layer_norms(config: ModelConfig) -> dict[str, tuple[str, int]]:
    """Names and widths of a layer's norms, by what they are of."""
    hidden, dim = config.hidden_size, config.head_dim
    found: dict[str, tuple[str, int]] = {}
    if config.norm_inputs:
        mlp = BETWEEN_NORM if config.norm_outputs else MLP_NORM
        found |= {"attention": (ATTENTION_NORM, hidden), "mlp": (mlp, hidden)}
    if config.norm_outputs:
        found |= {"attention_out": (MLP_NORM, hidden), "mlp_out": (LAST_NORM, hidden)}
    if config.qk_norm:
        each = config.qk_norm == "head"
        found["query"] = QUERY_NORM, dim if each else config.num_heads * dim
        found["key"] = KEY_NORM, dim if each else config.num_kv_heads * dim
    return found


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the forward pass reads from a file."""
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {FINAL_NORM: (hidden,)}
    if not config.embeddings_from_target:
        shapes[EMBEDDING] = (config.vocab_size, hidden)
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.head_vocab_size, hidden)
    if config.head_vocab_size != config.vocab_size:
        shapes[DRAFT_VOCAB_IDS] = (config.head_vocab_size,)
    if config.eagle3:
        shapes |= _eagle3_shapes(config, config.eagle3)
    elif slots := len(config.feature_layers):
        shapes[TARGET_INPUT] = (hidden, (slots + 1) * hidden)
        shapes[OWN_INPUT] = (hidden, 2 * hidden)
        shapes[INPUT_SHIFT] = shapes[INPUT_SCALE] = ((slots + 1) * hidden,)
    for layer in range(config.num_layers):
        shapes |= _layer_shapes(config, layer)
    return shapes


def _eagle3_shapes(config: ModelConfig, eagle3: Eagle3) -> dict[str, tuple[int, ...]]:
    hidden, width, slots = config.hidden_size, eagle3.target_hidden_size, config.feature_count
    shapes: dict[str, tuple[int, ...]] = {
        FEATURES: (hidden, slots * width),
        layer_name(0, HIDDEN_NORM): (hidden,),
    }
    if eagle3.fc_bias:
        shapes[FEATURES_BIAS] = (hidden,)
    if eagle3.norm_before_fc:
        shapes[ALL_FEATURES_NORM] = (slots * width,)
    if eagle3.fc_norm:
        shapes |= {feature_norm(slot): (width,) for slot in range(slots)}
    return shapes


def _layer_shapes(config: ModelConfig, layer: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        layer_name(layer, norm): (width,) for norm, width in layer_norms(config).values()
    }
    for module, (rows, columns) in matrix_shapes(config).items():
        shapes[layer_name(layer, f"{module}.weight")] = (rows, columns)
        if config.has_bias(module):
            shapes[layer_name(layer, f"{module}.bias")] = (rows,)
    return shapes


def weight_values(config: ModelConfig) -> int:
    return sum(map(prod, expected_shapes(config).values()))


def layer_values(config: ModelConfig) -> int:
    return sum(map(prod, _layer_shapes(config, 0).values()))
