"""What is to be reached on each GPU, and whether it was."""

import re

from sequoia_core.measure.gpu_day.day import GpuDay
from sequoia_core.measure.gpu_day.decoding import label
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.memory_plan import kv_token_bytes
from sequoia_core.model.tensor_names import weight_values

FLOOR = "sampled step over the floor of reading weights, KV and drafts"
SPEED_UP = "tree over graphed plain decoding, T=0"
PER_TOKEN = "ms/token of the tree, T=0"
HOST_MS = "ms of a sampled step that the device does not compute"
AT_LEAST = {SPEED_UP}
"""Goals that a larger figure reaches; of the others a smaller one does."""

TO_REACH = {
    "A100, 80 GB": (r"A100.*80G", {FLOOR: 1.5, SPEED_UP: 2.7, PER_TOKEN: 3.2}),
    "L40": (r"\bL40\b", {FLOOR: 1.2, SPEED_UP: 3.0, PER_TOKEN: 5.5}),
    "H200": (r"\bH200\b", {FLOOR: 1.8, SPEED_UP: 2.4, PER_TOKEN: 1.8}),
}
"""By GPU: a pattern of its name, and figures at the paper's C4 rates."""
MOST_HOST_MS = 0.5
REACHED, MISSED, UNKNOWN = "reached", "not reached", "not measured"
NO_GOAL = "no goal for this device"


def goals(day: GpuDay) -> None:
    """A line per goal."""
    name = torch_name(day)
    wanted: dict[str, float] = {}
    for gpu, (pattern, figures) in TO_REACH.items():
        if re.search(pattern, name) and "MIG" not in name:  # which is a part of a GPU
            day.report.row("goals for", {"device": gpu})
            wanted = figures
    found = {FLOOR: over_floor(day), SPEED_UP: speed_up(day)}
    found |= {PER_TOKEN: best_tree_ms(day), HOST_MS: host_ms(day)}
    for goal, figure in found.items():
        most = MOST_HOST_MS if goal == HOST_MS else wanted.get(goal)
        values: dict[str, str | float] = {"verdict": verdict(goal, figure, most)}
        if figure is not None:
            values["found"] = figure
        if most is not None:
            values["wanted"] = most
        day.report.row(goal, values)


def verdict(goal: str, found: float | None, wanted: float | None) -> str:
    if found is None:
        return UNKNOWN
    if wanted is None:
        return NO_GOAL
    return REACHED if (found >= wanted if goal in AT_LEAST else found <= wanted) else MISSED


def torch_name(day: GpuDay) -> str:
    """The device's name as the report has it."""
    return str(day.report.parts.get("environment", {}).get("device", {}).get("name", ""))


def over_floor(day: GpuDay) -> float | None:
    """Milliseconds of a sampled step over the time that reading what it needs takes at least."""
    workload = day.scale.workloads[0]
    nodes, depth = workload.judged
    row = label(0.6, f"tree {nodes}x{depth}")
    step = day.report.number("decoding", row, "ms/step")
    names = ("copy", "read", "product of one row")
    speeds = [day.report.number("ceilings", name, "TB/s") for name in names]
    known = [speed for speed in speeds if speed is not None]
    if step is None or not known:
        return None
    target, draft = workload.configs
    size, value = day.dtype.itemsize, 1e-9 / max(known)  # milliseconds of a byte
    context = workload.prompt + workload.tokens // 2
    needed = read_bytes(target, size) + context * kv_token_bytes(target, size)
    return step / ((needed + depth * read_bytes(draft, size)) * value)


def read_bytes(config: ModelConfig, size: int) -> int:
    """Of the weights that a forward reads: all but the embedding, of which it looks up rows."""
    return (weight_values(config) - config.vocab_size * config.hidden_size) * size


def best_tree_ms(day: GpuDay) -> float | None:
    """Milliseconds per token of the fastest tree at temperature 0 whose tokens are right."""
    rows = (label(0.0, f"tree {nodes}x{depth}") for nodes, depth in day.scale.workloads[0].trees)
    right = (row for row in rows if day.report.number("decoding", row, "lossless"))
    found = [day.report.number("decoding", row, "ms/token") for row in right]
    return min((each for each in found if each is not None), default=None)


def speed_up(day: GpuDay) -> float | None:
    """Of it over plain decoding by a graph at the same context."""
    row = f"{day.scale.workloads[0].contexts[0]} tokens"
    tree, plain = best_tree_ms(day), day.report.number("graphed-plain", row, "ms/token")
    right = day.report.number("graphed-plain", row, "right")
    return None if tree is None or plain is None or not right else plain / tree


def host_ms(day: GpuDay) -> float | None:
    row = label(0.6, "tree {}x{}".format(*day.scale.workloads[0].judged))
    step = day.report.number("decoding", row, "ms/step")
    busy = day.report.number("profile", row, "device ms")
    return None if step is None or busy is None else max(step - busy, 0.0)
