"""Published EAGLE-3 drafts: what their `config.json` and their tensors mean.

Two styles: `LlamaForCausalLMEagle3` of SafeAILab's EAGLE, SGLang and SpecForge, and the nested
configuration of speculators. Where one names layers of the target, SGLang's `eagle_config` counts
outputs; vLLM's and speculators' entry counts inputs, so that 0 is the embedding.
"""

import re
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import Eagle3, ModelConfig
from sequoia_core.model.config_entries import shown
from sequoia_core.model.loading.weights import StoredMatrix, Weights
from sequoia_core.model.tensor_names import DRAFT_VOCAB_IDS, EMBEDDING, FEATURES_BIAS, HEAD

ARCHITECTURES = {
    "LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3Speculator", "Eagle3DraftModel",
}  # fmt: skip

OFFSETS, KEPT = "d2t", "t2d"
"""Target id - draft id of each draft id, and whether the draft has a target id."""

_INPUT_LAYERS, _EAGLE, _LAYER = (
    "eagle_aux_hidden_state_layer_ids", "eagle_config", "transformer_layer_config"
)  # fmt: skip
_SWITCHES = ("fc_norm", "norm_before_fc", "norm_before_residual", "norm_output")
_READ = {*_SWITCHES, _INPUT_LAYERS, _EAGLE, _LAYER, "num_aux_hidden_states", "target_hidden_size"}

# entries around `transformer_layer_config` that change nothing, and those of any style
_AROUND = {
    "architectures", "auto_map", "draft_vocab_size", "dtype", "embed_requires_grad",
    "has_no_defaults_at_init", "model_type", "speculators_config", "speculators_model_type",
    "speculators_version", "tie_word_embeddings", "torch_dtype", "transformers_version",
}  # fmt: skip
# of a sliding window, which is refused, and what its trainers note about the target
_NO_EFFECT = {"max_window_layers", "target_model_type"}

_EAGLE_VALUES: dict[str, Any] = {
    "eh_proj_before_attn": False, "next_layer_regular": True, "parallel_draft_step": 1,
    "use_aux_hidden_state": True, "use_input_layernorm_in_first_layer": True,
    "use_last_layernorm": True, "use_mtp_layernorm": False,
}  # fmt: skip
"""Entries of `eagle_config` with what is computed here."""
_EAGLE_SWITCHES = {"norm_before_fc": "norm_before_fc", "return_hidden_post_norm": "norm_output"}

_PLACES = (
    (re.compile(r"^(?:midlayer|layers\.0)\."), "model.layers.0."),
    (re.compile(r"^(?=embed_tokens\.|norm\.)"), "model."),
)


def is_eagle3(settings: Mapping[str, Any]) -> bool:
    names = settings.get("architectures")
    stated = names if isinstance(names, list) else []
    kind = settings.get("speculators_model_type")
    return kind == "eagle3" or (kind is None and any(name in ARCHITECTURES for name in stated))


def is_quantized(settings: Mapping[str, Any]) -> bool:
    layer = settings.get(_LAYER)
    parts = [settings, layer if isinstance(layer, Mapping) else {}]
    return any(part.get("quantization_config") is not None for part in parts)


def open_eagle3(settings: Mapping[str, Any], file: Weights) -> tuple[ModelConfig, Weights]:
    """A draft's shape, and its weights by our names. Of a draft that is described, `file` is empty.

    `feature_layers` are empty where they depend on the target; see `with_target_layers`.

    Raises ModelLoadError for entries that are not computed and for vocabularies that do not agree.
    """
    names = _our_names(file)
    own, llama = _split(settings)
    if not names or HEAD in names:
        llama["tie_word_embeddings"] = False  # what is stored is read
    config = ModelConfig.from_hf(llama)
    if config.num_layers != 1:
        raise ModelLoadError(
            f"config: num_hidden_layers is {config.num_layers}; only EAGLE-3 drafts of one layer "
            "are supported"
        )
    config = replace(
        config,
        embeddings_from_target=EMBEDDING not in names,
        feature_layers=_feature_layers(own),
        eagle3=Eagle3(_width(own, config), fc_bias=FEATURES_BIAS in names, **_switches(own)),
    )
    if (count := own.get("num_aux_hidden_states", config.feature_count)) != config.feature_count:
        raise ModelLoadError(
            f"config: num_aux_hidden_states is {count!r:.80}, but {config.feature_count} layers "
            "of the target are read"
        )
    tables = {name: file[names.pop(name)] for name in (OFFSETS, KEPT) if name in names}
    ids = _vocab_ids(tables, config) if names else None
    return config, Eagle3Weights(file, names, ids)


def with_target_layers(draft: ModelConfig, target: ModelConfig) -> ModelConfig:
    """A draft's shape with the target's layers that it reads.

    EAGLE's own choice, where the draft states none: the inputs of layers 2, n // 2 and n - 3.
    """
    if draft.eagle3 is None or draft.feature_layers:
        return draft
    count = target.num_layers
    layers = tuple(layer - 1 for layer in (2, count // 2, count - 3))
    if len(set(layers)) < len(layers) or list(layers) != sorted(layers):
        raise ModelLoadError(
            f"the draft reads layers 2, n // 2 and n - 3 of a target, but this one has {count}; "
            "state eagle_aux_hidden_state_layer_ids in its config.json"
        )
    return replace(draft, feature_layers=layers)


def _split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """EAGLE-3's own entries, and those of a Llama; others are refused by the Llama's table."""
    stated = {name: value for name, value in settings.items() if value is not None}
    own = {name: stated.pop(name) for name in _READ & stated.keys()}
    if not isinstance(own.setdefault(_EAGLE, {}), Mapping):
        raise ModelLoadError(f"config: {_EAGLE} is {reprlib.repr(own[_EAGLE])}; a table expected")
    if (layer := own.get(_LAYER)) is None:
        llama = stated
    elif not isinstance(layer, Mapping):
        raise ModelLoadError(f"config: {_LAYER} is {reprlib.repr(layer)}; a table expected")
    else:
        if more := sorted(stated.keys() - _AROUND):
            raise ModelLoadError(
                f"config: {shown(more[0])} is {reprlib.repr(stated[more[0]])}; this entry is "
                "unknown here and could change what the draft computes"
            )
        _check_algorithm(stated.get("speculators_config"))
        around = {name: stated[name] for name in ("draft_vocab_size",) if name in stated}
        llama = {**layer, **around}
    if (kind := llama.get("model_type")) != "llama":
        raise ModelLoadError(
            f"config: the draft's layer is of model_type {kind!r:.80}; only EAGLE-3 drafts with "
            "'llama' are supported"
        )
    return own, {name: value for name, value in llama.items() if name not in _NO_EFFECT}


def _check_algorithm(stated: object) -> None:
    kind = stated.get("algorithm", "eagle3") if isinstance(stated, Mapping) else "eagle3"
    if kind != "eagle3":
        raise ModelLoadError(f"config: algorithm is {kind!r:.80}; only 'eagle3' is supported")


def _feature_layers(own: Mapping[str, Any]) -> tuple[int, ...]:
    """The target's layers whose outputs are read, low to high; () if none are stated."""
    found = {
        entry: tuple(sorted(layer - shift for layer in _ids(entry, ids)))
        for entry, ids, shift in (
            (_INPUT_LAYERS, own.get(_INPUT_LAYERS), 1),
            (f"{_EAGLE}.{_INPUT_LAYERS}", own[_EAGLE].get(_INPUT_LAYERS), 0),
        )
        if ids
    }
    if len(set(found.values())) > 1:
        raise ModelLoadError(
            f"config: {_INPUT_LAYERS}, which counts inputs of layers, and {_EAGLE}, which counts "
            "outputs, name different layers; take out the one that is wrong"
        )
    layers = next(iter(found.values()), ())
    if layers and (layers[0] < 0 or len(set(layers)) < len(layers)):
        raise ModelLoadError(
            f"config: {_INPUT_LAYERS} names the embedding or a layer twice; only outputs of "
            "different layers are supported"
        )
    return layers


def _ids(entry: str, value: object) -> list[int]:
    if not isinstance(value, list) or any(type(each) is not int for each in value):
        raise ModelLoadError(f"config: {entry} is {reprlib.repr(value)}; numbers were expected")
    return value


def _width(own: Mapping[str, Any], config: ModelConfig) -> int:
    width = own.get("target_hidden_size", config.hidden_size)
    if type(width) is not int or width < 1:
        raise ModelLoadError(f"config: target_hidden_size is {width!r:.80}; a size was expected")
    return width


def _switches(own: Mapping[str, Any]) -> dict[str, bool]:
    found = {name: own[name] for name in _SWITCHES if name in own}
    for name, value in own[_EAGLE].items():
        if value is None or name == _INPUT_LAYERS:
            continue
        if name in _EAGLE_SWITCHES:
            found[_EAGLE_SWITCHES[name]] = value or found.get(_EAGLE_SWITCHES[name], False)
        elif _EAGLE_VALUES.get(name) != value:
            raise ModelLoadError(
                f"config: {_EAGLE} states {shown(name)} {reprlib.repr(value)}, which is not "
                "supported"
            )
    for name, value in found.items():
        if type(value) is not bool:
            raise ModelLoadError(f"config: {name} is {reprlib.repr(value)}; true or false expected")
    return found


def _our_names(file: Weights) -> dict[str, str]:
    """The file's names by ours."""
    names: dict[str, str] = {}
    for name in file:
        ours = name.removeprefix("model.")
        for pattern, place in _PLACES:
            ours = pattern.sub(place, ours)
        if ours in names:
            raise ModelLoadError(f"{names[ours]!r:.80} and {name!r:.80} are the same tensor")
        names[ours] = name
    return names


def _vocab_ids(tables: Mapping[str, Tensor], config: ModelConfig) -> Tensor | None:
    """The target's ids of the draft's, int64 [V_draft]; None where they are the same."""
    count, whole = config.head_vocab_size, config.vocab_size
    offsets, kept = tables.get(OFFSETS), tables.get(KEPT)
    if offsets is None and count != whole:
        raise ModelLoadError(
            f"{OFFSETS}, which names the target's tokens of the draft's, is missing"
        )
    if offsets is not None and (offsets.shape != (count,) or offsets.is_floating_point()):
        raise ModelLoadError(
            f"{OFFSETS} is no list of {count} whole numbers, one for each token of the draft"
        )
    ids = None if offsets is None else torch.arange(count) + offsets.long()
    if kept is not None:
        named = torch.zeros(kept.shape, dtype=torch.bool)
        named[slice(None) if ids is None else ids.clamp(0, len(kept) - 1)] = True
        if kept.shape != (whole,) or not torch.equal(kept != 0, named):
            raise ModelLoadError(
                f"{OFFSETS} and {KEPT} name different tokens of the target; the file is damaged"
            )
    if count != whole or ids is None:
        return ids
    if not torch.equal(ids, torch.arange(count)):
        raise ModelLoadError(f"{OFFSETS} maps tokens, but the draft has all {whole} of the target")
    return None


class Eagle3Weights(Weights):
    """A draft's tensors by our names, with the target's ids of its own, int64 [V_draft]."""

    def __init__(self, file: Weights, names: Mapping[str, str], ids: Tensor | None) -> None:
        entries = names if ids is None else {**names, DRAFT_VOCAB_IDS: OFFSETS}
        super().__init__(entries, file.origin, file.files)
        self._file, self._ids = file, ids

    @override
    def __getitem__(self, name: str) -> Tensor:
        if name == DRAFT_VOCAB_IDS and self._ids is not None:
            return self._ids
        return self._file[self._entries[name]]

    @override
    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.shape(self._entries[name])

    @override
    def dtype(self, name: str) -> torch.dtype | None:
        return self._file.dtype(self._entries[name])

    @override
    def stored(self, name: str) -> StoredMatrix:
        return self._file.stored(self._entries[name])
