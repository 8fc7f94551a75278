"""Whether decoding on this device is lossless: rows of a tree, tokens, and their distribution."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.step import Sampler
from sequoia_core.measure.gpu_day.day import GpuDay
from sequoia_core.measure.gpu_day.decoding import PairDecoder
from sequoia_core.measure.gpu_day.pairs import RandomWeights
from sequoia_core.measure.gpu_day.scale import llama_entries
from sequoia_core.model.attention import BLOCK, AttentionChoice
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import dtype_name
from sequoia_core.model.llama import Llama
from sequoia_core.model.recorded import same_logits
from sequoia_core.speculate.sampling import shaped_probs
from sequoia_core.speculate.token_tree import TreeLayout
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap

HOST = torch.device("cpu")
FORMATS = (torch.float32, torch.bfloat16, torch.float16)
ROWS = GrowMap((-1, 0, 0, 0, 1, 1, 2, 4, 4, 7, 8, 9, 9))
SHAPES = {"plain": ROOT, "tree": GrowMap.k_ary([4, 2, 2, 1]), "chain": GrowMap.chain(4)}
MIDDLING = llama_entries((1009, 256, 512, 4, 4, 2), 1024)
FEW = llama_entries((24, 32, 48, 2, 2, 1), 256)
LOUDNESS = {1009: 0.08, 24: 0.35}  # of random weights by vocabulary, for logits that differ
AGREEING = 0.04  # how much of a draft's weights is not the target's
EAGER, SPLIT = "eager", "attention split"
PROMPT = 2 * BLOCK + 60  # tokens, so that two blocks of keys are split off
CHECKED = 5.0  # draws of a token expected by which its count is checked
LIMIT = 4.5  # standard deviations of a chi-square figure; a right one passes it once in 10^5
RULES = {
    "tree": (Mode.SEQUOIA, 1.0),
    "tree, top-p 0.9": (Mode.SEQUOIA, 0.9),
    "with replacement": (Mode.SPECINFER, 1.0),
    "top-k": (Mode.TOPK, 1.0),
    "traversed": (Mode.TRAVERSE, 1.0),
}


def related_pair(
    entries: Mapping[str, object], device: torch.device, dtype: torch.dtype
) -> tuple[Llama, Llama]:
    """A target, and a draft that often agrees with it; values are the same on every device."""
    config = ModelConfig.from_hf(entries)
    std = LOUDNESS[config.vocab_size]
    weights, other = (
        RandomWeights(config, (HOST, torch.float32), seed=seed, std=std) for seed in (1, 2)
    )
    mixed = {name: torch.lerp(weights[name], other[name], AGREEING) for name in weights}
    return Llama(config, weights, device, dtype), Llama(config, mixed, device, dtype)


def each_way(day: GpuDay) -> Iterator[tuple[str, torch.dtype, Llama, Llama]]:
    """A pair in each format and each way to compute: name, format, target, draft."""
    for dtype in FORMATS:
        for way in (EAGER, SPLIT, "by graphs"):
            if way == SPLIT and dtype is torch.float32 and day.clock.on_gpu:
                continue  # for which GPUs have no kernel that divides the keys
            target, draft = related_pair(MIDDLING, day.device, dtype)
            if way == SPLIT:
                target.attention = draft.attention = AttentionChoice(split_from=BLOCK)
            elif way != EAGER:
                day.by_graphs(target, draft)
            yield f"{dtype_name(dtype)}, {way}", dtype, target, draft


@torch.inference_mode()
def rows(day: GpuDay) -> None:
    """Logits of a tree's rows against those of the same rows one by one, and the CPU's."""
    prompt = _prompt(PROMPT)
    target, _ = related_pair(MIDDLING, HOST, torch.float32)
    reference = tree_logits(target, prompt, ROWS)
    for name, dtype, target, _ in each_way(day):
        found, single = (each(target, prompt, ROWS) for each in (tree_logits, path_logits))
        values: dict[str, float | bool] = {
            "from single rows": _distance(found, single),
            "from the CPU's float32": _distance(found, reference),
            "argmax as single rows'": bool((found.argmax(-1) == single.argmax(-1)).all()),
            "finite": bool(torch.isfinite(found).all()),
            "lossless": same_logits(found, single, dtype),
        }
        day.report.row(name, values)


def greedy_tokens(day: GpuDay) -> None:
    """Temperature 0: tokens of all ways to decode against those of plain decoding, eager."""
    prompt, params = _prompt(PROMPT), SamplingParams(temperature=0.0)
    wanted: list[int] = []
    for name, dtype, target, draft in each_way(day):
        values: dict[str, float | bool] = {}
        for shape, tree in SHAPES.items():
            if not day.has(15):
                return
            decoder = PairDecoder(target, draft if tree.size > 1 else None)
            decoded = decoder.decode(prompt, params, tree, day.scale.checked)
            if name.endswith(EAGER) and tree.size == 1:
                wanted = decoded.token_ids
            same = equal_tokens(decoded.token_ids, wanted)
            values[f"{shape} equal tokens"] = same
            values[f"{shape} tokens/step"] = decoded.tokens_per_step
            if dtype is torch.float32:  # other formats round by the number of rows
                values[f"{shape} lossless"] = same == len(wanted)
        day.report.row(name, {"tokens": len(wanted), **values})


@torch.inference_mode()
def distribution(day: GpuDay) -> None:
    """Above temperature 0: the first token of many steps follows the target's distribution."""
    runs = day.scale.draws
    prompt = [3, 1, 4, 1, 5]
    target, draft = related_pair(FEW, day.device, torch.float32)
    day.by_graphs(target, draft)
    cache = target.new_cache()
    target.extend(torch.tensor(prompt[:-1], device=day.device), cache)
    last = torch.tensor(prompt[-1:], device=day.device)
    logits = target.forward(last, last * 0 + len(prompt) - 1, None, cache).clone()
    for name, (mode, top_p) in RULES.items():
        if not day.has(30):
            break
        params = SamplingParams(temperature=0.8, top_p=top_p, seed=7)
        decoder, counts = PairDecoder(target, draft), Counter[int]()
        decoder.read(prompt)
        sampler = Sampler.of(params, day.device, mode)
        for _ in range(runs):
            scored, verdict = decoder.step(GrowMap.k_ary([3, 2]), sampler)
            counts[scored.emitted(verdict.path, verdict.bonus_token)[0]] += 1
            decoder.cache.roll_back()
        exact = shaped_probs(logits, params)[0].double().tolist()
        day.report.row(name, {"draws": runs, **goodness(counts, exact)})
    day.report_graphs()


def goodness(counts: Mapping[int, int], exact: Sequence[float]) -> dict[str, float | bool]:
    """Chi-square of draws against probabilities; rare tokens count together.

    Its figure as a standard normal one is by Wilson and Hilferty's cube root.
    """
    runs = sum(counts.values())
    often = [token for token, p in enumerate(exact) if p * runs >= CHECKED]
    rest = 1.0 - math.fsum(exact[token] for token in often)
    pairs = [(counts.get(token, 0), exact[token] * runs) for token in often]
    if rest * runs >= CHECKED:
        pairs.append((runs - sum(seen for seen, _ in pairs), rest * runs))
    chi = math.fsum((seen - wanted) ** 2 / wanted for seen, wanted in pairs)
    degrees = max(len(pairs) - 1, 1)
    scale = 2.0 / (9.0 * degrees)
    deviation = ((chi / degrees) ** (1 / 3) - (1.0 - scale)) / math.sqrt(scale)
    outside = sum(count for token, count in counts.items() if exact[token] == 0.0)
    return {
        "chi-square": chi,
        "degrees": degrees,
        "deviations": deviation,
        "outside": outside,
        "lossless": deviation < LIMIT and outside == 0,
    }


def tree_logits(model: Llama, prompt: Sequence[int], tree: GrowMap) -> Tensor:
    """Of all nodes in one forward, on the host: float32 [T, V]."""
    cache = model.new_cache()
    model.extend(torch.tensor(prompt, device=model.device), cache)
    layout = TreeLayout(tree, model.device)
    return model.forward(
        _tokens(model, tree), layout.depths + len(prompt), layout.mask, cache
    ).cpu()


def path_logits(model: Llama, prompt: Sequence[int], tree: GrowMap) -> Tensor:
    """The same, each node after its ancestors alone, one row at a time."""
    cache, found = model.new_cache(), []
    model.extend(torch.tensor(prompt, device=model.device), cache)
    tokens = _tokens(model, tree)
    for path in tree.paths():
        for node in path:
            row = tokens[node : node + 1]
            logits = model.forward(row, row * 0 + cache.length, None, cache)
        found.append(logits.cpu().clone())
        cache.truncate(len(prompt))
    return torch.cat(found)


def _tokens(model: Llama, tree: GrowMap) -> Tensor:
    tokens = [node * 13 % model.vocab_size for node in range(tree.size)]
    return torch.tensor(tokens, device=model.device)


def _prompt(count: int) -> list[int]:
    return [(37 * at * at + 11) % 1009 for at in range(count)]


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def equal_tokens(found: Sequence[int], wanted: Sequence[int]) -> int:
    """How many agree before the first that differs."""
    pairs = enumerate(zip(found, wanted, strict=False))
    return next((at for at, (ours, theirs) in pairs if ours != theirs), len(wanted))
