"""What is packed for the database is unpacked as it was."""

import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.state.answer import Answer
from app.store.database import DamagedError
from app.store.packing import (
    CUT_OFF,
    digest_of,
    pack_digest,
    pack_events,
    unpack_digest,
    unpack_events,
    without_steps,
)
from sequoia_core.events import (
    AnswerStart,
    Event,
    Failed,
    Finished,
    Notice,
    NoticeKind,
    Piece,
    Step,
    TextDelta,
)
from sequoia_core.files import encode
from tests.fakes import make_answer

ODD = "\x1b[31m\u2028\ud800 \x00 ✔"


def events_of(text: str) -> tuple[Event, ...]:
    return (Notice(NoticeKind.WAITING, ODD), *make_answer(text))


@settings(deadline=None, max_examples=25)
@given(text=st.text(alphabet=st.characters(), min_size=1, max_size=80))
def test_events_and_digests_are_unpacked_as_they_were(text: str) -> None:
    events = events_of(text)
    assert tuple(unpack_events(pack_events(events))) == events
    digest = digest_of(events)
    assert unpack_digest(pack_digest(digest)) == digest
    assert digest.text == text


def test_all_but_the_steps_is_kept_as_it_was() -> None:
    events = events_of('{"event":"Step"}')
    kept = [event for event in events if not isinstance(event, Step)]
    assert list(unpack_events(without_steps(pack_events(events)))) == kept
    steps = [event for event in events if isinstance(event, Step)]
    assert without_steps(pack_events(steps)) == b""


def test_events_in_a_digest_have_no_names_and_are_read_with_them_too() -> None:
    digest = digest_of(make_answer())
    assert b'"event"' not in zlib.decompress(pack_digest(digest))
    assert unpack_digest(zlib.compress(json.dumps(encode(digest)).encode())) == digest


def test_what_is_special_about_an_answer_is_kept_where_there_is_any() -> None:
    start = AnswerStart({"mode": "ar", "stop": ODD}, ODD, (1, 2), edited=True)
    events = (start, *make_answer("on"))
    assert tuple(unpack_events(pack_events(events))) == events
    whole, cut = digest_of(events), digest_of(events[:1])
    for digest, text in ((whole, f"{ODD}on"), (cut, ODD)):
        again = unpack_digest(pack_digest(digest))
        assert again == digest
        answer = again.answer("why?")
        assert (again.text, answer.verbatim, answer.start) == (text, text, start)
        assert answer.known_ids[:2] == (1, 2)
    assert cut.ending == "cut off"
    usual = json.loads(zlib.decompress(pack_digest(digest_of(make_answer()))))
    assert "start" not in usual  # versions without it refuse it


def test_steps_of_another_version_are_read_by_the_names_of_their_fields() -> None:
    (step,) = [event for event in make_answer("one") if isinstance(event, Step)]
    line = json.loads(zlib.decompress(pack_events([step])))
    order = sorted(range(len(line["node_names"])), key=lambda at: line["node_names"][at])
    line["node_names"] = [line["node_names"][at] for at in order]
    line["nodes"] = [[row[at] for at in order] for row in line["nodes"]]
    del line["plain_source"]
    with pytest.raises(DamagedError, match="plain_source"):
        list(unpack_events(zlib.compress(json.dumps(line).encode())))
    line["plain_source"] = step.plain_source
    (again,) = unpack_events(zlib.compress(json.dumps(line).encode()))
    assert again == step


def test_a_digest_is_the_answer_without_its_steps() -> None:
    answer = Answer("why?")
    for event in (*make_answer(),):
        answer.add(event)
    answer.forget_steps()
    again = digest_of(make_answer()).answer("why?")
    assert again.text == answer.text
    assert again.verbatim == answer.verbatim
    assert list(again.token_ids) == list(answer.token_ids)
    assert [span.rank for span in again.spans] == [span.rank for span in answer.spans]
    assert again.trees == answer.trees
    assert again.statistics == answer.statistics
    assert again.finished == answer.finished
    assert again.footer() == answer.footer()
    assert again.done


def test_an_answer_that_does_not_end_was_cut_off() -> None:
    events = make_answer()[:9]
    digest = digest_of(events)
    assert digest.ending == "cut off"
    assert digest.answer("why?").failure == CUT_OFF
    assert digest.answer("why?").done
    assert digest_of([*events, Failed("no memory")]).ending == "failed"
    assert digest_of(make_answer()).ending == "stop"


@pytest.mark.parametrize(
    "blob",
    [b"", b"nonsense", zlib.compress(b"[]"), zlib.compress(b'{"event":"Nonsense"}'),
     zlib.compress(b'{"event":"Finished"}'), zlib.compress(b"\xff"), None,
     zlib.compress(b'{"event":"Step","node_names":["a"],"nodes":[[1,2]]}'),
     *(zlib.compress(text.encode()) for text in
       ("[" * 100_000, '{"event": "Step"}', '{"event": []}', "9" * 5000, "null", ""))],
)  # fmt: skip
def test_what_is_damaged_is_told_so(blob: bytes) -> None:
    with pytest.raises(DamagedError):
        list(unpack_events(blob))
    with pytest.raises(DamagedError):
        unpack_digest(blob)


def test_text_that_is_all_pieces_survives() -> None:
    delta = TextDelta(1, ODD, (Piece(ODD, 2),))
    (again,) = unpack_events(pack_events([delta]))
    assert again == delta
    assert isinstance(digest_of([delta, *make_answer()[-1:]]).finished, Finished)
