"""A model whose layers are read while it decodes is the same model, in the memory of two layers."""

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sequoia_core.config import Mode, Offload, SamplingParams
from sequoia_core.errors import ModelLoadError
from sequoia_core.events import Event, Finished, FinishReason, PrefillProgress
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement
from sequoia_core.model.interface import KVCache
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.weights import SafetensorsWeights
from sequoia_core.model.offload.model import (
    SLOTS,
    THREAD,
    OffloadedLlama,
    layer_buffer,
    layer_bytes,
    layer_matrices,
    load_offloaded,
    resident_bytes,
)
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import make_engine, steps_of, tokens_of
from tests.core.models import fresh_logits, random_weights, tiny_config

CPU = torch.device("cpu")
ON_DISK = Placement((CPU,), Offload.DISK)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOKENS = torch.arange(3, 20)

Offloaded = Callable[..., OffloadedLlama]


@pytest.fixture
def offloaded(tmp_path: Path) -> Iterator[Offloaded]:
    """Makes models of random weights that lie in two files."""
    made: list[OffloadedLlama] = []

    def make(
        config: ModelConfig, dtype: torch.dtype = torch.float32, resident: int = 0
    ) -> OffloadedLlama:
        weights = random_weights(config, 0)
        if config.tie_word_embeddings:
            del weights["lm_head.weight"]
        names = sorted(weights, key=hash)
        for part in range(2):
            shard = {name: weights[name] for name in names[part::2]}
            save_file(shard, tmp_path / f"{part}.safetensors")
        files = SafetensorsWeights([tmp_path / "0.safetensors", tmp_path / "1.safetensors"])
        made.append(load_offloaded(config, dtype, files, ON_DISK, (0,), resident))
        return made[-1]

    yield make
    for each in made:
        each.layer_stream.close()


def resident_model(config: ModelConfig, dtype: torch.dtype = torch.float32) -> Llama:
    return Llama(config, random_weights(config, 0), CPU, dtype, (0,))


def three_passes(model: Llama) -> list[Tensor]:
    """Logits of a prompt, a row and a tree in turn, and what the cache holds afterwards."""
    cache = model.new_cache()
    logits = [model.forward(TOKENS, torch.arange(17), None, cache)]
    logits.append(model.forward(torch.tensor([5]), torch.tensor([17]), None, cache))
    growmap = GrowMap((-1, 0, 0, 1, 1, 3))
    positions = torch.tensor(growmap.depths) + 18
    logits.append(model.forward(torch.arange(6), positions, growmap.ancestor_mask(), cache))
    return [*logits, cache.features(0, cache.length)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "changes", [{"num_layers": 1}, {}, {"num_layers": 3}, {"tie_word_embeddings": True}], ids=str
)
def test_logits_are_those_of_the_resident_model_bit_for_bit(
    changes: dict[str, Any], dtype: torch.dtype, offloaded: Offloaded
) -> None:
    config = tiny_config(**changes)
    weights = random_weights(config, 0)
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    whole = Llama(config, weights, CPU, dtype, (0,))
    streamed = offloaded(config, dtype)
    for expected, found in zip(three_passes(whole), three_passes(streamed), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("resident", [1, 2, 3])
def test_resident_layers_change_no_bit(resident: int, offloaded: Offloaded) -> None:
    config = tiny_config(num_layers=4)
    streamed = offloaded(config, resident=resident)
    assert len(streamed.resident) == resident
    models = resident_model(config), streamed
    for expected, found in zip(*map(three_passes, models), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 256, 257, 700])
def test_a_prompt_is_read_by_one_pass_over_the_layers(
    length: int, dtype: torch.dtype, offloaded: Offloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bits of a resident model, also after what is cached; in the layers' order."""
    config = tiny_config(num_layers=3, context_window=1024)
    streamed, whole = offloaded(config, dtype), resident_model(config, dtype)
    ids = torch.arange(length + 40) * 7 % 61
    passes: list[int] = []
    iterate = streamed.layer_stream.iterate

    def counted(items: Sequence[Any]) -> Iterator[Any]:
        passes.append(len(items))
        return iterate(items)

    monkeypatch.setattr(streamed.layer_stream, "iterate", counted)
    rows = []
    for model in (whole, streamed):
        cache = model.new_cache()
        model.extend(ids[:40], cache)
        model.extend(ids[40:], cache)
        assert cache.length == length + 40
        last = model.forward(torch.tensor([5]), torch.tensor([cache.length]), None, cache)
        rows.append((last, cache.features(0, cache.length)))
    for expected, found in zip(*rows, strict=True):
        assert torch.equal(expected, found)
    assert passes == [3] * 3, "two prompts and a row"


def test_an_engine_reads_a_prompt_by_one_pass(
    offloaded: Offloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = offloaded(tiny_config(num_layers=3, context_window=1024))
    lengths: list[int] = []
    extend = model.extend_in_parts

    def counted(token_ids: Tensor, cache: KVCache) -> Iterator[float]:
        lengths.append(len(token_ids))
        return extend(token_ids, cache)

    monkeypatch.setattr(model, "extend_in_parts", counted)
    prompt = [at % 61 for at in range(600)]
    list(make_engine(model, None, mode=Mode.AR).generate(prompt, SamplingParams(max_new_tokens=2)))
    assert lengths == [599]


def test_a_prompt_is_read_in_parts_between_which_others_may_compute(
    offloaded: Offloaded,
) -> None:
    config = tiny_config(num_layers=4, context_window=1024)
    streamed, whole = offloaded(config), resident_model(config)
    ids = torch.arange(600) * 7 % 61
    cache, expected = streamed.new_cache(), whole.new_cache()
    others = fresh_logits(whole, TOKENS)
    parts = []
    for done in streamed.extend_in_parts(ids, cache):
        parts.append((done, cache.length))
        assert torch.equal(fresh_logits(streamed, TOKENS), others)
    assert parts == [(0.25, 0), (0.5, 0), (0.75, 0)]
    whole.extend(ids, expected)
    row = torch.tensor([5]), torch.tensor([600]), None
    assert torch.equal(streamed.forward(*row, cache), whole.forward(*row, expected))


def test_a_prompt_that_is_left_between_two_layers_leaves_the_cache_as_it_was(
    offloaded: Offloaded,
) -> None:
    config = tiny_config(num_layers=4, context_window=1024)
    model = offloaded(config)
    cache = model.new_cache()
    model.extend(TOKENS[:8], cache)
    parts = model.extend_in_parts(torch.arange(600) % 61, cache)
    assert (next(parts), next(parts)) == (0.25, 0.5)
    parts.close()  # type: ignore[attr-defined]
    assert cache.length == 8
    found = model.forward(TOKENS[8:], torch.arange(8, 17), None, cache)
    torch.testing.assert_close(found, fresh_logits(resident_model(config), TOKENS)[8:])


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_answer_says_which_part_of_a_prompt_is_read_and_stops_in_between(
    stop: int, offloaded: Offloaded
) -> None:
    config = tiny_config(num_layers=4, context_window=1024)
    prompt, params = [at % 61 for at in range(401)], SamplingParams(0.0, max_new_tokens=8)
    engine = make_engine(offloaded(config), None, mode=Mode.AR)
    events: list[Event] = []
    for event in engine.generate(prompt, params, lambda: len(events) > stop):
        events.append(event)
    assert [each for each in events if isinstance(each, PrefillProgress)] == [
        PrefillProgress(100 * at, 400) for at in range(stop)
    ]
    assert not steps_of(events)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is FinishReason.CANCELLED
    whole = list(engine.generate(prompt, params))
    read = [each for each in whole if isinstance(each, PrefillProgress)]
    assert read == [PrefillProgress(100 * at, 400) for at in range(4)]
    resident = make_engine(resident_model(config), None, mode=Mode.AR)
    assert tokens_of(whole) == tokens_of(list(resident.generate(prompt, params)))


def test_a_prompt_that_fails_leaves_the_cache_as_it_was(
    offloaded: Offloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(num_layers=3, context_window=1024)
    model, expected = offloaded(config), fresh_logits(resident_model(config), TOKENS)
    cache = model.new_cache()
    model.extend(TOKENS[:8], cache)
    load = model.layer_stream.loader.load

    def broken(layer: int, slot: int) -> None:
        if layer == 2:
            raise ModelLoadError("the disk is gone")
        load(layer, slot)

    monkeypatch.setattr(model.layer_stream.loader, "load", broken)
    with pytest.raises(ModelLoadError, match="the disk is gone"):
        model.extend(torch.arange(600) % 61, cache)
    assert cache.length == 8
    monkeypatch.undo()
    found = model.forward(TOKENS[8:], torch.arange(8, 17), None, cache)
    torch.testing.assert_close(found, expected[8:])


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_are_those_of_the_resident_model(
    mode: Mode, temperature: float, offloaded: Offloaded
) -> None:
    config = tiny_config(num_layers=3)
    params = SamplingParams(temperature, seed=3, max_new_tokens=40)
    draft = resident_model(tiny_config(num_layers=1))
    answers = [
        tokens_of(
            list(
                make_engine(target, draft, GrowMap.k_ary([2, 2, 1]), mode).generate(
                    [3, 1, 4], params
                )
            )
        )
        for target in (resident_model(config), offloaded(config))
    ]
    assert len(answers[0]) == 40
    assert answers[0] == answers[1]


def tensor_bytes() -> int:
    """Of all storages that any living tensor holds, each counted once."""
    gc.collect()
    held: dict[int, int] = {}
    for each in gc.get_objects():
        if type(each) is Tensor and each.layout is torch.strided:
            storage = each.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


@pytest.mark.parametrize(("dtype", "tied"), [(torch.float32, True), (torch.bfloat16, False)])
def test_only_two_layers_are_ever_in_memory(
    dtype: torch.dtype, tied: bool, offloaded: Offloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        num_layers=12, hidden_size=64, intermediate_size=256, tie_word_embeddings=tied
    )
    before = tensor_bytes()
    model = offloaded(config, dtype)
    counted = []
    for layer in model.layer_stream.iterate(range(config.num_layers)):
        if layer in (1, 11):
            counted.append(tensor_bytes() - before)
    small = 4 * (2 * config.num_layers + 1) * (config.hidden_size + 16)  # float32 norms, and eps
    rotary = 2 * config.context_window * config.head_dim * 4
    allowed = resident_bytes(config, dtype) + small + rotary
    assert max(counted) <= allowed
    nbytes = layer_bytes(config, dtype)
    assert allowed < SLOTS * nbytes + 2.5 * nbytes, "the bound would not notice three more layers"
    assert min(counted) >= SLOTS * nbytes, "nothing was counted"


def test_what_stays_is_all_that_is_no_layers_matrix() -> None:
    config = tiny_config(num_layers=5)
    buffer = layer_buffer(config, torch.float32)
    matrices = {name for layer in range(5) for name, _ in layer_matrices(config, buffer, layer)}
    assert len(matrices) == 5 * 7
    weights = random_weights(config, 0)
    kept = sum(4 * tensor.numel() for name, tensor in weights.items() if name not in matrices)
    assert layer_bytes(config, torch.float32) == sum(each.nbytes for each in buffer.values())
    two_layers = SLOTS * layer_bytes(config, torch.float32)
    assert resident_bytes(config, torch.float32) == kept + two_layers


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("changes", [{}, {"hidden_size": 8, "head_dim": 2, "intermediate_size": 3}])
def test_a_layers_matrices_fill_their_products(dtype: torch.dtype, changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    buffer = layer_buffer(config, dtype)
    weights = random_weights(config, 0)
    for name, place in layer_matrices(config, buffer, 1):
        assert place.shape == weights[name].shape
        place.copy_(weights[name])
    for name, place in layer_matrices(config, buffer, 1):
        assert place.is_contiguous()
        assert torch.equal(place, weights[name].to(dtype)), "another matrix was written over it"
    prefix = "model.layers.1."
    assert torch.equal(
        buffer["query_key_value"],
        torch.cat([weights[f"{prefix}self_attn.{x}_proj.weight"] for x in "qkv"]).to(dtype),
    )


def test_a_file_that_is_damaged_while_decoding_is_one_error_and_then_heals(
    offloaded: Offloaded, tmp_path: Path
) -> None:
    config = tiny_config(num_layers=4)
    model, expected = offloaded(config), three_passes(resident_model(config))
    files = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    whole = [file.read_bytes() for file in files]
    for file, content in zip(files, whole, strict=True):
        with file.open("r+b") as opened:
            opened.truncate(len(content) // 4)
    for _ in range(2):
        with pytest.raises(ModelLoadError, match="it has become shorter"):
            three_passes(model)
    for file, content in zip(files, whole, strict=True):
        with file.open("r+b") as opened:
            opened.write(content)
    for wanted, found in zip(expected, three_passes(model), strict=True):
        assert torch.equal(wanted, found)


def test_a_garbage_model_ends_its_thread(tmp_path: Path) -> None:
    config = tiny_config()
    save_file(random_weights(config, 0), tmp_path / "a.safetensors")
    files = SafetensorsWeights([tmp_path / "a.safetensors"])
    model = load_offloaded(config, torch.float32, files, ON_DISK)
    model.extend(TOKENS, model.new_cache())
    reading = [each for each in threading.enumerate() if each.name.startswith(THREAD)]
    assert len(reading) == 1
    del model
    gc.collect()
    assert not reading[0].is_alive()
