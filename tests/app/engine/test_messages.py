"""What is said over the connection arrives as it was said, in order, however it was cut."""

import io
import json
import socket
from collections.abc import Sequence
from contextlib import closing
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.messages import (
    Ask,
    ChooseTree,
    ContinueAnswer,
    Link,
    Restore,
    ToEngine,
    ToWindow,
    WireError,
    from_line,
    to_line,
)
from sequoia_core.chat.race import Race, Raced, RaceSide, RaceTerms
from sequoia_core.config import SamplingParams
from sequoia_core.events import Event
from sequoia_core.recording.trace_file import write_event
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.recording.test_trace import events as entries

KINDS = (*get_args(ToEngine), *get_args(ToWindow))
events = entries.filter(lambda entry: isinstance(entry, Event))
texts = st.text(st.characters(), max_size=12)
params = st.builds(
    SamplingParams,
    temperature=st.just(0.0) | st.floats(0.01, 100.0),
    top_p=st.floats(0.01, 1.0),
    top_k=st.integers(0, 9),
    seed=st.none() | st.integers(0, 2**63 - 1),
    max_new_tokens=st.integers(1, 9),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=2).map(tuple),
)
growmaps = st.lists(st.integers(0, 9), max_size=9).map(
    lambda raw: GrowMap((-1, *(parent % (at + 1) for at, parent in enumerate(raw))), "any", (0.5,))
)
choices = st.builds(TreeChoice, growmap=st.none() | growmaps)
sides = st.builds(RaceSide, texts, st.none() | choices)
turns = st.builds(Turn, texts, texts, st.lists(st.integers(0, 99), max_size=3).map(tuple))
special = {
    Ask: st.builds(Ask, texts, params),
    ContinueAnswer: st.builds(ContinueAnswer, turns, params),
    ChooseTree: st.builds(ChooseTree, choices),
    Restore: st.builds(Restore, st.lists(turns, max_size=3).map(tuple)),
}
raced = st.builds(Raced, event=events)
messages = st.one_of(
    events,
    st.builds(Race, st.tuples(sides, sides), st.lists(turns, max_size=3).map(tuple), texts, params),
    raced,
    st.builds(RaceTerms),
    *(
        special.get(kind, st.builds(kind))
        for kind in KINDS
        if kind.__module__.startswith("app.engine")
    ),
)


@given(message=messages)
def test_a_message_is_read_as_it_was_written(message: Any) -> None:
    line = to_line(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    # by repr, since a number may be nan
    assert repr(from_line(line)) == repr(message)


@given(event=events)
def test_the_line_of_an_event_is_that_of_a_trace(event: Event) -> None:
    file = io.StringIO()
    write_event(file, event)
    assert repr(json.loads(to_line(event))) == repr(json.loads(file.getvalue()))


@given(said=st.lists(messages, max_size=5), cuts=st.lists(st.integers(1, 400), max_size=20))
def test_cuts_of_the_stream_change_nothing(said: Sequence[Any], cuts: Sequence[int]) -> None:
    stream = b"".join(to_line(message) for message in said)
    here, there = socket.socketpair()
    heard: list[Any] = []
    with closing(Link(there)) as link, here:
        for size in (*cuts, len(stream)):
            here.sendall(stream[:size])
            stream = stream[size:]
            heard += link.receive()
        assert repr(heard) == repr(list(said))
        here.close()
        with pytest.raises(WireError, match="gone"):
            link.receive()


def test_a_reader_that_is_slow_makes_nobody_wait() -> None:
    here, there = socket.socketpair()
    sender, reader = Link(here), Link(there)
    said = [Ask("x" * 100_000, SamplingParams(seed=index)) for index in range(20)]
    sender.send(*said)
    assert sender.unsent
    heard: list[Any] = []
    while len(heard) < len(said):
        heard += reader.receive()
        sender.flush()
    assert heard == said
    assert not sender.unsent
    sender.close()
    reader.close()


@pytest.mark.parametrize(
    "line",
    [b"", b"hello", b"[1]", b"{}", b'{"event":"Nonsense"}', b'{"event":[]}', b'{"event":"Ask"}',
     b'{"event":"Go","more":1}', b"\xff\xfe",
     b'{"event":"Raced","lane":"first","raced":{"event":"Go"},"seconds":1.0}',
     b'{"event":"Raced","lane":"third","raced":{"event":"Failed","message":""},"seconds":1.0}'],
)  # fmt: skip
def test_what_is_no_message_is_one_error(line: bytes) -> None:
    with pytest.raises(WireError, match="not a message"):
        from_line(line)


@pytest.mark.parametrize(
    "message",
    [
        {"event": "ChooseTree", "choice": {"growmap": {"parents": [-1]}, "adaptive": True}},
        {"event": "Ask", "prompt": "a", "params": {"temperature": -1.0}},
    ],
)
def test_a_message_of_values_out_of_range_is_one_error(message: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="not a message"):
        from_line(json.dumps(message).encode())
