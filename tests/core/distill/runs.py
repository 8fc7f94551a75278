"""Distillations of a tiny target, in processes of their own that can be killed."""

import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sequoia_core.distill.corpus import AnswerMarks, Corpus, load_corpus
from sequoia_core.distill.options import options_for
from sequoia_core.distill.pipeline import WORK, Distillation
from tests.core.checkpoints import save_model, tiny_tokenizer

TINY_RUN: Mapping[str, Any] = {
    "tokens": 1200,
    "steps": 6,
    "head_vocab": 40,
    "seed": 5,
    "kind": "independent",
    "device": "cpu",
}


def tiny_target(folder: Path, **changes: Any) -> str:
    """A random target with a chat template; returns its name."""
    shape = {"max_position_embeddings": 128, "num_hidden_layers": 4} | changes
    save_model(folder, tiny_tokenizer(first="a"), **shape)
    return str(folder)


def load_text(file: Path) -> Corpus:
    """A corpus with marks on its answers."""
    return load_corpus(file, AnswerMarks((), frozenset()))


def run(out: Path, given: Mapping[str, Any], resume: bool = False) -> list[tuple[str, int]]:
    """Run to the end; returns the stages with the number of reports of each."""
    options = options_for(out / WORK, given, resume)
    reports: dict[str, int] = {}
    for status in Distillation(options, out, save_seconds=0.0).run():
        reports[status.stage] = reports.get(status.stage, 0) + 1
    return list(reports.items())


def run_until_killed(out: Path, given: Mapping[str, Any], resume: bool, at: tuple[str, int]) -> int:
    """Run in another process, which is killed at the n-th report of a stage; its exit code."""
    process = _SERVER.Process(target=_doomed, args=(out, dict(given), resume, at))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _doomed(out: Path, given: Mapping[str, Any], resume: bool, at: tuple[str, int]) -> None:
    torch.set_num_threads(1)
    options = options_for(out / WORK, given, resume)
    seen = 0
    for status in Distillation(options, out, save_seconds=0.0).run():
        seen += status.stage == at[0]
        if seen == at[1]:
            os.kill(os.getpid(), signal.SIGKILL)


# torch and transformers take seconds to import: once is enough
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__, "transformers"])
