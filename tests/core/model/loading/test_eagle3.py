"""Published EAGLE-3 drafts of each style compute what is described, or are refused in a line."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from sequoia_core.config import Offload, WeightFormat
from sequoia_core.errors import ModelLoadError, SequoiaError
from sequoia_core.model.eagle3 import Eagle3Llama
from sequoia_core.model.interface import KVCache
from sequoia_core.model.loading.loader import describe_directory, open_directory
from sequoia_core.model.loading.pair import keeps_target, load_pair, with_other_draft
from sequoia_core.model.native.library import find_library
from sequoia_core.model.tensor_names import weight_values
from tests.core.checkpoints import save_model, tiny_tokenizer
from tests.core.eagle3_drafts import (
    KEPT,
    STYLES,
    TARGET,
    Reference,
    random_tensors,
    save_draft,
)
from tests.core.engines import tree_of
from tests.core.models import path_to

TEXT = [3, 17, 4, 90, 22, 5, 41, 8, 8, 60, 33]
GROWMAP = tree_of([0, 0, 1, 1, 2, 4, 4, 7])
GUESSES = [33, 12, 50, 7, 77, 31, 5, 64, 9]  # tokens of a tree's nodes

close = partial(torch.testing.assert_close, atol=2e-5, rtol=1e-5, check_dtype=False)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, LlamaForCausalLM]:
    folder = tmp_path_factory.mktemp("models") / "target"
    return str(folder), save_model(folder, tiny_tokenizer(), **TARGET)


class Drafting:
    """A draft that is loaded for a target, next to a cache of the target that holds the text."""

    def __init__(
        self, target: str, draft: Path, weights: WeightFormat = WeightFormat.TORCH, **options: Any
    ) -> None:
        self.pair = load_pair(target, str(draft), dtype="float32", weights=weights, **options)
        assert isinstance(self.pair.draft, Eagle3Llama)
        self.draft = self.pair.draft
        self.cache: KVCache = self.pair.target.new_cache()
        self.pair.target.extend(torch.tensor(TEXT), self.cache)

    def after(self, cache: KVCache, stop: int) -> Tensor:
        """Logits after the text's tokens from the cached ones on."""
        positions = torch.arange(cache.length, stop)
        return self.draft.forward(torch.tensor(TEXT)[positions], positions, None, cache)

    def tree_logits(self, cache: KVCache) -> dict[int, Tensor]:
        """After each node of the tree, whose root is the text's last token and is cached."""
        root, mask = len(TEXT) - 1, GROWMAP.ancestor_mask()
        rows = [0]
        found: dict[int, Tensor] = {}
        for level in GROWMAP.levels[1:]:
            parents = [rows.index(GROWMAP.parents[node]) - len(rows) for node in level]
            rows += level
            logits = self.draft.forward(
                torch.tensor([GUESSES[node] for node in level]),
                torch.tensor([root + GROWMAP.depths[node] for node in level]),
                mask[list(level)][:, rows],
                cache,
                torch.tensor(parents),
            )
            found |= dict(zip(level, logits, strict=True))
        return found


@pytest.mark.parametrize("name", STYLES)
def test_logits_are_those_of_the_description(
    name: str, target: tuple[str, LlamaForCausalLM], tmp_path: Path
) -> None:
    """Of a prompt read at once, in parts, and of every node of a tree."""
    tensors = save_draft(tmp_path / "draft", STYLES[name])
    reference = Reference(STYLES[name], tensors, target[1])
    expected = reference.logits(TEXT)
    made = Drafting(target[0], tmp_path / "draft")
    close(made.after(made.draft.new_cache(made.cache), len(TEXT))[1:], expected)
    cache = made.draft.new_cache(made.cache)
    made.after(cache, 1)
    close(made.after(cache, 4), expected[:3])
    made.draft.extend(torch.tensor(TEXT[4:8]), cache)
    close(made.after(cache, len(TEXT)), expected[7:])
    for node, logits in made.tree_logits(cache).items():
        path = [GUESSES[each] for each in path_to(GROWMAP.parents, node)[1:]]
        close(logits, reference.logits(TEXT, path)[-1])


@pytest.mark.skipif(find_library() is None, reason="the native library was not built")
@pytest.mark.parametrize("name", ["SGLang", "EAGLE 3.1"])
def test_it_reads_the_states_of_a_native_target(
    name: str, target: tuple[str, LlamaForCausalLM], tmp_path: Path
) -> None:
    """PyTorch computes the draft; the target keeps its states and lends its embedding."""
    tensors = save_draft(tmp_path / "draft", STYLES[name])
    made = Drafting(target[0], tmp_path / "draft", WeightFormat.NATIVE)
    assert made.pair.native
    logits = made.after(made.draft.new_cache(made.cache), len(TEXT))
    close(logits[1:], Reference(STYLES[name], tensors, target[1]).logits(TEXT), atol=2e-4)


def test_it_reads_the_states_of_an_offloaded_target(
    target: tuple[str, LlamaForCausalLM], tmp_path: Path
) -> None:
    style = STYLES["SGLang"]
    tensors = save_draft(tmp_path / "draft", style)
    made = Drafting(target[0], tmp_path / "draft", offload=Offload.DISK)
    logits = made.after(made.draft.new_cache(made.cache), len(TEXT))
    close(logits[1:], Reference(style, tensors, target[1]).logits(TEXT))


@pytest.mark.parametrize("name", STYLES)
def test_a_tree_leaves_no_trace(
    name: str, target: tuple[str, LlamaForCausalLM], tmp_path: Path
) -> None:
    """The keys of guesses are dropped, also of those that were accepted."""
    save_draft(tmp_path / "draft", STYLES[name])
    made = Drafting(target[0], tmp_path / "draft")
    expected = made.after(made.draft.new_cache(made.cache), len(TEXT))
    cache = made.draft.new_cache(made.cache)
    made.after(cache, len(TEXT) - 2)
    rows = torch.tensor([TEXT[-2], GUESSES[1]])
    made.draft.forward(rows[:1], torch.tensor([len(TEXT) - 2]), None, cache)
    at, seen = torch.tensor([len(TEXT) - 1]), torch.ones(1, 2, dtype=torch.bool)
    made.draft.forward(rows[1:], at, seen, cache, torch.tensor([-1]))
    cache.keep(len(TEXT) - 2, [len(TEXT) - 2, len(TEXT) - 1])
    assert cache.length == len(TEXT) - 1
    close(made.after(cache, len(TEXT))[-1], expected[-1])


def test_the_targets_tokens_are_those_of_the_offsets(
    target: tuple[str, LlamaForCausalLM], tmp_path: Path
) -> None:
    tensors = save_draft(tmp_path / "draft", STYLES["SafeAILab"])
    pair = load_pair(target[0], str(tmp_path / "draft"))
    assert pair.draft_vocab_ids is not None
    assert pair.draft_vocab_ids.tolist() == tensors["t2d"].nonzero()[:, 0].tolist()
    assert pair.draft is not None
    assert pair.draft.context_window == pair.target.context_window == 256


@pytest.mark.parametrize("name", STYLES)
def test_a_draft_is_described_before_its_weights_are_here(name: str, tmp_path: Path) -> None:
    tensors = save_draft(tmp_path / "draft", STYLES[name])
    whole = open_directory(tmp_path / "draft").config
    alone = describe_directory(tmp_path / "draft").config
    stored = sum(tensor.numel() for each, tensor in tensors.items() if each != "t2d")
    assert whole.is_draft
    assert alone.is_draft
    assert weight_values(whole) == stored
    assert alone.feature_count == whole.feature_count == len(STYLES[name].inputs)


def test_what_trainers_note_about_the_target_changes_nothing(tmp_path: Path) -> None:
    """Entries of configurations of SpecForge and AngelSlim."""
    notes = {
        "max_window_layers": 28, "sliding_window": 16, "target_model_type": "gemma3_text",
        "use_mrope": False, "use_sliding_window": False,
    }  # fmt: skip
    for name, changes in (("plain", {}), ("noted", notes)):
        save_draft(tmp_path / name, STYLES["SafeAILab"], **changes)
    plain, noted = (open_directory(tmp_path / name).config for name in ("plain", "noted"))
    assert noted == plain


def test_another_draft_for_a_loaded_target_must_read_the_layers_that_are_kept(
    target: tuple[str, LlamaForCausalLM], tmp_path: Path
) -> None:
    for name in ("SafeAILab", "NVIDIA", "vLLM"):
        save_draft(tmp_path / name, STYLES[name])
    pair = load_pair(target[0], str(tmp_path / "SafeAILab"))
    other = with_other_draft(pair, str(tmp_path / "NVIDIA"))
    assert isinstance(other.draft, Eagle3Llama)
    assert other.target is pair.target
    assert keeps_target(pair, target[0], str(tmp_path / "NVIDIA"))
    assert not keeps_target(pair, target[0], str(tmp_path / "vLLM"))
    with pytest.raises(ModelLoadError, match=r"layers \[0, 2, 5\], which this target does not"):
        with_other_draft(pair, str(tmp_path / "vLLM"))


def damaged(tensors: dict[str, Tensor], change: str) -> None:
    match change:
        case "no offsets":
            del tensors["d2t"]
        case "fewer offsets":
            tensors["d2t"] = tensors["d2t"][:-1]
        case "offsets beyond":
            tensors["d2t"][-1] += 200
            del tensors["t2d"]
        case "a token twice":
            tensors["d2t"][1] = tensors["d2t"][0] - 1
            del tensors["t2d"]
        case "another table":
            tensors["t2d"] = ~tensors["t2d"]
        case "a short table":
            tensors["t2d"] = tensors["t2d"][:-1]
        case "no hidden norm":
            del tensors["midlayer.hidden_norm.weight"]
        case "a tensor twice":
            tensors["layers.0.hidden_norm.weight"] = tensors["midlayer.hidden_norm.weight"].clone()
        case "more":
            tensors["midlayer.self_attn.q_norm.weight"] = torch.ones(8)
        case "no head":
            del tensors["lm_head.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no offsets", "d2t, which names the target's tokens of the draft's, is missing"),
        ("fewer offsets", f"d2t is no list of {KEPT} whole numbers"),
        ("offsets beyond", "draft_vocab_ids names token .* but the target has 96"),
        ("a token twice", "names a token twice"),
        ("another table", "d2t and t2d name different tokens of the target"),
        ("a short table", "d2t and t2d name different tokens of the target"),
        ("no hidden norm", r"tensor model\.layers\.0\.hidden_norm\.weight is missing"),
        ("a tensor twice", "are the same tensor"),
        ("more", "q_norm.* stored, but"),
        ("no head", r"lm_head\.weight is missing"),
    ],
)
def test_a_damaged_file_is_refused(
    change: str, message: str, target: tuple[str, LlamaForCausalLM], tmp_path: Path
) -> None:
    folder = tmp_path / "draft"
    folder.mkdir()
    tensors = random_tensors(STYLES["SafeAILab"])
    damaged(tensors, change)
    (folder / "config.json").write_text(json.dumps(STYLES["SafeAILab"].settings))
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(SequoiaError, match=message) as caught:
        load_pair(target[0], str(folder))
    assert "\n" not in str(caught.value)


IDS = "eagle_aux_hidden_state_layer_ids"


@pytest.mark.parametrize(
    ("style", "changes", "message"),
    [
        ("SafeAILab", {"num_hidden_layers": 4}, "num_hidden_layers is 4; only EAGLE-3 drafts of"),
        ("SafeAILab", {"model_type": "qwen3"}, "of model_type 'qwen3'; only EAGLE-3 drafts with"),
        ("SafeAILab", {"target_hidden_size": 24}, r"fc\.weight has shape \[32, 96\]"),
        ("SafeAILab", {"target_hidden_size": "32"}, "target_hidden_size is '32'"),
        ("SafeAILab", {"norm_before_residual": "yes"}, "norm_before_residual is 'yes'; true or"),
        ("SafeAILab", {"a_gate": True}, "a_gate is True; this entry is unknown"),
        ("SafeAILab", {"vocab_size": 99}, "t2d name different tokens"),
        ("SafeAILab", {"num_aux_hidden_states": 5}, "num_aux_hidden_states is 5, but 3 layers"),
        ("SafeAILab", {"sliding_window": 8}, "sliding_window is 8"),
        ("SafeAILab", {IDS: [2, 4, 9]}, r"reads the target's layers \[1, 3, 8\], but this"),
        ("SafeAILab", {IDS: [0, 2, 4]}, "names the embedding or a layer twice"),
        ("SafeAILab", {IDS: [2, 2, 4]}, "names the embedding or a layer twice"),
        ("SafeAILab", {IDS: ["2"]}, "numbers were expected"),
        ("SGLang", {IDS: [0, 4, 6]}, "counts outputs, name different layers"),
        ("SGLang", {"eagle_config": {"use_mtp_layernorm": True}}, "states use_mtp_layernorm True"),
        ("SGLang", {"eagle_config": [1]}, r"eagle_config is \[1\]; a table"),
        ("speculators", {"a_gate": True}, "a_gate is True; this entry is unknown"),
        ("speculators", {"speculators_config": {"algorithm": "hass"}}, "algorithm is 'hass'"),
        ("speculators", {"transformer_layer_config": 3}, "transformer_layer_config is 3"),
    ],
)
def test_what_is_not_computed_is_refused(
    style: str,
    changes: dict[str, Any],
    message: str,
    target: tuple[str, LlamaForCausalLM],
    tmp_path: Path,
) -> None:
    save_draft(tmp_path / "draft", STYLES[style], **changes)
    with pytest.raises(SequoiaError, match=message) as caught:
        load_pair(target[0], str(tmp_path / "draft"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 5}, "layers 2, n // 2 and n - 3 of a target, but this one has 5"),
        ({"hidden_size": 48, "head_dim": 12}, "hidden states of 32 numbers, but this target's"),
        ({"vocab_size": 128}, "for a vocabulary of 96 tokens, the target has 128"),
    ],
)
def test_a_draft_of_another_target_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_model(tmp_path / "target", tiny_tokenizer(), **{**TARGET, **changes})
    save_draft(tmp_path / "draft", STYLES["SafeAILab"])
    with pytest.raises(SequoiaError, match=message):
        load_pair(str(tmp_path / "target"), str(tmp_path / "draft"))


def test_a_draft_is_no_target(tmp_path: Path) -> None:
    save_draft(tmp_path / "draft", STYLES["SafeAILab"])
    with pytest.raises(ModelLoadError, match="this is a draft"):
        load_pair(str(tmp_path / "draft"))
