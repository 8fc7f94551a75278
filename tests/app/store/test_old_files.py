"""Files that an older version of the program wrote are opened: `tests/data` holds some of f1dfbc0.

The database is of a chat that was killed while its third answer was being written.
"""

import gzip
import math
from pathlib import Path

from app.config.load import load_settings
from app.state.race_result import recorded_note
from app.store.open_windows import LeftOpen
from app.store.packing import CUT_OFF
from app.store.recorder import DatabaseRecorder
from sequoia_core.events import Failed, Notice, PrefillProgress, Step, TextDelta
from sequoia_core.recording.trace_file import Asked
from tests.app.records import PATIENCE_SECONDS, recording, say
from tests.fakes import PAIR, make_answer
from tests.replay_engine import ReplayEngine, read_trace

OLD = Path(__file__).parents[2] / "data" / "written_by_f1dfbc0"
TEXT = "Hello é\u2028, world."


def check_first_steps(steps: list[Step]) -> None:
    """Those of the first answer; the first has an insight and no known plain time."""
    first, second = steps
    (expected,) = [e for e in make_answer(TEXT) if isinstance(e, Step) and e.index == 2]
    assert second == expected
    assert math.isnan(first.plain_ms)
    assert first.insight is not None
    opinion, trial = first.insight.opinion(0), first.insight.trial(1)
    assert opinion is not None
    assert opinion.draft is not None
    assert opinion.draft.texts == (" a", "<0xE2>")
    assert trial is not None
    assert trial.residual is not None
    assert trial.residual.probs == (0.75, 0.125)


def test_a_trace_is_read() -> None:
    trace = read_trace(OLD / "trace.jsonl")
    assert trace.description == PAIR
    assert trace.entries[0] == Asked("Say \ud800 hello.", "1", None, 12.5, 0.0)
    assert isinstance(trace.entries[1], Notice)
    assert trace.entries[-3:] == (
        Asked("Again?", "2", "1"), PrefillProgress(1, 2), Failed("no memory")
    )  # fmt: skip
    check_first_steps([event for event in trace.events if isinstance(event, Step)])
    deltas = [event.text for event in trace.events if isinstance(event, TextDelta)]
    assert "".join(deltas) == TEXT
    ReplayEngine(trace)


def test_a_record_is_read_recovered_and_continued(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(gzip.decompress((OLD / "sessions.db.gz").read_bytes()))
    with recording(path) as recorder:
        recorder.settle(PATIENCE_SECONDS)
        (left,) = recorder.news()
        assert isinstance(left, LeftOpen)
        assert left.cut_off
        check_record(recorder, left.session)
        recorder.resume(left.session)
        more = say(recorder, "Go on.", "Gladly.", "c" * 32)
    branch = recorder.archive.load(left.session).history.branch
    assert [each.id for each in branch] == ["a" * 32, "c" * 32, more.id]


def check_record(recorder: DatabaseRecorder, session: str) -> None:
    stored = recorder.archive.load(session)
    assert (stored.target, stored.system) == ("target", "be brief")
    first, other, cut_off = stored.history.exchanges.values()
    assert first.prompt == "Why is the sky blue?"
    assert first.answer.verbatim == TEXT
    assert other.parent == cut_off.parent == first.id
    assert other.answer.footer().endswith("5 tokens")
    assert cut_off.answer.failure == CUT_OFF
    assert "This answer was cut off".startswith(cut_off.answer.verbatim)
    assert len(cut_off.answer.statistics) == 1
    check_first_steps(list(recorder.steps(first.id)))
    ((after, race),) = recorder.archive.races(session)
    assert after == first.id
    assert "sequoia tree 16x4 against plain decoding" in recorded_note(race)


def test_settings_are_read(config_home: Path) -> None:
    (config_home / "config.toml").write_bytes((OLD / "config.toml").read_bytes())
    settings = load_settings({})
    assert (settings.temperature, settings.theme, settings.record) == (0.25, "nord", True)
    assert settings.stop == ("END", "\n\n")
    assert settings.mode == "chain"
    assert settings.keys == {"chat.tree": ("f2", "ctrl+g")}
