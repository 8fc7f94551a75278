"""Threads of the native forward: shared, asleep when idle, safe to fork and to leave behind."""

import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest
import torch
from torch import Tensor

from sequoia_core.bench.session import busy_cores
from sequoia_core.model.cpu import (
    compute_threads,
    physical_cores,
    quota_cores,
)
from sequoia_core.model.native import llama
from sequoia_core.model.native.library import Pool
from sequoia_core.model.native.llama import FEWEST_PROMPT_ROWS, NativeLlama
from tests.core.model.native.test_invariance import MODELS, mixed_model, read

ROOT = Path(__file__).parents[4]
IDS = torch.arange(40) % 61
FORWARDS = 100

LEFT_BEHIND = """
import ctypes, threading
from sequoia_core.model.native.library import SegmentStruct, call
from tests.core.model.native.test_pool import two_threads
model = two_threads()
cache, ready = model.new_cache(), threading.Event()
segment = SegmentStruct(size=ctypes.sizeof(SegmentStruct), rows=40, cache=cache.handle)
ids = (ctypes.c_int64 * 40)(*range(40))
def work():  # PyTorch's own operations do not bear the end of the interpreter
    rows = ctypes.byref(segment)
    while True:
        call("forward", model.handle, rows, 1, ids, None, None, None)
        call("cache_truncate", cache.handle, 0)
        ready.set()
threading.Thread(target=work, daemon=True).start()
ready.wait()
"""
"""The interpreter ends while a thread computes."""


def two_threads() -> NativeLlama:
    return next(model for (_, threads), model in MODELS.items() if threads == 2)


def logits_of(model: NativeLlama, shift: int = 0) -> Tensor:
    return model.forward((IDS + shift) % 61, torch.arange(40), None, model.new_cache())


def exit_code_of_a_child(model: NativeLlama, wanted: Tensor) -> int:
    """Fork, and compute in the child; it is killed if that hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forking with threads
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if torch.equal(logits_of(model), wanted) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("threads", [3, 7, 65])
def test_any_number_of_threads_gives_the_bytes_of_one(threads: int, busy: bool) -> None:
    name = next(iter(MODELS))[0]
    alone, model = MODELS[name, 1], mixed_model(Pool(threads), name)
    with busy_cores(len(os.sched_getaffinity(0)) if busy else 0):
        for rows in (1, 5, 40):
            ids, places = IDS[:rows], torch.arange(rows)
            wanted = alone.forward(ids, places, None, alone.new_cache()).numpy().tobytes()
            for _ in range(FORWARDS):
                found = model.forward(ids, places, None, model.new_cache())
                assert found.numpy().tobytes() == wanted


def test_models_and_callers_that_share_threads_take_turns() -> None:
    pool = Pool(2)
    name = next(iter(MODELS))[0]
    models = [mixed_model(pool, name), mixed_model(pool, name, num_layers=1)]
    calls = [(models[at % 2], at) for at in range(24)]
    wanted = [logits_of(*each) for each in calls]
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda each: logits_of(*each), calls))
    assert all(map(torch.equal, found, wanted))


def test_a_child_computes_with_threads_of_its_own() -> None:
    model = two_threads()
    wanted = logits_of(model)
    assert exit_code_of_a_child(model, wanted) == 0
    assert torch.equal(logits_of(model), wanted)


def test_a_fork_while_another_thread_computes_leaves_no_lock_behind() -> None:
    model, done = two_threads(), Event()
    wanted = logits_of(model)

    def compute() -> None:
        while not done.is_set():
            logits_of(model)

    other = Thread(target=compute)
    other.start()
    try:
        assert [exit_code_of_a_child(model, wanted) for _ in range(5)] == [0] * 5
    finally:
        done.set()
        other.join()


def test_threads_that_have_nothing_to_do_sleep() -> None:
    before = set(Path("/proc/self/task").iterdir())
    pool = Pool(3)
    model = mixed_model(pool, next(iter(MODELS))[0])
    workers = set(Path("/proc/self/task").iterdir()) - before
    assert len(workers) == 2
    logits_of(model)

    def asleep() -> bool:
        states = [(each / "stat").read_text() for each in workers]
        return all(state.rpartition(")")[2].split()[0] == "S" for state in states)

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(asleep() for _ in range(50)):
        time.sleep(0.01)
    assert asleep()


def test_an_interpreter_that_ends_while_a_thread_computes_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("row_seconds", "rows"), [(0.01, 15), (0.001, 150), (1.0, FEWEST_PROMPT_ROWS), (1e-6, 256)]
)
def test_a_prompt_is_read_in_pieces_of_about_the_same_time(
    row_seconds: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mixed_model(Pool(1), next(iter(MODELS))[0])
    clock = iter([0.0, 32 * row_seconds])
    monkeypatch.setattr(llama, "perf_counter", lambda: next(clock))
    read(model, torch.arange(model.prompt_rows) % 61, [])
    assert model.prompt_rows == rows


def machine(folder: Path, siblings: list[str], **files: str) -> Path:
    """A system's description of itself."""
    for cpu, listed in enumerate(siblings):
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = listed
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


def test_two_processors_of_one_core_count_once(tmp_path: Path) -> None:
    system = machine(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    assert physical_cores({0, 1, 2, 3}, system) == 2
    assert physical_cores({0, 2}, system) == 1
    assert physical_cores({1, 2, 7}, system) == 3  # nothing is known of the last
    assert physical_cores(set(), system) is None


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/"}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "350000 100000"}, 3),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "200000 100000",
          "sys/fs/cgroup/a/b/cpu.max": "800000 100000"}, 2),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/x", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "400000",
          "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "200000"}, 2),
        ({"proc/self/cgroup": "4:cpu:/x", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1"}, None),
        ({"proc/self/cgroup": "7:memory:/x"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_a_quota_leaves_whole_cores(
    files: dict[str, str], cores: int | None, tmp_path: Path
) -> None:
    assert quota_cores(machine(tmp_path, [], **files)) == cores


def test_threads_are_the_least_of_what_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    pairs = ["0,3", "1,4", "2,5"] * 2
    assert compute_threads(machine(tmp_path / "cores", pairs)) == 3
    files = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000"}
    assert compute_threads(machine(tmp_path / "quota", pairs, **files)) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert compute_threads(machine(tmp_path / "asked", pairs)) == 8
