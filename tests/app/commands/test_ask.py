"""`sequoia ask`: the answer alone on standard output, all else on standard error."""

import io
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from app.cli import app
from app.config import model_choice
from app.config.settings import Settings
from app.state.figures import speed_words
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import ContextFullError
from sequoia_core.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Notice,
    NoticeKind,
    Origin,
    PairDescription,
    Progress,
    Step,
    TextDelta,
    Totals,
)
from sequoia_core.recording.trace_file import Asked
from sequoia_core.tree.choice import ADAPTIVE
from tests.fakes import (
    ANSWER,
    PAIR,
    TREE_16,
    BrokenEngine,
    make_answer,
    replay,
    unmeasured,
    with_baseline,
)
from tests.replay_engine import ReplayEngine, Trace, read_trace

JSON_KEYS = [
    "mode", "text", "token_ids", "finish_reason", "tokens", "steps", "baseline_steps",
    "tokens_per_step", "seconds", "tokens_per_second", "ar_ms", "speedup", "num_drafts",
    "num_draft_tokens", "num_accepted_tokens", "mean_acceptance_length",
    "num_accepted_tokens_per_pos", "accepted_lengths", "growmap", "growmaps", "looked_up",
]  # fmt: skip


class Stage:
    """Answers with given events and remembers what it was asked."""

    def __init__(self) -> None:
        self.engine: ChatEngine = replay()
        self.settings: Settings | None = None
        self.insight = False
        self.prompt = ""
        self.params: SamplingParams | None = None

    def play(self, *events: Event) -> None:
        """Answer with these events instead."""
        self.engine = ScriptedEngine(events)

    def build(self, settings: Settings, progress: Progress, *, insight: bool) -> Any:
        self.insight = insight
        self.settings = settings
        progress("Loading", 0.5)
        return self

    @property
    def description(self) -> PairDescription:
        return self.engine.description

    def reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        self.prompt, self.params = prompt, params
        return self.engine.reply(prompt, params, should_stop)


class ScriptedEngine(ReplayEngine):
    """Hands out its events as they are, whole answer or not."""

    def __init__(self, events: tuple[Event, ...]) -> None:
        super().__init__(Trace(PAIR, make_answer()))
        self._script = events

    def reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        return iter(self._script)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(model_choice, "build_chat", stage.build)
    return stage


def ask(*arguments: str, pipe: str | bytes = "") -> Result:
    return CliRunner().invoke(app, ["ask", *arguments], input=pipe)


def test_standard_output_holds_the_answer_and_nothing_else(stage: Stage) -> None:
    result = ask("Why is the sky blue?")
    assert result.exit_code == 0
    assert result.stdout.rstrip("\n") == ANSWER.rstrip("\n")
    assert stage.prompt == "Why is the sky blue?"
    totals = last_totals(make_answer())
    assert f"{totals.tokens} tokens" in result.stderr
    assert speed_words(totals.speedup) in result.stderr
    assert "16 nodes, depth 4" in result.stderr


def last_totals(events: tuple[Event, ...]) -> Totals:
    finished = events[-1]
    assert isinstance(finished, Finished)
    return finished.totals


def test_json_is_one_object_that_adds_up(stage: Stage) -> None:
    result = ask("Why?", "--json")
    data = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert list(data) == JSON_KEYS
    events = make_answer()
    steps = [event for event in events if isinstance(event, Step)]
    totals = last_totals(events)
    assert data["mode"] == "sequoia"
    assert data["text"] == ANSWER
    assert data["token_ids"] == [token for step in steps for token in step.token_ids]
    assert data["finish_reason"] == "stop"
    assert data["tokens"] == len(data["token_ids"]) == totals.tokens
    assert data["steps"] == len(steps)
    assert data["tokens_per_step"] == pytest.approx(data["tokens"] / data["steps"])
    assert data["tokens_per_second"] == pytest.approx(data["tokens"] / data["seconds"])
    assert data["ar_ms"] == pytest.approx(21.0)
    assert data["speedup"] == pytest.approx(data["tokens"] * 0.021 / data["seconds"])
    assert data["num_drafts"] == len(steps)
    assert data["num_draft_tokens"] == 15 * len(steps)
    assert data["num_accepted_tokens"] == sum(step.accepted for step in steps)
    length = 1 + data["num_accepted_tokens"] / data["num_drafts"]
    assert data["mean_acceptance_length"] == pytest.approx(length)
    assert sum(data["num_accepted_tokens_per_pos"]) == data["num_accepted_tokens"]
    lengths = Counter(step.accepted for step in steps)
    assert data["accepted_lengths"] == [lengths[n] for n in range(max(lengths) + 1)]
    assert data["growmap"] == {"nodes": 16, "depth": 4, "adaptive": False}
    assert data["growmaps"] == [{"step": 1, **data["growmap"]}]
    assert data["looked_up"] == 0


def test_plain_steps_that_speed_ups_are_measured_against_are_counted_apart(stage: Stage) -> None:
    events = with_baseline(make_answer(), at=2)
    stage.play(*events)
    data = json.loads(ask("Why?", "--json").stdout)
    assert data["baseline_steps"] == 1
    assert data["tokens_per_step"] == pytest.approx((data["tokens"] - 1) / (data["steps"] - 1))


def test_json_names_every_tree_and_what_was_looked_up(stage: Stage) -> None:
    events = list(make_answer())
    steps = [event for event in events if isinstance(event, Step)]
    at, long = next((i, e) for i, e in enumerate(events) if isinstance(e, Step) and e.accepted > 1)
    nodes = list(long.nodes)
    for node in long.path[2:]:
        nodes[node] = replace(nodes[node], origin=Origin.LOOKUP, draft_prob=None)
    events[at] = replace(long, nodes=tuple(nodes))
    events.insert(at + 1, replace(TREE_16, growmap=ADAPTIVE, nodes=9, depth=2))
    stage.play(*events)
    data = json.loads(ask("Why?", "--json").stdout)
    assert data["growmap"] == {"nodes": 9, "depth": 2, "adaptive": True}
    assert data["growmaps"] == [
        {"step": 1, "nodes": 16, "depth": 4, "adaptive": False},
        {"step": long.index + 1, **data["growmap"]},
    ]
    assert data["looked_up"] == long.accepted - 1
    assert data["steps"] == len(steps)
    said = ask("Why?").stderr
    assert "adaptive tree, up to 9 nodes, depth 2, the last of 2" in said
    assert f"{long.accepted - 1} tokens looked up" in said


def test_a_speed_up_that_was_not_measured_is_not_stated(stage: Stage) -> None:
    events = list(unmeasured(make_answer()))
    totals = Totals()
    for event in events:
        totals = totals.plus(event) if isinstance(event, Step) else totals
    stage.play(*events[:-1], Finished(FinishReason.STOP, totals))
    data = json.loads(ask("Why?", "--json").stdout)
    assert data["ar_ms"] is None
    assert data["speedup"] is None
    said = ask("Why?").stderr
    assert f"{totals.tokens} tokens" in said
    assert "plain" not in said


def test_quiet_leaves_standard_error_empty(stage: Stage) -> None:
    result = ask("Why?", "--quiet")
    assert result.stderr == ""
    assert result.stdout.startswith("The sky")


def test_notices_go_to_standard_error(stage: Stage) -> None:
    stage.play(Notice(NoticeKind.PRECISION, "rounding\x1b[31m"), *make_answer("Yes."))
    result = ask("Why?")
    assert "rounding␛[31m\n" in result.stderr
    assert result.stdout == "Yes.\n"


def test_words_need_no_quotes_and_a_pipe_adds_to_them(stage: Stage) -> None:
    ask("sum", "this", "up:", pipe="one\ntwo\n")
    assert stage.prompt == "sum this up:\n\none\ntwo"
    ask(pipe="only the pipe")
    assert stage.prompt == "only the pipe"


@pytest.mark.parametrize("pipe", ["", " \n\t\n", "\n" * 100])
def test_a_blank_prompt_is_one_line_and_loads_nothing(stage: Stage, pipe: str) -> None:
    result = ask("  ", pipe=pipe)
    assert result.exit_code == 2
    assert result.stderr.startswith("sequoia: the prompt is empty")
    assert result.stderr.count("\n") == 1
    assert stage.settings is None


def test_a_pipe_of_other_bytes_is_one_line(stage: Stage) -> None:
    result = ask(pipe=b"\xff\xfe\x00")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr


def test_options_reach_the_engine(stage: Stage) -> None:
    options = (
        "--temperature 0.2 --top-p 0.9 --top-k 40 --seed 7 --max-new-tokens 9 --stop END "
        "--stop ### --system Brief --mode chain --growmap chain/4 --dtype float16 --device cpu "
        "--target my/target --draft my/draft"
    )
    ask("Why?", *options.split())
    assert stage.params == SamplingParams(0.2, 0.9, 40, 7, 9, ("END", "###"))
    settings = stage.settings
    assert settings is not None
    assert (settings.mode, settings.growmap) == (Mode.CHAIN, "chain/4")
    assert (settings.system, settings.dtype, settings.device) == ("Brief", "float16", "cpu")
    assert (settings.target, settings.draft) == ("my/target", "my/draft")


def test_options_before_the_command_count_below_its_own(stage: Stage) -> None:
    arguments = ["--temperature", "0.1", "--seed", "1", "ask", "Why?", "--seed", "2"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert stage.params is not None
    assert (stage.params.temperature, stage.params.seed) == (0.1, 2)


def test_what_was_decided_about_the_draft_is_said(stage: Stage) -> None:
    result = ask("Why?", "--target", "meta-llama/Llama-2-7b-chat-hf")
    assert "draft: JackFram/llama-68m, from the catalogue\n" in result.stderr
    # that there is none is said by the engine, once the target is loaded
    assert "draft" not in ask("Why?", "--target", "some/model").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--top-p", "0"], "top_p is 0.0"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--stop", ""], "stop string is empty"),
        (["--pair", "nothing"], "'nothing' is not in the catalogue"),
        (["--pair", "embedded", "--target", "x"], "both a pair and a target"),
    ],
)
def test_a_setting_out_of_range_is_one_line(stage: Stage, arguments: list[str], words: str) -> None:
    result = ask("Why?", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("sequoia: ")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert stage.settings is None


@pytest.mark.parametrize("arguments", [["--mode", "magic"], ["--dtype", "int3"], ["--nope"]])
def test_wrong_usage_exits_2(stage: Stage, arguments: list[str]) -> None:
    assert ask("Why?", *arguments).exit_code == 2


def test_a_failed_answer_keeps_its_text_and_exits_1(stage: Stage) -> None:
    stage.play(*make_answer("Partly")[:-1], Failed("the model fell over"))
    result = ask("Why?")
    assert result.exit_code == 1
    assert result.stdout == "Partly\n"
    assert result.stderr == "sequoia: the model fell over\n"


def test_a_failed_answer_prints_no_json(stage: Stage) -> None:
    stage.play(Failed("no"))
    result = ask("Why?", "--json")
    assert (result.exit_code, result.stdout) == (1, "")


def test_an_error_of_the_engine_is_one_line(stage: Stage) -> None:
    stage.engine = BrokenEngine(ContextFullError("the prompt is\nlonger\x1b than the window"))
    result = ask("Why?")
    assert result.exit_code == 1
    assert result.stderr == "sequoia: the prompt is longer␛ than the window\n"


def test_a_traceback_needs_debug(stage: Stage) -> None:
    stage.engine = BrokenEngine(ZeroDivisionError("oh"))
    result = ask("Why?")
    assert result.exit_code == 1
    assert result.stderr == "sequoia: unexpected ZeroDivisionError: oh (--debug shows where)\n"
    for arguments in (["--debug", "ask", "Why?"], ["ask", "Why?", "--debug"]):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, ZeroDivisionError)


def test_ctrl_c_exits_130_and_keeps_the_text(stage: Stage) -> None:
    class Interrupted(ReplayEngine):
        def reply(self, *_arguments: object) -> Iterator[Event]:
            yield TextDelta(1, "Half", ())
            raise KeyboardInterrupt

    stage.engine = Interrupted(replay_trace())
    result = ask("Why?")
    assert result.exit_code == 130
    assert result.stdout == "Half\n"
    assert result.stderr == ""


def test_trace_records_what_can_be_replayed(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "new" / "answer.jsonl"
    result = ask("Why?", "--trace", str(path), "--temperature", "0.3")
    assert result.exit_code == 0
    trace = read_trace(path)
    assert trace.events == make_answer()
    assert stage.insight, "what is recorded can be asked why"
    asked = trace.entries[0]
    assert isinstance(asked, Asked)
    assert (asked.prompt, asked.parent, asked.temperature) == ("Why?", None, 0.3)
    assert asked.started is not None


def test_what_was_decoded_before_an_error_is_in_the_trace(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl"
    stage.engine = BrokenEngine(ContextFullError("the context is full"))
    assert ask("Why?", "--trace", str(path)).exit_code == 1
    assert sum(isinstance(event, Step) for event in read_trace(path).events) == 2


def test_a_trace_that_cannot_be_written_is_refused_before_models_are_loaded(
    stage: Stage, tmp_path: Path
) -> None:
    result = ask("Why?", "--trace", str(tmp_path))
    assert result.exit_code == 2
    assert "no file can be written there" in result.stderr
    assert stage.settings is None


def replay_trace() -> Any:
    from tests.fakes import PAIR
    from tests.replay_engine import Trace

    return Trace(PAIR, make_answer())


class Screen(io.StringIO):
    """Standard output of a person who watches."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_never_sees_the_models_escapes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "a\x1b]0;title\x07b\x9b31mc\r[bold]d\n"
    stage.play(TREE_16, TextDelta(1, evil, ()), Finished(FinishReason.STOP, Totals()))
    assert CliRunner().invoke(app, ["ask", "Why?"]).stdout_bytes.decode() == evil
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit) as caught:
        app(["ask", "Why?"])
    assert not caught.value.code
    assert "[bold]d\n" in screen.getvalue()
    assert not set(screen.getvalue()) & {"\x1b", "\x07", "\x9b", "\r"}


def test_an_answer_outside_the_terminals_encoding_does_not_stop_it(stage: Stage) -> None:
    stage.play(*make_answer("naïve 😀"))
    result = CliRunner(charset="ascii").invoke(app, ["ask", "Why?"])
    assert result.exit_code == 0
    assert result.stdout == "na?ve ?\n"


def test_a_reader_that_goes_away_is_no_error(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with os.fdopen(writing, "w", closefd=False) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit):
            app(["ask", "Why?", "--quiet"])
        monkeypatch.undo()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, writing)
        os.close(null)
    os.close(writing)
    assert capfd.readouterr().err == ""
