"""Processes that compute one model end together, with a line that says why."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import pytest
import torch
from torch._C._distributed_c10d import Store

from sequoia_core.config import GraphChoice, Offload, SamplingParams, WeightFormat
from sequoia_core.errors import ModelLoadError, ParameterError, RankLostError
from sequoia_core.model.device import choose_placement
from sequoia_core.model.loading import loader
from sequoia_core.model.loading.backend import memory_plans
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.model.parallel import ranks
from sequoia_core.model.parallel.model import LeadLlama, load_shared
from sequoia_core.model.parallel.ranks import OTHERS_ENDED, Lead, end_ranks, lead_of
from sequoia_core.model.parallel.shards import Shard
from tests.core.checkpoints import save_model, tiny_tokenizer
from tests.core.engines import make_engine, steps_of

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[4]
SECONDS = 4.0  # that processes wait for each other here


@pytest.fixture
def target(tmp_path: Path) -> str:
    save_model(tmp_path / "target", tiny_tokenizer(), max_position_embeddings=256)
    return str(tmp_path / "target")


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    yield
    end_ranks()


@pytest.fixture
def lead() -> Lead:
    """One that has lost no process, of the test before if that is so."""
    return lead_of(2, on_gpu=False, seconds=SECONDS)


def loaded(lead: Lead, target: str) -> LeadLlama:
    opened = open_directory(Path(target))
    return load_shared(lead, target, opened, ("cpu", CPU), torch.float32)


@pytest.mark.parametrize(
    ("how", "within_an_answer"),
    # a stopped one is found at the next forward, whenever it was stopped
    [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGSTOP, True)],
)
def test_a_lost_process_ends_all(
    lead: Lead, target: str, how: signal.Signals, within_an_answer: bool
) -> None:
    model = loaded(lead, target)
    engine, params = make_engine(model, None), SamplingParams(0.0, max_new_tokens=200)
    (child,), began = lead.children, monotonic()
    events = engine.generate([5, 6, 7], params)
    if within_an_answer:
        next(event for event in events if steps_of([event]))
    os.kill(child.pid, how)
    with pytest.raises(RankLostError) as caught:
        list(events)
    line = str(caught.value)
    assert "\n" not in line
    assert "start again" in line
    assert ("process 1 of 2 has ended (signal 9)" in line) == (how is signal.SIGKILL)
    assert child.wait(1) == -signal.SIGKILL
    assert monotonic() - began < SECONDS + 10
    with pytest.raises(RankLostError):
        list(engine.generate([5, 6, 7], params))


def test_the_others_end_with_process_0() -> None:
    code = (
        "import time; from sequoia_core.model.parallel.ranks import lead_of\n"
        "print(*[child.pid for child in lead_of(2, on_gpu=False).children], flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert [psutil.pid_exists(pid) for pid in pids] == [True]
        process.kill()
    ends = monotonic() + 20
    while any(map(psutil.pid_exists, pids)) and monotonic() < ends:
        sleep(0.1)
    assert not any(map(psutil.pid_exists, pids))


def test_a_process_whose_parent_is_gone_before_it_has_begun_ends(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], check=True,
                          capture_output=True).stdout  # fmt: skip
    command = [sys.executable, "-m", "sequoia_core.model.parallel.follower"]
    done = subprocess.run(
        [*command, str(tmp_path / "store"), gone.decode().strip()], cwd=ROOT, timeout=60,
        env={**os.environ, "RANK": "1", "WORLD_SIZE": "2"}, check=False,
    )  # fmt: skip
    assert done.returncode == OTHERS_ENDED


def test_what_one_process_cannot_load_is_said_and_the_others_go_on(
    lead: Lead, target: str, tmp_path: Path
) -> None:
    opened = open_directory(Path(target))
    with pytest.raises(ModelLoadError, match=r"process 1 of 2: .*no such file or folder"):
        load_shared(lead, "./nowhere", opened, ("cpu", CPU), torch.float32)
    save_model(tmp_path / "other", tiny_tokenizer(), num_hidden_layers=1)
    with pytest.raises(ModelLoadError, match="process 1 of 2: other: another model than"):
        load_shared(lead, str(tmp_path / "other"), opened, ("cpu", CPU), torch.float32)
    model = loaded(lead, target)
    logits = model.forward(torch.tensor([3]), torch.tensor([0]), None, model.new_cache())
    assert logits.shape == (1, 96)


def test_the_next_model_starts_new_processes_and_their_end_gives_back_the_threads(
    lead: Lead, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(lead.children[0].pid, signal.SIGKILL)
    with pytest.raises(RankLostError):
        loaded(lead, target)
    lead.close()
    before = torch.get_num_threads()
    monkeypatch.setattr(ranks, "cpu_threads", lambda: 14)
    again = lead_of(2, on_gpu=False, seconds=SECONDS)
    assert again is not lead
    assert torch.get_num_threads() == 7
    assert loaded(again, target).new_cache().length == 0
    again.close()
    assert torch.get_num_threads() == before != 7


def test_closing_ends_them_in_order_and_leaves_nothing(lead: Lead, target: str) -> None:
    loaded(lead, target)
    end_ranks()
    assert [child.returncode for child in lead.children] == [0]
    assert not Path(lead._folder.name).exists()


def test_closing_does_not_wait_for_a_long_forward(lead: Lead, target: str) -> None:
    model = loaded(lead, target)
    row = torch.tensor([3]), torch.tensor([0]), None, model.new_cache()
    os.kill(lead.children[0].pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        forward = pool.submit(model.forward, *row)
        ends = monotonic() + 10
        while not lead._active and monotonic() < ends:
            sleep(0.01)
        lead.close()
        with pytest.raises(RankLostError, match="have been ended; load the model again"):
            forward.result(10)
    assert [child.returncode for child in lead.children] == [-signal.SIGKILL]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no processes left")])
def test_a_start_that_is_broken_off_leaves_nothing(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Lead] = []

    def interrupted(self: Lead, size: int) -> Store:
        made.append(self)
        monkeypatch.setattr(ranks, "sleep", fail)
        return started(self, size)

    def fail(_: float) -> None:
        raise error

    started = Lead._started_others
    monkeypatch.setattr(Lead, "_started_others", interrupted)
    expected = RankLostError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        Lead(2, on_gpu=False)
    (lead,) = made
    assert [child.returncode for child in lead.children] == [-signal.SIGKILL]
    assert not Path(lead._folder.name).exists()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tensor_parallel": 0}, "tensor_parallel is 0; give 1, or how many"),
    ({"offload": Offload.DISK}, "leave --offload out"),
    ({"graphs": GraphChoice.ON}, "leave --graphs out"),
    ({"weights": WeightFormat.NATIVE}, "computes in one process.*leave --weights out"),
    ({"weights": WeightFormat.INT8}, "leave --weights out"),
    ({"device": "cpu,cpu,cpu"}, "3 devices are named; name 2, or leave --device out"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=str)
def test_what_does_not_go_with_it_is_refused_before_files_are_read(
    options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "open_checkpoint", pytest.fail)
    with pytest.raises(ParameterError, match=words) as caught:
        load_pair("any", "none", **{"device": "cpu", "tensor_parallel": 2, **options})
    assert "\n" not in str(caught.value)


def test_a_target_that_cannot_be_divided_starts_no_process(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    with pytest.raises(ParameterError, match="give 1 or 2 or 4"):
        load_pair(target, "none", device="cpu", tensor_parallel=3)


def test_what_other_launchers_say_of_processes_is_not_about_these(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_placement("cuda", ranks=2).device == torch.device("cuda", 0)
    with pytest.raises(ParameterError, match="the GPUs here are 2; give 2"):
        choose_placement("cuda", ranks=4)


@pytest.mark.parametrize("given", [1, 4])
def test_torchrun_and_the_setting_agree(given: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ParameterError, match=f"is {given}, but torchrun has started 2"):
        choose_placement("cpu", ranks=given)
    assert choose_placement("cpu", ranks=2).ranks == 2


def test_memory_is_planned_for_the_parts(target: str) -> None:
    config = open_directory(Path(target)).config
    shard = Shard(config, 0, 2)
    gpu = choose_placement("cpu", ranks=2)
    (plan,) = memory_plans(config, None, torch.float32, gpu).values()
    (alone,) = memory_plans(config, None, torch.float32, choose_placement("cpu")).values()
    assert plan.weights == 2 * 4 * shard.values  # both lie in the same memory
    assert alone.weights < plan.weights < 2 * alone.weights
    assert gpu.name == "2 x cpu"
