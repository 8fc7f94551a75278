"""AWQ, GPTQ and compressed-tensors are computed as they state, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sequoia_core import GrowMap, Mode, SamplingParams
from sequoia_core.config import WeightFormat
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.model.device import choose_placement
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.backend import choose_backend, pair_plans
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.pair import Pair, load_pair
from sequoia_core.model.packed import packed_products
from tests.core.checkpoints import edit_settings, reference_logits, tiny_tokenizer
from tests.core.engines import make_engine, tokens_of
from tests.core.families import VARIANTS, save_family
from tests.core.packed_checkpoints import SHAPE, Style, pack, save_packed

STYLES = {
    "AWQ": Style("awq"),
    "GPTQ": Style("gptq"),
    "GPTQ, second format": Style("gptq", second=True),
    "GPTQ, by order of activations": Style("gptq", reordered=True),
    "GPTQ, symmetric": Style("gptq", symmetric=True),
    "GPTQ, whole rows": Style("gptq", group_size=-1),
    "GPTQ, 8 bits": Style("gptq", bits=8, group_size=16),
    "GPTQ, 8 bits, by order": Style("gptq", bits=8, reordered=True, symmetric=True),
    "compressed-tensors": Style("compressed-tensors", symmetric=True, dtype=torch.bfloat16),
    "compressed-tensors with zeros": Style("compressed-tensors"),
    "compressed-tensors, rows of 8 bits": Style("compressed-tensors", bits=8, group_size=-1),
    "compressed-tensors, by order": Style("compressed-tensors", symmetric=True, reordered=True),
}
NATIVE = {
    "GPTQ": Style("gptq", symmetric=True),
    "GPTQ, 8 bits": Style("gptq", symmetric=True, bits=8),
    "compressed-tensors": Style("compressed-tensors", symmetric=True),
}
"""What the native library holds in its own blocks, to the last bit."""
PROMPT = torch.tensor([5, 17, 3, 60, 8, 8, 41])


def loaded(folder: Path, **options: Any) -> Pair:
    return load_pair(str(folder), device="cpu", **options)


def logits(pair: Pair, token_ids: Tensor) -> Tensor:
    positions = torch.arange(len(token_ids))
    return pair.target.forward(token_ids, positions, None, pair.target.new_cache())


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_a_matrix_is_what_its_codes_mean(style: Style, tmp_path: Path) -> None:
    model = save_packed(tmp_path, style)
    weights = open_directory(tmp_path).weights
    for name, wanted in model.state_dict().items():
        if name in weights:
            assert torch.equal(weights[name].float(), wanted), name


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_the_forward_is_that_of_the_dequantised_model(style: Style, tmp_path: Path) -> None:
    model = save_packed(tmp_path, style, tiny_tokenizer())
    pair = loaded(tmp_path, dtype="float32", weights=WeightFormat.TORCH)
    torch.testing.assert_close(
        logits(pair, PROMPT), reference_logits(model, PROMPT), rtol=1e-5, atol=1e-4
    )
    assert style.method.upper() in pair.description.dtype


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("method", ["awq", "gptq", "compressed-tensors"])
def test_every_family_keeps_its_biases_and_norms(variant: str, method: str, tmp_path: Path) -> None:
    model = save_family(tmp_path, variant, **SHAPE, num_attention_heads=8)
    pack(tmp_path, Style(method, group_size=16), model)
    opened = open_directory(tmp_path)
    target = Llama(
        opened.config, opened.weights, torch.device("cpu"), torch.float32,
        make_product=packed_products(opened.weights.packed),
    )  # fmt: skip
    found = target.forward(PROMPT, torch.arange(len(PROMPT)), None, target.new_cache())
    with torch.inference_mode():
        wanted = model(PROMPT[None]).logits[0]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("style", NATIVE.values(), ids=NATIVE)
def test_zeros_in_the_middle_are_the_native_librarys_blocks(style: Style, tmp_path: Path) -> None:
    model = save_packed(tmp_path, style, tiny_tokenizer())
    pair = loaded(tmp_path)
    assert pair.native
    found, wanted = logits(pair, PROMPT), reference_logits(model, PROMPT)
    # activations are rounded to 8 bits there
    assert torch.nn.functional.cosine_similarity(found, wanted, dim=-1).min() > 0.995


@pytest.mark.parametrize("name", ["AWQ", "GPTQ", "GPTQ, 8 bits, by order", "GPTQ, whole rows"])
def test_pytorch_computes_what_has_no_native_blocks(name: str, tmp_path: Path) -> None:
    save_packed(tmp_path, STYLES[name], tiny_tokenizer())
    pair = loaded(tmp_path)
    assert not pair.native
    assert "the native forward does not read" in pair.description.remark
    with pytest.raises(ParameterError, match="does not read; leave --weights out"):
        loaded(tmp_path, weights=WeightFormat.NATIVE)


@pytest.mark.parametrize("weights", [WeightFormat.AUTO, WeightFormat.TORCH])
@pytest.mark.parametrize("name", ["AWQ", "GPTQ, symmetric"])
def test_a_tree_gives_the_tokens_of_plain_decoding(
    name: str, weights: WeightFormat, tmp_path: Path
) -> None:
    """The target and its draft are packed."""
    save_packed(tmp_path / "target", STYLES[name], tiny_tokenizer())
    save_packed(tmp_path / "draft", STYLES[name], tiny_tokenizer(), num_hidden_layers=1)
    pair = load_pair(
        str(tmp_path / "target"), str(tmp_path / "draft"), device="cpu", weights=weights,
        dtype="float32" if weights is WeightFormat.TORCH else "auto",
    )  # fmt: skip
    params = SamplingParams(temperature=0.0, max_new_tokens=30)
    plain, tree = (
        tokens_of([*make_engine(pair.target, draft, shape, mode).generate(PROMPT.tolist(), params)])
        for draft, shape, mode in (
            (None, None, Mode.AR), (pair.draft, GrowMap.k_ary([3, 2, 1]), Mode.GREEDY),
        )
    )  # fmt: skip
    assert plain == tree
    assert len(plain) == 30


def test_memory_is_planned_for_the_codes(tmp_path: Path) -> None:
    style = Style("gptq")
    save_packed(tmp_path, style)
    target = open_directory(tmp_path)
    backend = choose_backend(WeightFormat.TORCH, "float32", choose_placement("cpu"), [target])
    (plan,) = pair_plans(target, None, backend).values()
    (dense,) = pair_plans(target.config, None, backend).values()
    matrices = sum(
        int(np.prod(target.weights.shape(name))) for name in target.weights if "_proj" in name
    )
    scales = matrices // style.group_size
    assert plan.weights == dense.weights - 4 * matrices + matrices // 2 + 3 * scales
    held = [target.weights.packed(name) for name in target.weights if "_proj" in name]
    assert sum(each.nbytes for each in held if each) == matrices // 2 + 3 * scales


def test_biases_of_zeros_that_autogptq_adds_are_left_out(tmp_path: Path) -> None:
    save_packed(tmp_path, Style("gptq"))
    name = "model.layers.0.mlp.down_proj.bias"
    add_tensors(tmp_path, {name: torch.zeros(64)})
    assert name not in open_directory(tmp_path).weights
    add_tensors(tmp_path, {name: torch.ones(64)})
    with pytest.raises(ModelLoadError, match="computes nothing with it"):
        open_directory(tmp_path)


def test_a_config_of_its_own_file_counts(tmp_path: Path) -> None:
    """AutoGPTQ's first checkpoints have `quantize_config.json`, without a `quant_method`."""
    style = Style("gptq")
    save_packed(tmp_path, style)
    edit_settings(tmp_path, quantization_config=None)
    stated = {**style.stated, "quant_method": None, "model_file_base_name": "model"}
    (tmp_path / "quantize_config.json").write_text(json.dumps(stated))
    assert open_directory(tmp_path).weights.packed_format == "GPTQ 4 bits"


def test_the_digest_tells_what_is_stated_about_zeros(tmp_path: Path) -> None:
    save_packed(tmp_path, Style("gptq"))
    first = open_directory(tmp_path).digest()
    edit_settings(tmp_path, quantization_config=Style("gptq", second=True).stated)
    assert open_directory(tmp_path).digest() != first


def add_tensors(folder: Path, more: dict[str, Tensor]) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), **more}, file, {"format": "pt"})


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        kept = {k: v for k, v in load_file(file).items() if not k.endswith(names)}
        save_file(kept, file, {"format": "pt"})

    return change


def with_parts(**parts: Tensor) -> Callable[[Path], None]:
    at = "model.layers.0.mlp.up_proj."
    return lambda folder: add_tensors(folder, {f"{at}{end}": part for end, part in parts.items()})


def stating(**entries: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        stated = json.loads((folder / "config.json").read_text())["quantization_config"]
        edit_settings(folder, quantization_config={**stated, **entries})

    return change


def scheme(**entries: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        stated = settings["quantization_config"]
        stated["config_groups"]["group_0"]["weights"] |= entries
        edit_settings(folder, quantization_config=stated)

    return change


GPTQ, AWQ, COMPRESSED = Style("gptq"), Style("awq"), Style("compressed-tensors")
REFUSED: dict[str, tuple[Style, Callable[[Path], None], str]] = {
    "no object": (GPTQ, lambda f: edit_settings(f, quantization_config=4), "an object was"),
    "3 bits": (GPTQ, stating(bits=3), "bits is 3; of gptq only 4 or 8 is supported"),
    "no bits": (GPTQ, stating(bits=None), "bits is None, no whole number"),
    "bits of a fraction": (GPTQ, stating(bits=4.0), "bits is 4.0, no whole number"),
    "two formats": (GPTQ, stating(format="gptq_v2"), "format and checkpoint_format are not the"),
    "bitsandbytes": (
        GPTQ, stating(quant_method="bitsandbytes", bits=None, load_in_4bit=True),
        "quantized weights (bitsandbytes) are not supported",
    ),
    "AWQ of 8 bits": (AWQ, stating(bits=8), "bits is 8; of awq only 4"),
    "AWQ for other kernels": (AWQ, stating(version="gemv"), "version is 'gemv'; of awq only"),
    "llm-awq": (AWQ, stating(backend="llm-awq"), "backend is 'llm-awq'"),
    "AWQ without zeros": (AWQ, stating(zero_point=False), "zero_point is False"),
    "Marlin": (GPTQ, stating(checkpoint_format="marlin"), "checkpoint_format is 'marlin'"),
    "words of 16 bits": (GPTQ, stating(pack_dtype="int16"), "pack_dtype is 'int16'"),
    "modules of their own": (GPTQ, stating(dynamic={"-:.*": {}}), "dynamic is"),
    "a new entry": (GPTQ, stating(rotation="hadamard"), "rotation is 'hadamard', which is unknown"),
    "a group of a fraction": (GPTQ, stating(group_size=0.5), "group_size is 0.5"),
    "another group": (GPTQ, stating(group_size=16), "scales has shape [3, 64], but 64 rows"),
    "a group that fills no row": (GPTQ, stating(group_size=40), "columns in groups of 40"),
    "no groups of columns": (
        Style("gptq", reordered=True), without("g_idx"), "tensor model.layers.0.mlp.down_proj.g_idx"
    ),
    "uneven groups": (
        GPTQ, with_parts(g_idx=torch.zeros(64, dtype=torch.int32)), "groups of 32"
    ),
    "no zeros": (GPTQ, without("qzeros"), "qzeros is missing"),
    "zeros of another size": (
        GPTQ, with_parts(qzeros=torch.zeros(2, 4, dtype=torch.int32)), "qzeros has shape [2, 4]"
    ),
    "codes in 16 bits": (
        GPTQ, with_parts(qweight=torch.zeros(8, 96, dtype=torch.int16)), "qweight is stored as"
    ),
    "stored twice": (GPTQ, with_parts(weight=torch.zeros(96, 64)), "is stored twice"),
    "FP8": (GPTQ, stating(quant_method="fp8"), "quantized weights (fp8, 4 bits) are not supported"),
    "floating-point numbers": (COMPRESSED, scheme(type="float"), "type is 'float'"),
    "stated zeros that are missing": (
        Style("compressed-tensors", symmetric=True), scheme(symmetric=False),
        "weight_zero_point is missing",
    ),
    "no size of groups": (COMPRESSED, scheme(group_size=None), "group_size is None"),
    "no bits of a scheme": (COMPRESSED, scheme(num_bits=None), "num_bits is None"),
    "blocks": (COMPRESSED, scheme(strategy="block"), "strategy is 'block'"),
    "quantised activations": (
        COMPRESSED,
        lambda f: in_group(f, input_activations={"num_bits": 8}), "input_activations is"
    ),
    "some modules": (COMPRESSED, lambda f: in_group(f, targets=["re:.*q_proj"]), "targets is"),
    "two schemes": (
        COMPRESSED, stating(config_groups={"a": {}, "b": {}}), "is not one group for all weights"
    ),
    "another format": (COMPRESSED, stating(format="nvfp4-pack-quantized"), "format is 'nvfp4"),
    "a shape of its own": (
        COMPRESSED, with_parts(weight_shape=torch.tensor([96, 60])), "weight_shape is not [96, 64]"
    ),
}  # fmt: skip


def in_group(folder: Path, **entries: Any) -> None:
    stated = json.loads((folder / "config.json").read_text())["quantization_config"]
    stated["config_groups"]["group_0"] |= entries
    edit_settings(folder, quantization_config=stated)


@pytest.mark.parametrize(("style", "change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_computed_is_refused(
    style: Style, change: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    save_packed(tmp_path, style)
    open_directory(tmp_path)
    change(tmp_path)
    with pytest.raises(ModelLoadError) as refused:
        dict(open_directory(tmp_path).weights)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
