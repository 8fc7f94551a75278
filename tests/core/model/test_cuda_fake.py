"""The step on a CUDA device, as far as it can be seen without one.

Under `FakeTensorMode` a tensor has a shape, a dtype and a device but no values: mixed devices raise
as on the real one, and so does reading a value back, which on the real one would wait for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from sequoia_core.config import Mode, Quantize, SamplingParams
from sequoia_core.model.attention import AttentionChoice, MaskedKernel
from sequoia_core.model.interface import KVCache
from sequoia_core.model.kv_cache import CUDA_BUCKET, LayeredKVCache
from sequoia_core.model.llama import Llama
from sequoia_core.model.packed import PackedMatrix, packed_products
from sequoia_core.model.quantised import missing_library, quantised_products, rounded_bytes
from sequoia_core.speculate import judge_plan, judging, remainders
from sequoia_core.speculate.draft import ChildChooser, DraftModel, GrowPlan, grow, top_children
from sequoia_core.speculate.judge_plan import Vocabulary
from sequoia_core.speculate.sampling import draft_probs, full_probs, ordered_draws
from sequoia_core.speculate.scored_tree import score
from sequoia_core.speculate.token_tree import DeviceNodes, TokenTree
from sequoia_core.tree.growmap import GrowMap
from tests.core.models import random_weights, tiny_config
from tests.pretended_device import index

CUDA = torch.device("cuda", 0)
GROWMAP = GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7))
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])


ATEN = torch.ops.aten


OPERATORS: Mapping[object, Callable[..., Any]] = {
    torch.Tensor.__getitem__: index,
    torch.Tensor.__setitem__: lambda x, key, value: ATEN.copy_.default(index(x, key), value),
    torch.Tensor.__invert__: ATEN.bitwise_not.default,
    torch.Tensor.contiguous: lambda x: ATEN.clone.default(x, memory_format=torch.contiguous_format),
    torch.Tensor.copy_: ATEN.copy_.default,
    torch.Tensor.item: ATEN._local_scalar_dense.default,
    torch.Tensor.float: lambda x: ATEN._to_copy.default(x, dtype=torch.float32),
}


class WithoutGuards(TorchFunctionMode):
    """Takes some methods by their operators: their Python side wants a device guard of the CUDA
    build, which CPU builds do not have.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        on_cuda = bool(args) and isinstance(args[0], Tensor) and args[0].is_cuda
        return (OPERATORS.get(func, func) if on_cuda else func)(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _fake() -> Iterator[None]:
    with FakeTensorMode(), WithoutGuards():
        yield


def llama(dtype: torch.dtype = torch.bfloat16, **changes: object) -> Llama:
    config = tiny_config(context_window=1024, **changes)
    return Llama(config, random_weights(config, 0), CUDA, dtype)


def filled(model: Llama, length: int) -> LayeredKVCache:
    cache = model.new_cache()
    model.extend(torch.ones(length, dtype=torch.int64, device=CUDA), cache)
    return cache


def check(logits: Tensor, rows: int, columns: int) -> None:
    assert logits.device == CUDA
    assert logits.dtype is torch.float32
    assert logits.shape == (rows, columns)


@DTYPES
@pytest.mark.parametrize("length", [1, 255, 256, 600])
def test_a_prompt_and_a_row_pass_through(dtype: torch.dtype, length: int) -> None:
    model = llama(dtype)
    cache = filled(model, length)
    row = torch.ones(1, dtype=torch.int64, device=CUDA)
    check(model.forward(row, row * length, None, cache), 1, 61)
    assert cache.length == length + 1


@DTYPES
def test_the_targets_tree_forward_passes_through(dtype: torch.dtype) -> None:
    model, plan = llama(dtype), GrowPlan(GROWMAP, CUDA)
    cache = filled(model, 40)
    tokens = torch.ones(GROWMAP.size, dtype=torch.int64, device=CUDA)
    check(model.forward(tokens, plan.depths + 40, plan.mask, cache), GROWMAP.size, 61)
    cache.keep(40, [40, 42, 44])
    assert cache.length == 43


@DTYPES
@pytest.mark.parametrize("masked", MaskedKernel)
def test_split_attention_passes_through(dtype: torch.dtype, masked: MaskedKernel) -> None:
    """Through the shapes and strides of CUDA's own kernels."""
    model, plan = llama(dtype), GrowPlan(GROWMAP, CUDA)
    model.attention = AttentionChoice(masked, split_from=256)
    cache = filled(model, 700)
    tokens = torch.ones(GROWMAP.size, dtype=torch.int64, device=CUDA)
    check(model.forward(tokens, plan.depths + 700, plan.mask, cache), GROWMAP.size, 61)


def drawn_children(params: SamplingParams) -> ChildChooser:
    """`draft.SampledChildren` with its noise given: a fake device has no generator."""

    def choose(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        probs = draft_probs(logits, params)
        return ordered_draws(probs, torch.ones_like(probs), count), probs

    return choose


@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize(
    "choose",
    [
        top_children,
        drawn_children(SamplingParams(temperature=0.6)),
        drawn_children(SamplingParams(temperature=1.0, top_p=0.9, top_k=20)),
    ],
    ids=["greedy", "sampled", "nucleus"],
)
def test_a_whole_step_up_to_its_logits_passes_through(choose: ChildChooser, trimmed: bool) -> None:
    vocab_ids = torch.arange(0, 60, 2, device=CUDA) if trimmed else None
    guesser = llama(num_layers=1, head_vocab_size=30 if trimmed else 61)
    draft = DraftModel(guesser, vocab_ids)
    target, plan = llama(), GrowPlan(GROWMAP, CUDA)
    draft_cache, target_cache = filled(guesser, 38), filled(target, 40)
    tree = grow(draft, plan, torch.tensor([1, 2, 3], device=CUDA), draft_cache, choose)
    assert isinstance(tree.nodes, DeviceNodes)
    token_ids, _, drawn_probs = tree.nodes
    columns = 30 if trimmed else 61
    assert token_ids.shape == drawn_probs.shape == (GROWMAP.size,)
    assert tree.draft_probs.shape == (len(plan.inner_rows), columns)
    assert {part.device for part in (token_ids, drawn_probs, tree.draft_probs)} == {CUDA}
    logits = target.forward(token_ids, plan.depths + 40, plan.mask, target_cache)
    check(logits, GROWMAP.size, 61)
    check(full_probs(logits, 0.6), GROWMAP.size, 61)


@pytest.mark.parametrize("mode", [Mode.SEQUOIA, Mode.SPECINFER, Mode.TOPK])
@pytest.mark.parametrize("params", [SamplingParams(0.6), SamplingParams(0.6, 0.9, 20)], ids=str)
@pytest.mark.parametrize("trimmed", [False, True])
def test_all_nodes_are_judged_without_waiting(
    mode: Mode, params: SamplingParams, trimmed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the values that the host reads; what is constant per growmap is made before."""
    size, columns = GROWMAP.size, 30 if trimmed else 61
    ids = torch.ones(size, dtype=torch.int64, device=CUDA)
    inner = [node for node in range(size) if GROWMAP.children[node]]
    order = torch.ones((2, 61), dtype=torch.int64, device=CUDA)
    vocabulary = Vocabulary(order[1, :30], torch.ones(61, device=CUDA), order)
    monkeypatch.setattr(remainders, "vocabulary_of", lambda *_: vocabulary)
    monkeypatch.setattr(judge_plan, "_plan_of", judge_plan._plan_of.__wrapped__)
    tree = TokenTree(
        GROWMAP,
        DeviceNodes(ids, ids, torch.ones(size, device=CUDA)),
        torch.ones((len(inner), columns), device=CUDA),
        {node: row for row, node in enumerate(inner)},
        torch.arange(30) if trimmed else None,
    )
    scored = score(tree, torch.ones((size, 61), device=CUDA), params)
    uniforms = torch.ones(size, dtype=torch.float64)
    found = judging.Judging.of(scored, uniforms, mode).judged()
    assert {each.device for each in found} == {CUDA}
    assert [each.numel() for each in found[:7]] == [size] * 5 + [1, 1]


@pytest.mark.parametrize(("length", "rows"), [(1, 2), (200, 9), (250, 9), (256, 2), (511, 9)])
def test_attention_under_a_mask_spans_whole_buckets(
    monkeypatch: pytest.MonkeyPatch, length: int, rows: int
) -> None:
    """So that shapes repeat from step to step, which a captured graph will need."""
    model = llama()
    cache = filled(model, length)
    spans: list[int] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
    ) -> Tensor:
        spans.append(key.shape[2])
        assert mask is not None
        assert mask.shape[-1] == key.shape[2]
        return real(query, key, value, mask, scale=scale)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    tokens = torch.ones(rows, dtype=torch.int64, device=CUDA)
    model.forward(tokens, tokens * length, None, cache)
    assert set(spans) == {-(-(length + rows) // CUDA_BUCKET) * CUDA_BUCKET}


class Leaky(Llama):
    """Reads a value back, or puts one on the wrong device, between inputs and logits."""

    harm = ""

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        logits = super().forward(token_ids, position_ids, mask, cache, parents)
        if self.harm == "read":
            return logits * logits.max().item()
        return logits + torch.ones(logits.shape, device="cpu")


@pytest.mark.parametrize(
    ("harm", "error", "says"),
    [("read", DataDependentOutputException, "item|local_scalar"), ("mix", RuntimeError, "device")],
)
def test_the_harness_notices_harm(harm: str, error: type[Exception], says: str) -> None:
    config = tiny_config(context_window=1024)
    model = Leaky(config, random_weights(config, 0), CUDA, torch.bfloat16)
    model.harm = harm
    cache = filled(model, 4)
    row = torch.ones(1, dtype=torch.int64, device=CUDA)
    with pytest.raises(error, match=says):
        model.forward(row, row * 4, None, cache)


def few_bits(device: torch.device) -> PackedMatrix:
    """64 rows and columns in two groups."""
    codes = torch.zeros(64, 32, dtype=torch.uint8, device=device)
    zeros = torch.zeros(64, 2, dtype=torch.uint8, device=device)
    scales = torch.ones(64, 2, dtype=torch.float16, device=device)
    return PackedMatrix(codes, zeros, scales, 4, order=torch.arange(64, device=device))


@DTYPES
def test_packed_matrices_are_multiplied_where_they_lie(dtype: torch.dtype) -> None:
    make = packed_products(lambda _name: few_bits(torch.device("cpu")))
    product = make(["a", "b"], CUDA)
    assert product is not None
    out = product(torch.zeros(5, 64, dtype=dtype, device=CUDA))
    assert (out.shape, out.device, out.dtype) == ((5, 128), CUDA, dtype)


def rounded(kind: Quantize) -> Any:
    """The product with 384 rows of 512 columns."""
    if name := missing_library(kind):
        pytest.skip(f"{name} is not installed")
    weights = {"a": torch.zeros(256, 512), "b": torch.zeros(128, 512)}
    return quantised_products(weights, kind, torch.bfloat16)(["a", "b"], CUDA)


@pytest.mark.parametrize("rows", [1, 9, 64])
def test_four_bits_are_packed_for_pytorchs_own_kernel(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchao's call of it ends with a slice, for which CPU builds lack the device guard."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    weight = rounded(Quantize.INT4).weight
    held = weight.qdata.nbytes + weight.scale_and_zero.nbytes
    assert held == rounded_bytes(Quantize.INT4, (384, 512), 2)
    x = torch.zeros(rows, 1024, dtype=torch.bfloat16, device=CUDA)
    out = ATEN._weight_int4pack_mm(x, weight.qdata, 128, weight.scale_and_zero)
    assert (out.shape, out.device, out.dtype) == ((rows, 384), CUDA, torch.bfloat16)


@pytest.mark.parametrize("kind", [Quantize.INT8, Quantize.NF4])
@pytest.mark.parametrize("rows", [1, 9, 64])
def test_rounded_matrices_are_multiplied_where_they_lie(kind: Quantize, rows: int) -> None:
    product = rounded(kind)
    out = product(torch.zeros(rows, 512, dtype=torch.bfloat16, device=CUDA))
    assert (out.shape, out.device, out.dtype) == ((rows, 384), CUDA, torch.bfloat16)
