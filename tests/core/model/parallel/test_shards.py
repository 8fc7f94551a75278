"""The parts of a model make the whole, and a process reads no more than its own."""

from typing import Any

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from sequoia_core.errors import ParameterError
from sequoia_core.model.loading.weights import SafetensorsWeights, Weights
from sequoia_core.model.parallel.shards import Shard, ShardWeights, check_divisible
from sequoia_core.model.tensor_names import EMBEDDING, HEAD, expected_shapes
from tests.core.models import random_weights, tiny_config

BIASES = {"attention_bias": True, "mlp_bias": True}


class Read(Weights):
    """Counts the numbers that are read."""

    read = 0

    @override
    def __getitem__(self, name: str) -> Tensor:
        found = super().__getitem__(name)
        self.read += found.numel()
        return found

    @override
    def narrowed(self, name: str, axis: int, first: int, size: int) -> Tensor:
        found = super().__getitem__(name).narrow(axis, first, size)
        self.read += found.numel()
        return found


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("changes", [{}, BIASES, {"tie_word_embeddings": True}], ids=str)
def test_parts_side_by_side_are_the_whole(ranks: int, changes: dict[str, Any]) -> None:
    config = tiny_config(num_kv_heads=4, **changes)
    whole = random_weights(config, 0)
    parts = [ShardWeights(Weights(whole), Shard(config, rank, ranks)) for rank in range(ranks)]
    for name in expected_shapes(config):
        found = [part[name] for part in parts]
        if found[0].shape == whole[name].shape:
            assert all(torch.equal(each, whole[name]) for each in found)
            continue
        rows = found[0].shape[1:] == whole[name].shape[1:]
        assert torch.equal(torch.cat(found, 0 if rows else 1), whole[name]), name
    divided = {name for name in parts[0] if parts[0][name].shape != whole[name].shape}
    of_a_layer = 7 + (5 if changes == BIASES else 0)  # the biases of sums are whole
    assert len(divided) == of_a_layer * config.num_layers + (HEAD in parts[0])
    assert EMBEDDING not in divided


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_processes_of_one_kv_head_hold_the_same_keys(kv_heads: int) -> None:
    config = tiny_config(num_kv_heads=kv_heads)
    name, dim = "model.layers.1.self_attn.k_proj.weight", config.head_dim
    whole = random_weights(config, 0)
    for rank in range(4):
        shard = Shard(config, rank, 4)
        assert (shard.part.num_heads, shard.part.num_kv_heads) == (1, 1)
        first = rank * kv_heads // 4 * dim
        assert torch.equal(ShardWeights(Weights(whole), shard)[name], whole[name][first:][:dim])


@pytest.mark.parametrize("tied", [False, True])
def test_a_process_reads_its_own_numbers_once(tied: bool) -> None:
    config = tiny_config(tie_word_embeddings=tied)
    weights, shard = Read(random_weights(config, 0)), Shard(config, 0, 2)
    for name in (parts := ShardWeights(weights, shard)):
        _ = parts[name]
    assert weights.read == shard.values


def test_a_part_of_a_safetensors_file_has_memory_of_its_own(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    whole = torch.arange(24.0).view(4, 6)
    save_file({"a": whole, "b": whole[0].clone()}, tmp_path / "model.safetensors")
    stored = SafetensorsWeights([tmp_path / "model.safetensors"])
    assert torch.equal(stored.narrowed("a", 0, 1, 2), whole[1:3])
    assert torch.equal(stored.narrowed("a", 1, 2, 3), whole[:, 2:5])
    assert torch.equal(stored.narrowed("b", 0, 4, 2), whole[0, 4:])
    for axis in (0, 1):
        assert stored.narrowed("a", axis, 1, 2).untyped_storage().nbytes() == 4 * (12, 8)[axis]


@pytest.mark.parametrize(
    ("ranks", "changes", "words"),
    [
        (3, {}, "4 heads, 2 KV heads and 48 inner columns cannot be divided so; give 1 or 2 or 4"),
        (8, {}, "cannot be divided so"),
        (4, {"intermediate_size": 50}, "give 1 or 2$"),
        (2, {"num_heads": 9, "num_kv_heads": 3, "intermediate_size": 54}, "give 1 or 3 or 9"),
        (2, {"feature_layers": (1,)}, "has feature_layers .* which is not divided"),
    ],
)
def test_what_cannot_be_divided_is_refused(ranks: int, changes: Any, words: str) -> None:
    config = tiny_config(**changes)
    with pytest.raises(ParameterError, match=words) as caught:
        check_divisible(config, ranks)
    assert "\n" not in str(caught.value)
    check_divisible(tiny_config(), 4)
