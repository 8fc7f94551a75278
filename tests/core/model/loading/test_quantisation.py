"""`--quantize`: what rounds a target's matrices, what is refused, and what `auto` chooses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from sequoia_core import GrowMap, Mode, SamplingParams
from sequoia_core.config import Offload, Quantize, WeightFormat
from sequoia_core.errors import ParameterError
from sequoia_core.model.device import Placement
from sequoia_core.model.loading import quantisation
from sequoia_core.model.loading.backend import Backend, choose_backend, pair_plans
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.memory_plan import MemoryPlan
from sequoia_core.model.loading.pair import Pair, load_pair, with_other_draft
from sequoia_core.model.loading.quantisation import with_quantisation
from sequoia_core.model.quantised import missing_library
from tests.core.checkpoints import save_gguf, save_model, tiny_llama, tiny_tokenizer
from tests.core.engines import make_engine, tokens_of
from tests.core.families import VARIANTS, save_family
from tests.core.packed_checkpoints import Style, save_packed

CPU, GPU = Placement((torch.device("cpu"),)), Placement((torch.device("cuda", 0),))
SHAPE = {"hidden_size": 64, "intermediate_size": 96}
PROMPT = torch.tensor([5, 17, 3, 60, 8, 8, 41])
TORCH: dict[str, Any] = {"weights": WeightFormat.TORCH, "dtype": "float32"}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("target")
    save_model(folder, tiny_tokenizer(), **SHAPE)
    return str(folder)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("draft")
    save_model(folder, tiny_tokenizer(), **SHAPE, num_hidden_layers=1)
    return str(folder)


def loaded(target: str, draft: str | None = None, **options: Any) -> Pair:
    return load_pair(target, draft, device="cpu", **options)


def logits(pair: Pair) -> torch.Tensor:
    return pair.target.forward(PROMPT, torch.arange(7), None, pair.target.new_cache())


def needs(kind: Quantize) -> None:
    if name := missing_library(kind):
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("kind", [Quantize.INT8, Quantize.INT4])
def test_the_native_library_rounds_in_its_own_blocks(kind: Quantize, target: str) -> None:
    own, pair = loaded(target), loaded(target, quantize=kind)
    assert pair.native
    assert pair.description.dtype == kind.value
    assert pair.fingerprint != own.fingerprint
    apart = float((logits(pair) - logits(own)).norm() / logits(own).norm())
    assert 0.0 < apart < {Quantize.INT8: 0.1, Quantize.INT4: 0.5}[kind]


def test_int8_weights_are_the_same_by_both_names(target: str) -> None:
    by_weights, by_bits = (
        loaded(target, weights=WeightFormat.INT8),
        loaded(target, quantize=Quantize.INT8),
    )
    assert torch.equal(logits(by_weights), logits(by_bits))
    assert by_weights.fingerprint == by_bits.fingerprint
    with pytest.raises(ParameterError, match="weights are int8, but quantize is int4"):
        loaded(target, weights=WeightFormat.INT8, quantize=Quantize.INT4)


@pytest.mark.parametrize("kind", [Quantize.INT8, Quantize.NF4])
def test_a_library_rounds_for_pytorch(kind: Quantize, target: str) -> None:
    needs(kind)
    own, pair = loaded(target, **TORCH), loaded(target, quantize=kind, **TORCH)
    assert pair.description.dtype == f"{kind.value} float32 PyTorch"
    assert pair.fingerprint != own.fingerprint
    apart = float((logits(pair) - logits(own)).norm() / logits(own).norm())
    assert 0.0 < apart < 0.5


@pytest.mark.parametrize("kind", [Quantize.INT8, Quantize.NF4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_library_rounds_every_family(variant: str, kind: Quantize, tmp_path: Path) -> None:
    needs(kind)
    save_family(tmp_path, variant, **SHAPE, num_attention_heads=8)
    tiny_tokenizer().save_pretrained(tmp_path)
    own, pair = (loaded(str(tmp_path), quantize=each, **TORCH) for each in (Quantize.NONE, kind))
    apart = float((logits(pair) - logits(own)).norm() / logits(own).norm())
    assert 0.0 < apart < {Quantize.INT8: 0.1, Quantize.NF4: 0.8}[kind]


@pytest.mark.parametrize("kind", [Quantize.INT8, Quantize.INT4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_native_library_rounds_what_it_computes(
    variant: str, kind: Quantize, tmp_path: Path
) -> None:
    save_family(tmp_path, variant, **SHAPE, num_attention_heads=8)
    tiny_tokenizer().save_pretrained(tmp_path)
    own, pair = (loaded(str(tmp_path), quantize=each) for each in (Quantize.NONE, kind))
    assert pair.native
    apart = float((logits(pair) - logits(own)).norm() / logits(own).norm())
    assert 0.0 < apart < {Quantize.INT8: 0.1, Quantize.INT4: 0.5}[kind]


WAYS: dict[str, dict[str, Any]] = {
    "native int8": {"quantize": Quantize.INT8},
    "native int4": {"quantize": Quantize.INT4},
    "torchao int8": {"quantize": Quantize.INT8, **TORCH},
    "bitsandbytes nf4": {"quantize": Quantize.NF4, **TORCH},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_a_tree_gives_the_tokens_of_plain_decoding(
    options: dict[str, Any], target: str, draft: str
) -> None:
    if "weights" in options:
        needs(options["quantize"])
    pair = loaded(target, draft, **options)
    params = SamplingParams(temperature=0.0, max_new_tokens=30)
    plain, tree = (
        tokens_of([*make_engine(pair.target, each, shape, mode).generate(PROMPT.tolist(), params)])
        for each, shape, mode in (
            (None, None, Mode.AR), (pair.draft, GrowMap.k_ary([3, 2, 1]), Mode.GREEDY),
        )
    )  # fmt: skip
    assert plain == tree
    assert len(plain) == 30


def test_memory_is_planned_for_the_bits(target: str) -> None:
    opened = open_directory(Path(target))
    backend = Backend(GPU, WeightFormat.TORCH, torch.bfloat16)

    def weights(kind: Quantize, of: Backend = backend) -> int:
        (plan,) = pair_plans(opened, None, replace(of, quantize=kind), lambda _: 2**40).values()
        return plan.weights

    dense = weights(Quantize.NONE)
    matrices = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 96)
    rows = 2 * (64 + 64 + 64 + 192 + 64)
    assert weights(Quantize.INT8) == dense - matrices + 3 * rows
    nf4 = weights(Quantize.NF4)
    assert nf4 == dense - 2 * matrices + matrices // 2 + matrices // 16
    native = replace(backend, placement=CPU, dtype=None, weights=WeightFormat.NATIVE)
    kinds = (Quantize.NONE, Quantize.INT8, Quantize.INT4)
    sizes = [weights(kind, native) for kind in kinds]
    assert sizes[0] > 3 * sizes[1]
    assert 2 * sizes[1] > 3 * sizes[2]


def on(
    placement: Placement, kind: Quantize, folder: str, dtype: str = "auto", **options: Any
) -> Backend:
    models = [open_directory(Path(folder))]
    weights = options.pop("weights", WeightFormat.AUTO)
    backend = choose_backend(weights, dtype, placement, models)
    return with_quantisation(backend, kind, dtype, models)


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))


@pytest.mark.usefixtures("ampere")
def test_four_bits_on_a_gpu_are_computed_in_bfloat16(target: str) -> None:
    needs(Quantize.INT4)
    backend = on(GPU, Quantize.INT4, target)
    assert backend.dtype is torch.bfloat16
    assert not backend.exact
    with pytest.raises(ParameterError, match="computes in bfloat16; leave --dtype out"):
        on(GPU, Quantize.INT4, target, "float16")


@pytest.mark.usefixtures("ampere")
def test_matrices_that_a_format_leaves_as_they_are_are_named(target: str, tmp_path: Path) -> None:
    needs(Quantize.INT4)
    save_model(tmp_path, tiny_tokenizer(), hidden_size=128, intermediate_size=96)
    left = "int4 leaves {} of 7 matrices of a layer as they are: their columns are no multiple of"
    assert on(GPU, Quantize.INT4, str(tmp_path)).chosen.startswith(left.format(1))
    assert on(GPU, Quantize.INT4, target).chosen.startswith(left.format(7))
    assert not on(GPU, Quantize.INT8, target).chosen
    assert not on(CPU, Quantize.INT4, target).chosen  # blocks of 32 numbers


def test_what_is_not_possible_is_refused(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_packed(tmp_path / "packed", Style("awq"))
    torch_forward = WeightFormat.TORCH
    with pytest.raises(ParameterError, match="quantize is nf4, which the native library does not"):
        on(CPU, Quantize.NF4, target)
    with pytest.raises(ParameterError, match="a number format itself; leave --dtype out"):
        on(CPU, Quantize.INT8, target, "float32")
    with pytest.raises(ParameterError, match="stored in AWQ 4 bits; leave --quantize out"):
        on(CPU, Quantize.INT4, str(tmp_path / "packed"))
    with pytest.raises(ParameterError, match="layers that are offloaded"):
        on(Placement((torch.device("cpu"),), Offload.DISK), Quantize.INT8, target)
    with pytest.raises(ParameterError, match="divided among processes"):
        on(replace(CPU, ranks=2), Quantize.INT8, target, weights=torch_forward)
    needs(Quantize.INT4)
    with pytest.raises(ParameterError, match=r"capability 8.0 or later; give nf4 or int8"):
        on(CPU, Quantize.INT4, target, weights=torch_forward)
    monkeypatch.setattr(quantisation, "missing_library", lambda _: "torchao")
    with pytest.raises(ParameterError, match=r"needs torchao: pip install 'sequoia-chat\[quant"):
        on(CPU, Quantize.INT8, target, weights=torch_forward)


def test_what_would_change_nothing_is_refused(tmp_path: Path) -> None:
    model = tiny_llama(**SHAPE)
    save_gguf(tmp_path / "model.gguf", model, gguf.GGMLQuantizationType.Q8_0)
    with pytest.raises(ParameterError, match="stored as Q8_0, which stays as it is"):
        loaded(str(tmp_path / "model.gguf"), quantize=Quantize.INT4)


def test_auto_rounds_natively_and_a_later_draft_keeps_the_choice(target: str, draft: str) -> None:
    pair = loaded(target, quantize=Quantize.AUTO)
    assert pair.description.dtype == "int8"
    assert "--quantize auto chose int8: it fits" in pair.description.remark
    source = with_other_draft(pair, draft).source
    assert source is not None
    assert source.quantize is Quantize.INT8


BYTES = {Quantize.NONE: 160, Quantize.INT8: 80, Quantize.INT4: 50, Quantize.NF4: 40}


@pytest.mark.usefixtures("ampere")
@pytest.mark.parametrize(
    ("free", "chosen", "why"),
    [
        (160, Quantize.NONE, "leaves the weights as they are: they fit"),
        (159, Quantize.INT8, "chose int8: it fits"),
        (79, Quantize.INT4, "chose int4: it fits"),
        (49, Quantize.NF4, "chose nf4: it fits"),
        (39, Quantize.NF4, "chose nf4: the fewest bits that are possible here"),
    ],
)
def test_auto_takes_the_most_bits_that_fit(
    free: int, chosen: Quantize, why: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(Quantize.INT4)
    needs(Quantize.NF4)

    def plans(_target: object, _draft: object, backend: Backend) -> dict[object, MemoryPlan]:
        return {GPU.device: MemoryPlan(BYTES[backend.quantize], 0, window=64)}

    monkeypatch.setattr(quantisation, "pair_plans", plans)
    monkeypatch.setattr(quantisation, "free_bytes", lambda _: free)
    backend = on(GPU, Quantize.AUTO, target)
    assert backend.quantize is chosen
    assert why in backend.chosen


def test_auto_leaves_what_has_few_bits(tmp_path: Path) -> None:
    save_packed(tmp_path, Style("gptq", symmetric=True), tiny_tokenizer())
    pair = loaded(str(tmp_path), quantize=Quantize.AUTO)
    assert pair.description.dtype == "GPTQ 4 bits"
    assert "leaves the weights as they are" in pair.description.remark
