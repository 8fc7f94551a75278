"""The command that measures a GPU: it runs with nothing but torch and transformers, on a CPU and on
a device that is pretended, whatever fails; and what it says of losslessness and of goals is so.
"""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from sequoia_core.measure.gpu_day import clock, lossless, run
from sequoia_core.measure.gpu_day.__main__ import main
from sequoia_core.measure.gpu_day.day import GpuDay, best_tree, paper_tree, rates
from sequoia_core.measure.gpu_day.forwards import PROFILED, device_ms
from sequoia_core.measure.gpu_day.goals import (
    FLOOR,
    HOST_MS,
    MISSED,
    NO_GOAL,
    PER_TOKEN,
    REACHED,
    SPEED_UP,
    UNKNOWN,
    goals,
    verdict,
)
from sequoia_core.measure.gpu_day.pairs import RANKS, KnownText, random_llama
from sequoia_core.measure.gpu_day.report import DayReport
from sequoia_core.measure.gpu_day.run import PARTS, DayPart, run_day
from sequoia_core.measure.gpu_day.scale import GPU, TINY, Scale
from sequoia_core.model import attention_probe
from sequoia_core.model.tensor_names import weight_values
from sequoia_core.speculate import verify
from sequoia_core.speculate.scored_tree import ScoredTree
from sequoia_core.speculate.token_tree import TreeLayout
from sequoia_core.speculate.verify import Verdict
from sequoia_core.tree.files import find_growmap
from sequoia_core.tree.growmap import GrowMap
from tests.pretended_device import CUDA, HOST, pretended_device
from tests.tape_runner import TapeRunner

ROOT = Path(__file__).parents[3]
LACKING = ("msgspec", "psutil", "textual", "rich", "typer", "platformdirs")
"""What a bare machine surely lacks, even if something of transformers may ask for it."""

ON_ITS_OWN = """
import runpy, sys
sys.modules.update(dict.fromkeys({blocked!r}))  # None: an import fails, and `find_spec` finds none
sys.argv = {arguments!r}
runpy.run_module("sequoia_core.measure.gpu_day", run_name="__main__")
"""


def plain_name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def needed(*distributions: str) -> set[str]:
    """These distributions and all that they require."""
    found: set[str] = set()
    waiting = list(distributions)
    while waiting:
        name = plain_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            asked = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        waiting += [
            each.name
            for each in asked
            if each.marker is None or each.marker.evaluate({"extra": ""})
        ]
    return found


def others() -> list[str]:
    """Importable names that neither torch nor transformers bring with them."""
    brought = needed("torch", "transformers")
    found = [
        name
        for name, places in packages_distributions().items()
        if name.isidentifier()
        and not name.startswith("sequoia")
        and brought.isdisjoint(map(plain_name, places))
    ]
    return [*found, *LACKING]


def silent(_line: str) -> None:
    """Nothing is printed."""


def kept(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "gpu-day.json").read_text())
    return found


def test_it_runs_with_torch_and_transformers_alone(tmp_path: Path) -> None:
    """Every part, `generate` of transformers as well, without any other library."""
    arguments = ["gpu-day", "--device", "cpu", "--to", str(tmp_path)]
    code = ON_ITS_OWN.format(blocked=others(), arguments=arguments)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = kept(tmp_path)
    assert not found["failures"]
    assert not found["left_out"]
    assert list(found["parts"]) == [*(part.name for part in PARTS), "goals"]
    assert all(found["parts"].values())
    assert found["parts"]["decoding"]["T=0 tree 32x5"]["lossless"] is True
    attention = found["parts"]["attention"].items()
    assert all(row["split differs by"] < 1e-5 for name, row in attention if "rows" in name)
    assert found["parts"]["hugging-face"]["generate"]["ms/token"] > 0
    *_, last, where = done.stdout.splitlines()
    assert last.startswith(f"  {HOST_MS}: verdict not measured")
    assert where == f"kept in {tmp_path / 'gpu-day.json'}"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("--device gpu", "give auto, cpu, cuda or cuda:N"),
        ("--device cpu --only forward", "did you mean forwards?"),
        ("--device cpu --budget 0", "give seconds above 0"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line(
    arguments: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments.split(), "--to", str(tmp_path / "new")]) == 2
    said = capsys.readouterr().err
    assert hint in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


class NoGraph:
    """A captured graph whose replay does nothing."""

    replays = 0

    def replay(self) -> None:
        NoGraph.replays += 1


@contextmanager
def entered(*_: Any, **__: Any) -> Iterator[None]:
    yield


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command asks of CUDA besides tensors."""
    stream = SimpleNamespace(wait_stream=lambda _other: None)
    facts = SimpleNamespace(name="NVIDIA H200", total_memory=2**37, multi_processor_count=132)
    for name, value in {
        "mem_get_info": lambda _device: (2**36, 2**37),
        "set_device": lambda _device: None,
        "get_device_properties": lambda _device: facts,
        "get_device_capability": lambda _device: (9, 0),
        "Stream": lambda _device: stream,
        "current_stream": lambda _device: stream,
        "stream": entered,
        "graph": entered,
        "set_stream": lambda _stream: None,
        "graph_pool_handle": lambda: (0, 1),
        "CUDAGraph": NoGraph,
        "memory_allocated": lambda _device: 2**30,
        "memory_reserved": lambda _device: 2**31,
        "max_memory_allocated": lambda _device: 2**32,
        "reset_peak_memory_stats": lambda _device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(attention_probe, "device_ms", lambda work, _device: len(work()) * 0.1)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)


@pytest.mark.usefixtures("gpu")
def test_every_part_runs_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a replay does nothing, only what comes of graphs is wrong, and the report says so."""
    monkeypatch.setattr(lossless, "FORMATS", lossless.FORMATS[:2])
    names = [part.name for part in PARTS if part.name != "hugging-face"]
    scale = replace(TINY, draws=20, checked=12)
    with pretended_device():
        report = run_day(CUDA, tmp_path, scale=scale, only=names, say=silent)
    assert not report.failures
    assert NoGraph.replays
    rows = report.parts
    assert rows["environment"]["device"]["name"] == "NVIDIA H200"
    assert rows["forwards"].pop("graphs")["rung"] == "eager"
    assert rows["drafting"]["T=0 graphs"].keys() == rows["drafting"]["T=0.6 graphs"].keys()
    timed = [row for name, row in rows["forwards"].items() if "prompt" not in name]
    assert all(row["graph differs by"] for row in timed)
    assert not any(row["right"] for row in rows["graphed-plain"].values())
    checked = [row for part in ("rows", "tokens", "decoding") for row in rows[part].values()]
    assert not any(value is False for row in checked for value in row.values())
    for name in ("T=0 graphs", "T=0.6 graphs"):
        assert "computes something else" in str(rows["decoding"][name]["notices"])
    assert rows["decoding"]["memory"]["peak GiB"] == 4.0
    assert rows["goals"]["goals for"]["device"] == "H200"
    assert rows["goals"][SPEED_UP]["wanted"] == 2.4
    assert kept(tmp_path)["parts"].keys() == rows.keys()


@pytest.mark.usefixtures("gpu")
def test_what_is_recorded_on_a_device_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "CudaRunner", lambda _device: TapeRunner())
    with pretended_device():
        only = ["decoding", "graphed-plain", "forwards"]
        report = run_day(CUDA, tmp_path, scale=TINY, only=only, say=silent)
    assert not report.broken
    rows = report.parts
    for part, name in (("decoding", "T=0 graphs"), ("forwards", "graphs")):
        graphs = rows[part].pop(name)
        assert (graphs["rung"], graphs["notices"]) == ("loops", "none")
    assert all(row["right"] for row in rows["graphed-plain"].values())
    timed = [row for name, row in rows["forwards"].items() if "prompt" not in name]
    assert all(row["graph differs by"] == 0.0 for row in timed)
    assert all(float(row["recorded differs by"]) < 1e-4 for row in timed)


def test_formats_of_fewer_bits_are_compared_with_the_dense_target(tmp_path: Path) -> None:
    """With the libraries that are installed; int4's kernel needs a GPU."""
    rows = run_day(HOST, tmp_path, only=["fewer-bits"], say=silent).parts["fewer-bits"]
    assert not [row for row in rows.values() if "failed" in row]
    assert rows["dense"]["KL mean"] == 0.0
    found = ["packed 4 bits", *(kind for kind in ("int8", "nf4") if "left out" not in rows[kind])]
    for name in found:
        assert 0.0 < float(rows[name]["KL mean"]) < 0.1, name
        assert float(rows[name]["single rows differ by"]) < 1e-4, name
        assert rows[f"{name}, 1 rows"]["graph differs by"] == 0.0
    assert "left out" in rows["int4"]


def day_of(tmp_path: Path, scale: Scale = TINY) -> GpuDay:
    return GpuDay(HOST, DayReport(tmp_path, silent), 480.0, scale)


def test_a_part_that_fails_is_recorded_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(day: GpuDay) -> None:
        day.report.row("found before", {"ms": 1.5})
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(run, "PARTS", (DayPart("broken", broken, 0), PARTS[0]))
    said: list[str] = []
    report = run_day(HOST, tmp_path, say=said.append)
    assert report.broken
    found = kept(tmp_path)
    assert found["parts"]["broken"] == {"found before": {"ms": 1.5}}
    assert "in broken" in found["failures"]["broken"]
    assert "  failed: RuntimeError: CUDA error: an illegal memory access was encountered" in said
    assert found["parts"]["environment"]["device"] == {"name": "cpu"}


def test_what_is_stopped_is_kept_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(day: GpuDay) -> None:
        day.report.row("found before", {"ms": math.nan, "tokens/s": math.inf})
        assert "stopped" in kept(tmp_path)["parts"]
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "PARTS", (DayPart("stopped", stopped, 0), PARTS[0]))
    assert main(["--device", "cpu", "--to", str(tmp_path)]) == 130
    found = kept(tmp_path)
    assert found["parts"]["stopped"] == {"found before": {"ms": "nan", "tokens/s": "inf"}}
    assert found["failures"] == {"stopped": "stopped"}
    assert "environment" not in found["parts"]
    assert found["parts"]["goals"][PER_TOKEN] == {"verdict": UNKNOWN}
    assert capsys.readouterr().err == "gpu-day: stopped; what was found is kept\n"


def test_a_folder_that_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["--device", "cpu", "--to", str(tmp_path / "file" / "new")]) == 2
    said = capsys.readouterr().err
    assert "no report can be kept in" in said
    assert said.count("\n") == 1


def test_a_kernel_is_counted_once() -> None:
    """The profiler states its time twice: as the operator's that launched it, and as its own."""

    def event(key: str, kind: DeviceType, micros: float, *, named: bool = False) -> SimpleNamespace:
        return SimpleNamespace(
            key=key, device_type=kind, self_device_time_total=micros, is_user_annotation=named
        )

    events = [
        event("aten::mm", DeviceType.CPU, 4000.0),
        event("gemm", DeviceType.CUDA, 4000.0),
        event("Memcpy DtoH", DeviceType.CUDA, 40.0),
        event("a step", DeviceType.CUDA, 9000.0, named=True),
    ]
    assert device_ms(events) == {"gemm": 4.0 / PROFILED, "Memcpy DtoH": 0.04 / PROFILED}


def test_a_part_is_left_out_when_its_time_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its share of the budget; the goals are judged all the same."""
    asked: list[str] = []
    parts = tuple(
        DayPart(f"of {seconds}", lambda _day: asked.append("a part"), seconds)
        for seconds in (500, 440, 0)
    )
    monkeypatch.setattr(run, "PARTS", parts)
    for budget in (480.0, 48.0):
        asked.clear()
        scale = replace(TINY, planned=1.0)
        report = run_day(HOST, tmp_path, scale=scale, budget=budget, say=silent)
        assert len(asked) == 2
        assert set(report.left_out) == {"of 500"}
        assert "goals" in report.parts


def test_time_for_the_last_part_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []
    parts = (
        DayPart("long", lambda day: left.append(day.has(420)), 10),
        DayPart("last", lambda day: left.append(day.has(420)), 100),
    )
    monkeypatch.setattr(run, "PARTS", parts)
    run_day(HOST, tmp_path, scale=replace(TINY, planned=1.0), say=silent)
    assert left == [False, True]
    assert [part.name for part in PARTS][-1] == "profile"


def test_a_target_knows_its_text_and_a_draft_ranks_it(tmp_path: Path) -> None:
    workload, day = TINY.workloads[0], day_of(tmp_path)
    day.report.begin("models")
    length = workload.text_length
    text = KnownText.guessed(length, rates(0.0))
    draft = random_llama(workload.draft, (HOST, torch.float32), text)
    ids = torch.arange(length)
    for model, known in ((day.target(workload), KnownText.certain(length)), (draft, text)):
        logits = model.forward(ids, ids, None, model.new_cache())
        ranked = logits.topk(len(known.guesses[0])).indices
        assert ranked.tolist() == [list(guesses) for guesses in known.guesses]


def test_a_draft_is_right_at_the_rates() -> None:
    wanted, length = rates(0.6), 256
    text = KnownText.guessed(length, wanted)
    assert all(len(set(guesses)) == RANKS for guesses in text.guesses)
    places = Counter(
        guesses.index((at + 1) % length) if (at + 1) % length in guesses else None
        for at, guesses in enumerate(text.guesses)
    )
    for rank in range(RANKS):
        assert (
            abs(sum(places[each] for each in range(rank + 1)) - length * sum(wanted[: rank + 1]))
            <= 0.5
        )


def test_the_rates_are_those_of_the_packaged_trees() -> None:
    for temperature, name in ((0.0, "greedy"), (0.6, "stochastic")):
        packaged = find_growmap(f"a100/68m-7b/c4-{name}")
        assert paper_tree(temperature) == replace(packaged, source="")
    tree = best_tree(64, 8, 0.0)
    assert (tree.size, tree.depth) == (64, 8)


@pytest.mark.parametrize(("part", "rule"), [("tokens", "greedy"), ("distribution", "sequoia")])
def test_decoding_that_is_not_lossless_is_found(
    part: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def credulous(scored: ScoredTree, generator: torch.Generator) -> Verdict:
        """Takes each first child."""
        path = [0]
        while children := scored.growmap.children[path[-1]]:
            path.append(children[0])
        return Verdict(tuple(path), scored.summary.argmax[path[-1]], {})

    monkeypatch.setattr(verify, rule, credulous)
    report = run_day(HOST, tmp_path, only=[part], say=silent)
    assert not report.failures
    assert report.broken


def test_rows_that_see_other_branches_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 as well, where rounding is largest."""

    def seeing(tree: GrowMap, device: torch.device) -> SimpleNamespace:
        right = TreeLayout(tree, device)
        return SimpleNamespace(depths=right.depths, mask=torch.ones_like(right.mask).tril())

    monkeypatch.setattr(lossless, "TreeLayout", seeing)
    monkeypatch.setattr(lossless, "FORMATS", lossless.FORMATS[:2])
    report = run_day(HOST, tmp_path, only=["rows"], say=silent)
    assert not report.failures
    assert not any(row["lossless"] for row in report.parts["rows"].values())
    assert report.broken


def test_chi_square_finds_another_distribution() -> None:
    exact = [0.4, 0.3, 0.2, 0.05, 0.05, 0.0]
    generator = torch.Generator().manual_seed(3)

    def drawn(probs: list[float]) -> Counter[int]:
        found = torch.tensor(probs).multinomial(4000, replacement=True, generator=generator)
        return Counter(found.tolist())

    assert lossless.goodness(drawn(exact), exact)["lossless"] is True
    assert lossless.goodness(drawn([0.35, 0.35, 0.2, 0.05, 0.05, 0.0]), exact)["lossless"] is False
    never = drawn([0.4, 0.3, 0.2, 0.05, 0.05, 0.002])
    assert lossless.goodness(never, exact)["outside"] == never[5] > 0
    assert lossless.goodness(never, exact)["lossless"] is False


def test_goals_are_judged_by_what_was_found(tmp_path: Path) -> None:
    day = day_of(tmp_path, GPU)
    found: dict[str, dict[str, dict[str, float | str]]] = {
        "environment": {"device": {"name": "NVIDIA A100-SXM4-80GB"}},
        "ceilings": {"read": {"TB/s": 1.6}, "copy": {"TB/s": 2.0}},
        "decoding": {
            "T=0 tree 32x6": {"ms/token": 2.0, "lossless": False},
            "T=0 tree 64x8": {"ms/token": 3.5, "lossless": True},
            "T=0 tree 128x10": {"ms/token": 3.1, "lossless": True},
            "T=0.6 tree 64x8": {"ms/step": 12.0},
        },
        "graphed-plain": {"128 tokens": {"ms/token": 8.06, "right": True}},
        "profile": {"T=0.6 tree 64x8": {"device ms": 11.7}},
    }
    for part, rows in found.items():
        day.report.begin(part)
        for name, values in rows.items():
            day.report.row(name, values)
    day.report.begin("goals")
    day.dtype = torch.bfloat16
    goals(day)
    judged = day.report.parts["goals"]
    assert judged["goals for"]["device"] == "A100, 80 GB"
    assert judged[PER_TOKEN] == {"verdict": REACHED, "found": 3.1, "wanted": 3.2}
    assert judged[SPEED_UP]["verdict"] == MISSED
    assert judged[SPEED_UP]["found"] == pytest.approx(8.06 / 3.1)
    # 6.6 billion weights, 256 tokens of KV and 8 drafts of 43 million in 2 bytes, at 2 TB/s
    assert weight_values(day.scale.workloads[0].configs[0]) == pytest.approx(6.74e9, rel=0.01)
    floor = 2 * (6.607e9 + 256 * 2 * 32 * 4096 + 8 * 43.5e6) / 2.0e12 * 1e3
    assert judged[FLOOR]["found"] == pytest.approx(12.0 / floor, rel=0.01)
    assert judged[FLOOR]["verdict"] == MISSED
    assert judged[HOST_MS]["found"] == pytest.approx(0.3)
    assert judged[HOST_MS]["verdict"] == REACHED
    day.report.begin("graphed-plain")
    day.report.row("128 tokens", {"ms/token": 8.06, "right": False})
    day.report.begin("goals")
    goals(day)
    assert day.report.parts["goals"][SPEED_UP]["verdict"] == UNKNOWN


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("NVIDIA A100 80GB PCIe", "A100, 80 GB"),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L40S", None),
        ("NVIDIA H200 NVL", "H200"),
        ("NVIDIA GH200 480GB", None),
    ],
)
def test_goals_are_those_of_the_device(name: str, gpu: str | None, tmp_path: Path) -> None:
    day = day_of(tmp_path, GPU)
    day.report.begin("environment")
    day.report.row("device", {"name": name})
    day.report.begin("decoding")
    day.report.row("T=0 tree 64x8", {"ms/token": 1.0, "lossless": True})
    day.report.begin("goals")
    goals(day)
    judged = day.report.parts["goals"]
    assert judged.get("goals for", {}).get("device") == gpu
    assert judged[PER_TOKEN]["verdict"] == (REACHED if gpu else NO_GOAL)
    assert judged[PER_TOKEN]["found"] == 1.0
    assert judged[FLOOR]["verdict"] == UNKNOWN


def test_what_was_not_measured_is_no_miss(tmp_path: Path) -> None:
    day = day_of(tmp_path, GPU)
    day.report.begin("goals")
    goals(day)
    assert {row["verdict"] for row in day.report.parts["goals"].values()} == {UNKNOWN}
    assert verdict(PER_TOKEN, 1.0, None) == NO_GOAL
    assert verdict(SPEED_UP, 3.0, 2.7) == verdict(PER_TOKEN, 2.7, 2.7) == REACHED
    assert verdict(SPEED_UP, 2.6, 2.7) == verdict(PER_TOKEN, 2.8, 2.7) == MISSED
