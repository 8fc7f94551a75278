"""Records, arguments and settings of others: odd ones are one line and cost little."""

import json
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from app import cli
from app.commands.ask import read_prompt
from app.config.load import SettingsError, load_settings
from app.config.presets import find_preset
from app.state.race_result import recorded_note
from app.state.timeline import Timeline
from app.store.archive import Archive
from app.store.database import DamagedError, StoreError
from app.store.packing import (
    Digest,
    pack_digest,
    pack_events,
    unpack_digest,
    unpack_events,
    unpack_steps,
)
from app.store.text_search import terms
from sequoia_core.errors import ParameterError
from sequoia_core.events import Event, Piece, Step, TextDelta
from tests.app.records import record_chats, steps_in
from tests.fakes import make_answer

STEP = next(event for event in make_answer() if isinstance(event, Step))


# Blobs


def test_a_blob_is_unpacked_up_to_a_bound() -> None:
    bomb = zlib.compress(bytes(70_000_000))
    assert len(bomb) < 100_000
    readers: list[Callable[[bytes], object]] = [
        lambda blob: list(unpack_steps([(1, blob)])),
        unpack_digest,
        lambda blob: list(unpack_events(blob)),
    ]
    for read in readers:
        with pytest.raises(DamagedError, match="more than 64,000,000 bytes"):
            read(bomb)


@pytest.mark.parametrize(
    ("column", "value"), [(0, "a"), (1, 7), (2, 9), (3, 1 << 31), (4, -1), (5, "a"), (7, "odd")]
)
def test_a_node_of_a_blob_is_what_a_node_is(column: int, value: object) -> None:
    record = json.loads(zlib.decompress(pack_events([STEP])))
    assert list(unpack_events(zlib.compress(json.dumps(record).encode()))) == [STEP]
    record["nodes"][1][column] = value
    with pytest.raises(DamagedError, match="an event in the record is damaged"):
        list(unpack_events(zlib.compress(json.dumps(record).encode())))


@pytest.mark.parametrize(
    "digest",
    [
        Digest(token_ids=[1 << 64]),
        Digest(token_ids=[-1]),
        Digest([TextDelta(10**15, "a", ())]),
        Digest([TextDelta(1, "a", (Piece("a", -1),))]),
    ],
)
def test_numbers_of_a_digest_are_in_range(digest: Digest) -> None:
    with pytest.raises(DamagedError):
        unpack_digest(pack_digest(digest))


def test_steps_that_are_counted_but_not_there_are_damaged() -> None:
    assert list(unpack_steps([(1, pack_events([STEP]))])) == [STEP]
    with pytest.raises(DamagedError, match="missing"):
        list(unpack_steps([(3, pack_events([STEP]))]))


@pytest.mark.parametrize("kept", ["[" * 100_000, "9" * 5000, "{}", "null"])
def test_an_odd_race_of_the_record_says_nothing(kept: str) -> None:
    assert recorded_note(kept) == ""


# The database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sessions.db"
    record_chats(path, ("Why is the sky blue\ud800?", "Rayleigh scattering."))
    return path


def found(path: Path, query: str) -> int:
    return len(Archive(path).search(terms(query), 20))


@pytest.mark.parametrize(
    ("query", "hits"),
    [
        ("sky \ud800", 1), ("\udce9", 1), ("sky\0blue", 0), ("\0", 0), ('sky AND (* ^ " : {}', 0),
        ('"""', 0), ("天" * 3000, 0), ("sky " * 30_000, 1), ("-> " * 30_000, 0), ("%", 0),
    ],
)  # fmt: skip
def test_whatever_is_searched_for_the_record_is_not_damaged(
    path: Path, query: str, hits: int
) -> None:
    assert found(path, query) == hits


@pytest.mark.parametrize(
    "query", [" ".join(f"w{at}" for at in range(300)), "a" * 20_000, '"' + "a " * 20_000 + '"']
)
def test_a_search_without_end_is_one_line(path: Path, query: str) -> None:
    with pytest.raises(StoreError, match=r"the search has more than .*; give fewer"):
        found(path, query)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("session", "name", b"\xff"), ("session", "title", b"\xff"), ("session", "created", "odd"),
        ("session", "changed", 1e300), ("session", "target", b""), ("session", "system", b"\xff"),
        ("exchange", "started", float("inf")), ("exchange", "prompt", b"\xff"),
        ("exchange", "answer", b"\xff"), ("exchange", "digest", 7), ("exchange", "ending", b"x"),
        ("exchange", "parent", b"x"), ("chunk", "steps", 2.5), ("chunk", "steps", 1 << 60),
        ("chunk", "steps", b"x"), ("chunk", "number", "x"),
    ],
)  # fmt: skip
def test_a_column_that_holds_something_else_is_read(
    path: Path, table: str, column: str, value: object
) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
    archive = Archive(path)
    (info,) = archive.sessions()
    stored = archive.load(info.id)
    (exchange,) = stored.history.exchanges.values()
    for text in (info.label, info.title, stored.target, exchange.prompt, exchange.answer.text):
        assert isinstance(text, str)
    assert 0 <= info.changed < 1e12
    assert 0 <= exchange.started < 1e12
    with suppress(StoreError):
        assert len(steps_in(archive, exchange.id)) < 100


# Recordings


@pytest.mark.parametrize("ms", [float("nan"), float("inf"), float("-inf"), -1e300, 1e300])
def test_a_step_of_no_length_takes_no_time(ms: float) -> None:
    line = Timeline()
    events: list[Event] = [
        replace(event, timings=replace(event.timings, verify_ms=ms))
        if isinstance(event, Step) else event
        for event in make_answer()
    ]  # fmt: skip
    for event in events:
        line.add(event)
    assert 0.0 <= line.seconds < 60.0


# Arguments, variables, settings


class Piped:
    """Standard input of a pipe."""

    def __init__(self, data: bytes) -> None:
        self.buffer = self
        self._data = data

    def isatty(self) -> bool:
        return False

    def read(self) -> bytes:
        return self._data


def test_a_prompt_that_is_no_text_is_one_line() -> None:
    for words, data in (["caf\udce9"], b""), (["a"], b"caf\xe9"):
        with pytest.raises(ParameterError, match="UTF-8"):
            read_prompt(words, Piped(data))  # type: ignore[arg-type]


def test_a_pipe_may_begin_with_a_byte_order_mark() -> None:
    assert read_prompt([], Piped(b"\xef\xbb\xbfWhy?\xe2\x80\xa8")) == "Why?"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["system", "theme", "stop"])
def test_bytes_that_are_no_text_are_refused_where_text_is_wanted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ParameterError, match=f"--{name}: a byte in it is not UTF-8"):
        load_settings({name: "caf\udce9"})
    monkeypatch.setenv(f"SEQUOIA_{name.upper()}", "caf\udce9")
    with pytest.raises(SettingsError, match=f"SEQUOIA_{name.upper()}: a byte in it is not UTF-8"):
        load_settings({})


def test_a_number_that_is_none_is_refused(config_home: Path) -> None:
    config_home.mkdir(parents=True, exist_ok=True)
    (config_home / "config.toml").write_bytes(b"temperature = nan")
    with pytest.raises(ParameterError, match="temperature is nan"):
        load_settings({})


def test_a_configuration_may_begin_with_a_byte_order_mark(config_home: Path) -> None:
    config_home.mkdir(parents=True, exist_ok=True)
    (config_home / "config.toml").write_bytes(b"\xef\xbb\xbftemperature = 0.25\n")
    assert load_settings({}).temperature == 0.25


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The flags that commands are given; they do nothing with them."""
    seen: list[dict[str, object]] = []

    def remember(flags: dict[str, object]) -> None:
        seen.append(dict(flags))
        raise ParameterError("seen")

    monkeypatch.setattr("app.config.load.load_settings", remember)
    return seen


def test_a_system_prompt_comes_from_a_file(tmp_path: Path, shown: list[dict[str, object]]) -> None:
    path = tmp_path / "system.txt"
    path.write_bytes(b"\xef\xbb\xbfBe brief.\nAlways.\n")
    CliRunner().invoke(cli.app, ["ask", "--system-file", str(path), "Why?"])
    assert shown == [{"system": "Be brief.\nAlways."}]


def test_a_system_prompt_comes_from_a_preset(shown: list[dict[str, object]]) -> None:
    CliRunner().invoke(cli.app, ["ask", "--preset", "concise", "Why?"])
    assert shown == [{"system": find_preset("concise")}]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--system-file", "/no/such"], "No such file"),
        (["--system-file", "/dev/zero"], "more than 10,000,000 bytes"),
        (["--system", "a", "--system-file", "/dev/null"], "both --system and --system-file"),
        (["--system", "a", "--preset", "concise"], "both --system and --preset"),
        (["--preset", "concse"], "did you mean concise?"),
    ],
)
def test_a_system_prompt_that_cannot_be_read_is_one_line(
    arguments: list[str], complaint: str
) -> None:
    result = CliRunner().invoke(cli.app, ["ask", *arguments, "Why?"])
    assert result.exit_code == 2
    assert complaint in result.output


def test_a_tree_that_no_screen_holds_is_not_drawn(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text(json.dumps({"parents": [-1, *range(65_535)]}))
    result = CliRunner().invoke(cli.app, ["growmap", "show", "--all", str(path)])
    assert result.exit_code == 0
    assert "(too large to draw: 65536 nodes)" in result.output
    assert len(result.output) < 2000
