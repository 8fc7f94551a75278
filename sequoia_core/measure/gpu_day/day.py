"""What all parts share: the device, the report, the time that is left, the models and trees."""

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from time import monotonic

import torch

from sequoia_core.measure.gpu_day import BUDGET
from sequoia_core.measure.gpu_day.clock import DeviceClock
from sequoia_core.measure.gpu_day.pairs import KnownText, random_llama
from sequoia_core.measure.gpu_day.report import DayReport, Value
from sequoia_core.measure.gpu_day.scale import Scale, Workload
from sequoia_core.model.attention import AttentionChoice
from sequoia_core.model.attention_probe import fastest, measure
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.graphs import Graphs
from sequoia_core.model.llama import Llama
from sequoia_core.model.recorded import record_forwards
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import expected_tokens_table

TEMPERATURES = (0.0, 0.6)
PAPER_TREES = {0.0: "c4-greedy", 0.6: "c4-stochastic"}
"""Of Llama-2-7B and the 68M draft on an A100; the rates fit the paper's figures."""


class GpuDay:
    def __init__(
        self, device: torch.device, report: DayReport, budget: float, scale: Scale
    ) -> None:
        self.device, self.report, self.scale = device, report, scale
        self.clock = DeviceClock(device)
        self.dtype = torch.bfloat16 if self.clock.on_gpu else torch.float32
        self._budget, self._until = budget, monotonic() + budget
        self.reserved = 0.0  # seconds of a whole budget, for what is to come
        self._target: tuple[str, Llama] | None = None
        self._attention: dict[tuple[int, int, int], AttentionChoice] = {}
        self.graphs = Graphs(self.clock.runner, self.device)  # of the latest pair

    @property
    def left(self) -> float:
        """Seconds."""
        return self._until - monotonic()

    def has(self, seconds: float) -> bool:
        """Whether that much of a whole budget is left, and not reserved."""
        return self.left > (seconds + self.reserved) * self.scale.planned * self._budget / BUDGET

    def target(self, workload: Workload) -> Llama:
        """Of the latest workload only: two would not fit into every GPU."""
        if self._target is None or self._target[0] != workload.name:
            self.forget_models()
            text = KnownText.certain(workload.text_length)
            made = random_llama(workload.target, (self.device, self.dtype), text)
            made.attention = self.attention(made.config)
            self._target = workload.name, made
        return self._target[1]

    def pair(self, workload: Workload, temperature: float = 0.0) -> tuple[Llama, Llama]:
        """The target and a new draft, which agree at the rates for a temperature; by graphs."""
        text = KnownText.guessed(workload.text_length, rates(temperature))
        draft = random_llama(workload.draft, (self.device, self.dtype), text, seed=1)
        draft.attention = self.attention(draft.config)
        target = self.target(workload)
        self.by_graphs(target, draft)
        return target, draft

    def attention(self, config: ModelConfig) -> AttentionChoice:
        """The kernels that the engine would choose; measured once, the usual ones if it fails."""
        heads = config.num_heads, config.num_kv_heads, config.head_dim
        if heads not in self._attention:
            name, clock = f"kernels for {heads[0]} heads, {heads[1]} KV heads", self._milliseconds
            try:
                times = measure(
                    config, self.device, self.dtype, None if self.clock.on_gpu else clock
                )
                self._attention[heads] = fastest(times)
            except Exception as error:  # whatever the device or its driver may raise
                self._attention[heads] = AttentionChoice()
                self.report.row(name, {"failed": f"{type(error).__name__}: {error}"})
            else:
                shown = {
                    f"{each.masked}{', split' if each.split else ''}, {visible} keys us": 1e3 * ms
                    for visible, row in times.items()
                    for each, ms in row.items()
                }
                self.report.row(name, {"chosen": str(self._attention[heads]), **shown})
        return self._attention[heads]

    def _milliseconds(self, work: Callable[[], object], _device: torch.device) -> float:
        return self.clock.time(work, self.scale.repeats).whole

    def by_graphs(self, *models: Llama) -> None:
        """Let models of a pair compute by recordings, as the engine lets them on a GPU."""
        self.graphs = Graphs(self.clock.runner, self.device)
        record_forwards(self.graphs, *models)

    def report_graphs(self, row: str = "graphs") -> None:
        """What is recorded of the latest pair, and what was said of it."""
        notices = "; ".join(self.graphs.notices)
        values: dict[str, Value] = {
            "recordings": len(self.graphs.known),
            "MiB of a recording": self.graphs.recording_bytes / 2**20,
            "rung": self.graphs.rung.name.lower(),
            "notices": notices or "none",
        }
        self.report.row(row, values)

    def forget_models(self) -> None:
        self._target, self.graphs = None, Graphs(self.clock.runner, self.device)
        gc.collect()
        self.clock.forget_peak()


@contextmanager
def eagerly(*models: Llama) -> Iterator[None]:
    """Inside, kernels are launched one by one."""
    recorded = [model.recorded for model in models]
    for model in models:
        model.recorded = None
    try:
        yield
    finally:
        for model, each in zip(models, recorded, strict=True):
            model.recorded = each


def rates(temperature: float) -> tuple[float, ...]:
    """Positional acceptance rates."""
    return paper_tree(temperature).acceptance_rates


@lru_cache
def paper_tree(temperature: float) -> GrowMap:
    """The packaged tree; read here since `tree.files` needs more than this command may."""
    package = Path(__file__).resolve().parents[2]
    folders = (package / "growmaps", package.parent / "growmaps")  # installed, or a checkout
    folder = next(each for each in folders if each.is_dir()) / "a100" / "68m-7b"
    saved = json.loads((folder / f"{PAPER_TREES[temperature]}.json").read_text("utf-8"))
    return GrowMap(tuple(saved["parents"]), saved["name"], tuple(saved["acceptance_rates"]))


@lru_cache
def best_tree(nodes: int, depth: int, temperature: float) -> GrowMap:
    """The tree of a size that is best at the rates."""
    table = expected_tokens_table(rates(temperature), nodes, depth, nodes)
    return table.tree(nodes, depth)
