"""Chats from files: what they say is taken over whole, or refused in one line."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from app.config.settings import Settings
from app.screens.chat.export import as_json, export_chat
from app.state.answer import Answer
from app.state.chat_import import read_chat
from app.state.chat_session import ChatSession
from app.state.history import Exchange
from sequoia_core.errors import SequoiaError
from sequoia_core.events import (
    AnswerStart,
    Event,
    Failed,
    Finished,
    FinishReason,
    Piece,
    Step,
    TextDelta,
    Totals,
)
from sequoia_core.recording.trace_file import Asked, write_event, write_header
from tests.fakes import ANSWER, PAIR, make_answer

NOW = 1_700_000_000.0


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def test_an_exported_chat_comes_back_with_its_branches(tmp_path: Path) -> None:
    chat = ChatSession(Settings(system="Be brief."), PAIR)
    exchanges: list[Exchange] = []
    for text in ("One.", "Two.", "Three."):
        answer = Answer("Why?")
        for event in make_answer(text):
            answer.add(event)
        path = exchanges[:1] if exchanges else ()
        exchanges.append(chat.history.begin(f"About {text}", answer, NOW, path))
    chat.history.select(exchanges[1])
    file = tmp_path / "chat.json"
    file.write_text(as_json(chat, NOW), encoding="utf-8")
    found = read_chat(file, 0.0)
    assert (found.system, found.target) == ("Be brief.", PAIR.target)
    known = list(found.history.exchanges.values())
    assert [(each.prompt, each.answer.text) for each in known] == [
        ("About One.", "One."), ("About Two.", "Two."), ("About Three.", "Three."),
    ]  # fmt: skip
    assert [each.parent for each in known] == [None, known[0].id, known[0].id]
    assert not {each.id for each in exchanges} & set(found.history.exchanges)
    assert list(found.history.branch) == known[:2]
    finished = known[0].answer.finished
    assert finished is not None
    assert (finished.reason, known[0].started) == (FinishReason.STOP, NOW)


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_every_kind_of_answer_comes_back(tmp_path: Path, ending: str) -> None:
    imported = TextDelta(0, "of another\x07 program", (Piece("of another\x07 program", 0),))
    stop = Finished(FinishReason.STOP, Totals())
    edited = AnswerStart(text="by hand", edited=True)
    kinds: dict[str, tuple[Event, ...]] = {
        "with settings": (AnswerStart(settings={"temperature": "0.9"}), *make_answer("warm")),
        "edited": (edited, stop),
        "edited and continued": (edited, *make_answer(" and by model")),
        "cut and continued": (AnswerStart(text="One", token_ids=(7,)), *make_answer(" two")),
        "stopped": make_answer("too lo", reason=FinishReason.CANCELLED),
        "failed": (*make_answer("until")[:-1], Failed("memory is full")),
        "failed at once": (Failed("no model is loaded"),),
        "imported": (imported, stop),
    }
    chat = ChatSession(Settings(), PAIR)
    for prompt, events in kinds.items():
        exchange = chat.begin(prompt, chat.history.branch)
        for event in events:
            exchange.answer.add(event)
    file = tmp_path / f"chat{ending}"
    asyncio.run(export_chat(file, chat, lambda _: ()))
    found = read_chat(file, 0.0)

    def said(chat: ChatSession) -> list[Any]:
        answers = [each.answer for each in chat.history.branch]
        starts = [each.start or AnswerStart() for each in answers]
        ends = [each.finished.reason if each.finished else each.failure for each in answers]
        return [
            (start.text, start.edited, start.settings, answer.verbatim, end)
            for start, answer, end in zip(starts, answers, ends, strict=True)
        ]

    again = ChatSession(Settings(), PAIR, history=found.history)
    assert said(again) == said(chat)
    assert [each.prompt for each in found.history.branch] == list(kinds)


@pytest.mark.parametrize("started", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z"])
def test_a_date_beyond_the_calendar_is_refused(tmp_path: Path, started: str) -> None:
    chat = ChatSession(Settings(), PAIR)
    chat.begin("Why?", ())
    exported = json.loads(as_json(chat, NOW))
    exported["exchanges"][0]["started"] = started
    trace = tmp_path / "chat.jsonl"
    with trace.open("w", encoding="utf-8") as to:
        write_header(to, PAIR)
        write_event(to, Asked("Why?", "a", started=1e300))
    for file in (written(tmp_path / "chat.json", exported), trace):
        with pytest.raises(SequoiaError, match="date is out of range"):
            read_chat(file, NOW)


def test_the_settings_that_a_file_names_reach_no_terminal_as_escapes() -> None:
    answer = Answer("Why?", AnswerStart(settings={"stop": "a\x1b[31m\n\nb"}))
    assert answer.footer() == "stop a␛[31m b"


def test_a_recording_comes_back_with_its_trees(tmp_path: Path) -> None:
    events, file = make_answer(), tmp_path / "chat.jsonl"
    with file.open("w", encoding="utf-8") as to:
        write_header(to, PAIR)
        for entry in (
            Asked("Why?", "a", started=NOW),
            *events,
            Asked("So?", "b", "a"),
            *events[:9],
        ):
            write_event(to, entry)
    found = read_chat(file, NOW + 1)
    first, second = found.history.branch
    assert (first.answer.text, second.parent) == (ANSWER, first.id)
    assert [each for each in found.events[first.id] if isinstance(each, Step)] == [
        each for each in events if isinstance(each, Step)
    ]
    assert "cut off" in (second.answer.failure or "")


@pytest.mark.parametrize("wrapped", [False, True])
def test_messages_of_another_program_are_a_chat(tmp_path: Path, wrapped: bool) -> None:
    messages = [
        message("developer", "Be kind."),
        message("user", "Hi"),
        message("user", [{"type": "text", "text": "Why?"}]),
        message("assistant", "So.", refusal=None, annotations=[]),
        message("user", "And then?"),
    ]
    file = written(tmp_path / "chat.json", {"messages": messages} if wrapped else messages)
    found = read_chat(file, NOW)
    (only,) = found.history.branch
    assert (only.prompt, only.answer.text, only.answer.verbatim) == ("Hi\n\nWhy?", "So.", "So.")
    assert (found.system, found.unanswered) == ("Be kind.", "And then?")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": 1}, "no chat"),
        ([message("tool", "42")], "message 1 is by 'tool'"),
        ([message("user", [{"type": "image_url"}])], "message 1 has 'image_url'"),
        ([message("user", "a"), message("assistant", None, tool_calls=[1])], "'tool_calls'"),
        ([message("assistant", "Hello")], "first message is not a user's"),
        ([message("user", "a"), message("system", "b")], "in the middle"),
        (["text"], "message 1 is not an object"),
        ({"format": "other", "version": 1}, "missing required field"),
        (
            {
                "format": "sequoia-chat", "version": 2, "exported": "", "pair": None, "branch": [],
                "exchanges": [],
            },
            "version 2",
        ),
    ],
)  # fmt: skip
def test_what_a_chat_cannot_keep_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    file = written(tmp_path / "chat.json", content)
    with pytest.raises(SequoiaError, match="cannot be imported") as caught:
        read_chat(file, NOW)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_chat_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "x.json"
    binary.write_bytes(b"\x00\xff")
    for file in (tmp_path / "none.json", tmp_path, binary, written(tmp_path / "t.jsonl", {})):
        with pytest.raises(SequoiaError, match=str(file)):
            read_chat(file, NOW)
