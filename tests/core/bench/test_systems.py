"""Which systems take part in a benchmark, and why others do not."""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sequoia_core.bench import BenchPlan, names
from sequoia_core.bench.process import start_systems
from sequoia_core.bench.runs import PeerError
from sequoia_core.bench.systems import (
    GGUF_DRAFT,
    OPENVINO_DRAFT,
    PEERS,
    Q4_0,
    ModelFactory,
    Sources,
    SystemSpec,
    build,
)
from sequoia_core.model.loading.fitted_draft import OpenedDraft
from tests.core.bench_runs import FixedSystem
from tests.core.models import random_weights, tiny_config

PRESENT = FixedSystem("present", 1.0, [])
OPEN_DRAFT = "sequoia_core.model.loading.fitted_draft.open_fitted_draft"


def any_draft(**changes: Any) -> OpenedDraft:
    config = tiny_config(num_layers=1, **changes)
    return OpenedDraft("tiny", config, random_weights(config, seed=5), None)


def sources(**changes: Any) -> Sources:
    values: dict[str, Any] = {
        "plan": BenchPlan(),
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
    }
    return Sources(**(values | changes))


def test_every_peer_that_is_not_installed_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with start_systems(ModelFactory(sources()), PEERS) as started:
        assert started.systems == {}
    assert list(started.absent) == [peer.name for peer in PEERS]
    for peer in PEERS:
        assert started.absent[peer.name] == (
            f"{peer.module} is not installed; install it with: pip install -e '.[peers]'"
        )


@pytest.mark.parametrize(
    ("changes", "why"),
    [({}, "GGUF files"), ({"gguf": "some.gguf", "device": "cuda:0"}, "on CPUs only")],
)
def test_peers_that_read_gguf_say_what_they_need(changes: dict[str, Any], why: str) -> None:
    for name in (names.LLAMA_CPP, names.LLAMA_SERVER, names.OPENVINO):
        with pytest.raises(PeerError, match=why):
            build(ModelFactory(sources(**changes)), name)


@pytest.mark.parametrize(
    ("draft", "why"),
    [(None, "has no draft"), (any_draft(feature_layers=(0,)), "reads the target's hidden")],
)
def test_a_draft_that_peers_cannot_use_is_refused_with_what_to_pass(
    monkeypatch: pytest.MonkeyPatch, draft: OpenedDraft | None, why: str
) -> None:
    asked: list[Sequence[object]] = []

    def open_draft(*arguments: object) -> OpenedDraft | None:
        asked.append(arguments)
        return draft

    monkeypatch.setattr(OPEN_DRAFT, open_draft)
    with pytest.raises(PeerError, match=why) as caught:
        build(ModelFactory(sources(plan=BenchPlan(draft="own"))), names.HF_ASSISTED)
    assert "--peer-draft DIR" in str(caught.value)
    assert asked == [(None, "own")]


def test_a_peer_draft_takes_the_place_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    drafts = {"theirs": any_draft()}
    monkeypatch.setattr(OPEN_DRAFT, lambda _, draft: drafts[draft])
    factory = ModelFactory(sources(plan=BenchPlan(draft="own", peer_draft="theirs")))
    assert factory.peer_draft is drafts["theirs"]


def raising(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("library", "why"),
    [
        (None, "ModuleNotFoundError: "),  # it is there, and something it needs is not
        (SimpleNamespace(Llama=raising(RuntimeError("no model"))), "RuntimeError: no model"),
        (SimpleNamespace(Llama=raising(OSError())), "OSError"),
    ],
)
def test_a_peer_that_cannot_be_made_is_absent_and_takes_nobody_along(
    monkeypatch: pytest.MonkeyPatch, library: Any, why: str
) -> None:
    found = importlib.machinery.ModuleSpec("found", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setitem(sys.modules, "llama_cpp", library)
    present = SystemSpec("present", "here", lambda _: PRESENT, here=True)
    specs = tuple(replace(peer, here=True) for peer in PEERS if peer.name == names.LLAMA_CPP)
    factory = ModelFactory(sources(gguf="some.gguf"))
    with start_systems(factory, (*specs, present)) as started:
        assert started.systems == {"present": PRESENT}
    assert started.absent[names.LLAMA_CPP].startswith(why)


def test_what_breaks_inside_this_engine_is_no_absence() -> None:
    broken = SystemSpec("own", "sequoia_core", raising(RuntimeError("a bug")), own=True, here=True)
    started = start_systems(ModelFactory(sources()), (broken,))
    with pytest.raises(RuntimeError, match="a bug"), started:
        pass


@pytest.mark.parametrize(
    ("name", "draft", "why"),
    [
        (GGUF_DRAFT, replace(any_draft(), vocab_ids=torch.arange(7)), "logits for 7 tokens only"),
        (OPENVINO_DRAFT, None, "name one with --peer-draft DIR"),
    ],
)
def test_a_file_that_cannot_be_made_is_reported_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, draft: Any, why: str
) -> None:
    monkeypatch.setattr(OPEN_DRAFT, lambda *_: draft)
    factory = ModelFactory(sources(gguf="some.gguf", folder=str(tmp_path)))
    with pytest.raises(PeerError, match=why):
        factory.made(name)
    assert not factory.place(name).exists()


def test_a_file_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[str] = []

    def requantise(source: str, file: Path, threads: int) -> None:
        made.append(f"{source} {threads}")
        file.write_text("codes")

    monkeypatch.setattr("sequoia_core.bench.systems.requantise", requantise)
    factory = ModelFactory(sources(gguf="some.gguf", folder=str(tmp_path)))
    assert factory.made(Q4_0).read_text() == factory.made(Q4_0).read_text() == "codes"
    assert made == ["some.gguf 1"]
    assert [each.name for each in tmp_path.iterdir()] == [Q4_0]
