"""A loaded checkpoint computes what transformers computes; a damaged one is named in one line."""

import argparse
import json
import random
import re
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from sequoia_core.config import Offload
from sequoia_core.errors import ModelLoadError
from sequoia_core.model.device import Placement, even_stages
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.loader import Checkpoint, open_checkpoint, open_directory
from sequoia_core.model.loading.weights import COPIED_BYTES, SafetensorsWeights
from sequoia_core.model.offload.model import load_offloaded
from tests.core.checkpoints import TINY, edit_settings, reference_logits, save_model, tiny_llama
from tests.core.models import fresh_logits

TOKENS = torch.arange(3, 40)
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "one KV head": {"num_key_value_heads": 1},
    "as many KV heads": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 16},
    "narrow heads": {"head_dim": 4},
    "tied": {"tie_word_embeddings": True},
    "biases of attention": {"attention_bias": True, "num_key_value_heads": 1},
    "biases of the MLP": {"mlp_bias": True},
    "biases of both": {"attention_bias": True, "mlp_bias": True, "head_dim": 16},
    "linear rope": {
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    },
    "llama3 rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
}


def logits_of(model: Checkpoint) -> torch.Tensor:
    llama = Llama(model.config, model.weights, torch.device("cpu"), torch.float32)
    return fresh_logits(llama, TOKENS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    model = save_model(tmp_path, **VARIANTS[variant])
    expected = reference_logits(model, TOKENS)
    torch.testing.assert_close(logits_of(open_directory(tmp_path)), expected, atol=2e-5, rtol=1e-4)


def test_the_rope_variants_differ_at_all() -> None:
    plain = reference_logits(tiny_llama(), TOKENS)
    for variant in ("linear rope", "llama3 rope"):
        other = reference_logits(tiny_llama(**VARIANTS[variant]), TOKENS)
        assert (plain - other).abs().max() > 1e-2, variant


def in_shards(directory: Path) -> None:
    tiny_llama().save_pretrained(directory, max_shard_size="20KB")
    assert len(list(directory.glob("*.safetensors"))) > 2


def pickled(directory: Path, **options: Any) -> None:
    tiny_llama().save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "pytorch_model.bin", **options)


def pickled_before_archives(directory: Path) -> None:
    pickled(directory, _use_new_zipfile_serialization=False)


def pickled_in_shards(directory: Path) -> None:
    pickled(directory)
    tensors = torch.load(directory / "pytorch_model.bin", weights_only=True)
    (directory / "pytorch_model.bin").unlink()
    places = {name: f"pytorch_model-{place % 2}.bin" for place, name in enumerate(tensors)}
    for file in set(places.values()):
        part = {name: tensor for name, tensor in tensors.items() if places[name] == file}
        torch.save(part, directory / file)
    index = directory / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("write", [in_shards, pickled, pickled_before_archives, pickled_in_shards])
def test_every_way_of_storing_weights_reads_the_same(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path)
    stored = tiny_llama().state_dict()
    weights = open_directory(tmp_path).weights
    assert set(weights) == set(stored)
    assert len(weights) == len(stored)
    for name in stored:
        assert torch.equal(weights[name], stored[name]), name


def test_ends_of_text_come_from_both_configurations(tmp_path: Path) -> None:
    save_model(tmp_path, eos_token_id=2)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert open_directory(tmp_path).eos_token_ids == {2, 7}


def test_the_digest_follows_the_weights(tmp_path: Path) -> None:
    save_model(tmp_path / "one")
    save_model(tmp_path / "same")
    save_model(tmp_path / "other", initializer_range=0.1)
    one, same, other = (
        open_directory(tmp_path / name).digest() for name in ("one", "same", "other")
    )
    assert one == same
    assert one != other


def test_the_digest_follows_the_configuration(tmp_path: Path) -> None:
    save_model(tmp_path)
    first = open_directory(tmp_path).digest()
    edit_settings(tmp_path, rms_norm_eps=1e-4)
    second = open_directory(tmp_path).digest()
    edit_settings(tmp_path, _name_or_path="another name")
    assert first != second == open_directory(tmp_path).digest()


def in_odd_shards(directory: Path, **changes: Any) -> None:
    save_model(directory, **changes)
    whole = directory / "model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    places = {name: f"part-{place % 2}.safetensors" for place, name in enumerate(tensors)}
    for file in set(places.values()):
        part = {name: tensor for name, tensor in tensors.items() if places[name] == file}
        save_file(part, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_the_digest_follows_the_files_that_the_index_names(tmp_path: Path) -> None:
    in_odd_shards(tmp_path / "one")
    in_odd_shards(tmp_path / "other", initializer_range=0.1)
    one, other = (open_directory(tmp_path / name).digest() for name in ("one", "other"))
    assert one != other
    (tmp_path / "one" / "model-00009-of-00009.safetensors").write_bytes(b"not of this model")
    assert open_directory(tmp_path / "one").digest() == one


def test_rotary_buffers_are_passed_over(tmp_path: Path) -> None:
    save_model(tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(tmp_path, lambda tensors: tensors.update({name: torch.ones(3)}))
    open_directory(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "inv_freq", "lm_head.bias", "model.layers.2.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight",
        "model.layers.00.mlp.up_proj.weight", "score.weight", "x\x1b[31m\n",
    ],
)  # fmt: skip
def test_a_stored_tensor_that_nothing_is_computed_with_is_refused(
    name: str, tmp_path: Path
) -> None:
    save_model(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors.update({name: torch.ones(32)}))
    with pytest.raises(ModelLoadError, match="computes nothing with it") as caught:
        open_directory(tmp_path)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_a_stored_head_is_used_though_the_config_says_it_is_tied(kind: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    edit_settings(tmp_path, tie_word_embeddings=True)
    reference = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(reference.lm_head.weight, tiny_llama().lm_head.weight)
    if kind == "pickle":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    opened = open_directory(tmp_path)
    assert not opened.config.tie_word_embeddings
    expected = reference_logits(reference, TOKENS)
    torch.testing.assert_close(logits_of(opened), expected, atol=2e-5, rtol=1e-4)


def test_a_second_copy_of_the_embedding_stays_one_matrix(tmp_path: Path) -> None:
    save_model(tmp_path, tie_word_embeddings=True)
    edit_tensors(
        tmp_path,
        lambda tensors: tensors.update(
            {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
        ),
    )
    assert open_directory(tmp_path).config.tie_word_embeddings


def test_biases_are_computed_wherever_the_layers_lie(tmp_path: Path) -> None:
    model = save_model(tmp_path, attention_bias=True, mlp_bias=True)
    expected = reference_logits(model, TOKENS)
    opened = open_directory(tmp_path)
    cpu, config, weights = torch.device("cpu"), opened.config, opened.weights
    stages = even_stages(config, (cpu, cpu))
    on_disk = Placement((cpu,), Offload.DISK)
    models = [
        Llama(config, weights, cpu, torch.float32, stages=stages),
        load_offloaded(config, torch.float32, weights, on_disk),
        Llama(config, weights, cpu, torch.float32),
    ]
    for each in models:
        logits = fresh_logits(each, TOKENS)
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
    in_bfloat16 = Llama(config, weights, cpu, torch.bfloat16)
    logits = in_bfloat16.forward(TOKENS, torch.arange(len(TOKENS)), None, in_bfloat16.new_cache())
    assert float((logits - expected).norm() / expected.norm()) < 0.05


def test_a_billion_layers_are_refused_before_anything_is_made_for_them(tmp_path: Path) -> None:
    save_model(tmp_path)
    edit_settings(tmp_path, num_hidden_layers=10**9)
    tracemalloc.start()
    try:
        with pytest.raises(ModelLoadError, match="states 1000000000 layers, but 2 are stored"):
            open_directory(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def edit_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


NORM = "model.layers.1.input_layernorm.weight"
_LYING_HEAD = json.dumps(
    {NORM: {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 2**62]}}
).encode()
LYING_OFFSETS = struct.pack("<Q", len(_LYING_HEAD)) + _LYING_HEAD + bytes(64)
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), r"config\.json: no such file"),
    "config cut": (lambda d: cut(d / "config.json"), r"config\.json: no readable JSON"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "object was expected"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), r"no model\.safetensors or"),
    "weights cut": (lambda d: cut(d / "model.safetensors"), r"model\.safetensors: truncated"),
    "weights empty": (lambda d: (d / "model.safetensors").write_bytes(b""), "truncated"),
    "weights are junk": (
        lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 4096),
        "truncated",
    ),
    "a tensor is missing": (
        lambda d: edit_tensors(d, lambda tensors: tensors.pop(NORM)),
        rf"model\.safetensors: tensor {re.escape(NORM)} is missing",
    ),
    "a tensor has another shape": (
        lambda d: edit_tensors(d, lambda tensors: tensors.update({NORM: torch.ones(31)})),
        rf"model\.safetensors: {re.escape(NORM)} has shape \[31\], .* means \[32\]",
    ),
    "another head than stated": (
        lambda d: edit_settings(d, draft_vocab_size=10),
        r"(lm_head\.weight has shape \[96, 32\], .* means \[10, 32\]|draft_vocab_ids is missing)",
    ),
    "unsupported architecture": (
        lambda d: edit_settings(d, model_type="mamba"),
        "model_type is 'mamba'",
    ),
    "foreign quantization": (
        lambda d: edit_settings(d, quantization_config={"quant_method": "gptq", "bits": 4}),
        "states matrices of GPTQ 4 bits, but none is stored so",
    ),
    "a weight of whole numbers": (
        lambda d: edit_tensors(
            d, lambda tensors: tensors.update({NORM: torch.ones(32, dtype=torch.int8)})
        ),
        rf"{re.escape(NORM)} is stored as whole numbers",
    ),
    "absurd sizes": (
        lambda d: edit_settings(d, vocab_size=10**18, hidden_size=10**18),
        "has shape .* means",
    ),
    "a header that lies": (
        lambda d: (d / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}" * 40),
        "truncated or no safetensors file",
    ),
    "an offset that lies": (
        lambda d: (d / "model.safetensors").write_bytes(LYING_OFFSETS),
        "truncated or no safetensors file",
    ),
    "unknown own format": (
        lambda d: edit_settings(d, quantization={"format": "int8-rows"}),
        "'int8-rows'} is unknown",
    ),
    "own format is no entry": (lambda d: edit_settings(d, quantization=3), "quantization 3 is"),
    "a generation config that is no JSON": (
        lambda d: (d / "generation_config.json").write_text("{"),
        r"generation_config\.json: no readable JSON",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_in_one_line(damage: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    apply, message = DAMAGE[damage]
    apply(tmp_path)
    with pytest.raises(ModelLoadError, match=message) as caught:
        open_directory(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "this part of the model is missing"),
        (cut, "truncated"),
    ],
)
@pytest.mark.parametrize("write", [in_shards, pickled_in_shards])
def test_a_damaged_shard_is_named(
    write: Callable[[Path], None],
    damage: Callable[[Path], None],
    message: str,
    tmp_path: Path,
) -> None:
    write(tmp_path)
    shard = sorted([*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.bin")])[1]
    damage(shard)
    with pytest.raises(ModelLoadError, match=rf"{re.escape(shard.name)}: {message}"):
        open_directory(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../b"}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": ["b"]}}',
        '{"weight_map": {"a": "b\\u0000c"}}',
        '{"weight_map": ' + "[" * 100_000,
    ],
    ids=["empty", "no shards", "outside", "number", "list", "null byte", "nested too deep"],
)
def test_a_bad_index_is_refused(index: str, tmp_path: Path) -> None:
    in_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelLoadError, match=r"index\.json: "):
        open_directory(tmp_path)


class Intruder:
    """Runs code when it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("intruder-was-here"), "x"))


@pytest.mark.parametrize(
    "content",
    [
        Intruder(),
        ["no dict"],
        {"epoch": 3},
        {3: torch.ones(1)},
        {"sparse": torch.eye(3).to_sparse()},
        {"without numbers": torch.ones(3, device="meta")},
    ],
    ids=["code", "list", "number", "number as name", "sparse", "meta"],
)
def test_a_pickle_of_anything_but_tensors_is_refused(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled(tmp_path)
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin: "):
        open_directory(tmp_path)
    assert not Path("intruder-was-here").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"step": np.float64(3.0)}, "numpy._core.multiarray.scalar"),
        ({"lm_head.weight": np.ones(3)}, "numpy._core.multiarray._reconstruct"),
        ({"args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    ],
    ids=["number of numpy", "array of numpy", "arguments of a training"],
)
def test_what_a_pickle_holds_beyond_tensors_is_named(
    content: object, named: str, tmp_path: Path
) -> None:
    """Fetching it again does not help, and nobody is advised to trust it."""
    pickled(tmp_path)
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=rf"more than tensors \({named}\)") as caught:
        open_directory(tmp_path)
    assert str(caught.value).isprintable()
    assert "fetch it again" not in str(caught.value)


def test_a_generation_config_with_an_end_that_is_no_id_is_named(tmp_path: Path) -> None:
    save_model(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ModelLoadError, match=rf"^{tmp_path}: eos_token_id is '</s>'"):
        open_directory(tmp_path)


def test_a_tensor_that_repeats_what_is_stored_is_refused(tmp_path: Path) -> None:
    """A few bytes could stand for a terabyte."""
    pickled(tmp_path)
    tensors = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    tensors["lm_head.weight"] = torch.ones(1, 1).expand(10**6, 10**6)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert (tmp_path / "pytorch_model.bin").stat().st_size < 200_000
    with pytest.raises(ModelLoadError, match=r"'lm_head\.weight' is larger than what is stored"):
        open_directory(tmp_path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """Mapped, its bytes would be read as they are."""
    pickled(tmp_path)
    stored = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(stored) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with pytest.raises(ModelLoadError, match="its entries are compressed"):
        open_directory(tmp_path)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("write", [pickled, pickled_before_archives, save_model])
def test_flipped_bytes_in_weights_give_one_line_or_a_model(
    write: Callable[[Path], None], seed: int, tmp_path: Path
) -> None:
    write(tmp_path)
    (stored,) = [file for file in tmp_path.iterdir() if file.suffix in (".bin", ".safetensors")]
    whole, chosen = stored.read_bytes(), random.Random(seed)
    for _ in range(40):
        damaged = bytearray(whole)
        for _ in range(chosen.choice((1, 2, 8))):
            place = chosen.choice((chosen.randrange(3000), -1 - chosen.randrange(3000)))
            damaged[place] = chosen.randrange(256)
        stored.write_bytes(damaged)
        try:
            open_directory(tmp_path)
        except ModelLoadError as error:
            refused = str(error)
            assert "\n" not in refused, refused  # it need not be refused


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    in_odd_shards(tmp_path)
    part = tmp_path / "part-0.safetensors"
    other = load_file(tmp_path / "part-1.safetensors")
    save_file({**load_file(part), **dict(list(other.items())[:1])}, part)
    with pytest.raises(ModelLoadError, match=r"is also in part-0\.safetensors"):
        open_directory(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{tmp}/nowhere", "no such file or folder"),
        ("nowhere.gguf", "no such file or folder"),
        ("models/nowhere.gguf", "no such file or folder"),
        ("./models/nowhere", "no such file or folder"),
        ("~/nowhere-at-all", "no such file or folder"),
        ("~nobody-by-this-name/model", "no such file or folder"),
        ("", "no such file or folder"),
        ("x" * 5000, "File name too long"),
        ("{tmp}/notes.txt", "give the model's folder"),
    ],
)
def test_a_wrong_path_never_asks_the_hub(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequoia_core.model.loading.hub.download", pytest.fail)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelLoadError, match=message):
        open_checkpoint(source.format(tmp=tmp_path))


def test_the_name_is_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "my-model")
    monkeypatch.chdir(tmp_path / "my-model")
    model = open_checkpoint(".")
    assert model.name == "my-model"
    assert model.config.vocab_size == TINY["vocab_size"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mappings")
def test_small_tensors_do_not_keep_their_file_mapped(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    norms = {f"norm{index}": torch.rand(8) for index in range(20)}
    save_file({**norms, "large": torch.rand(COPIED_BYTES)}, file)
    weights = SafetensorsWeights([file])
    kept = [weights[name] for name in norms]
    assert all(torch.equal(tensor, norms[name]) for tensor, name in zip(kept, norms, strict=True))
    assert _mappings(file) <= 1  # the weights' own, of the file's head
    large = weights["large"]
    assert _mappings(file) >= 1
    del large


def _mappings(file: Path) -> int:
    return Path("/proc/self/maps").read_text(encoding="utf-8").count(str(file))
