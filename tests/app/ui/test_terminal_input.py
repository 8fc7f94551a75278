"""What terminals send becomes keys, pastes and reports, or nothing: never text of its own."""

import math
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from textual import events
from textual.message import Message

from app.ui.terminal_input import KEY_SECONDS, PASTE_SECONDS, SEQUENCE_SECONDS, TerminalInput

START, END = b"\x1b[200~", b"\x1b[201~"
CTRL_Q = b"\x11"


class Line:
    """A terminal that sends bytes and is silent now and then."""

    def __init__(self) -> None:
        self._now = 0.0
        self.input = TerminalInput(lambda: self._now)
        self.messages: list[Message] = []

    def send(self, *parts: bytes | float) -> "Line":
        for part in parts:
            if isinstance(part, bytes):
                self.messages += self.input.feed(part)
            else:
                for _ in range(math.ceil(part / 0.1)):
                    self._now = round(self._now + 0.1, 6)
                    self.messages += self.input.tick()
        return self

    @property
    def received(self) -> list[str]:
        """What came, in short."""
        return [_short(message) for message in self.messages]

    @property
    def typed(self) -> str:
        """What a text area would hold."""
        keys = (each for each in self.messages if isinstance(each, events.Key))
        return "".join(key.character or "" for key in keys if key.is_printable)


def _short(message: Message) -> str:
    if isinstance(message, events.Key):
        return message.key
    if isinstance(message, events.Paste):
        return f"paste {message.text!r}"
    if isinstance(message, events.MouseEvent):
        return f"{type(message).__name__} {message.x:g},{message.y:g}"
    if isinstance(message, events.Resize):
        return f"Resize {message.size.width}x{message.size.height}"
    return type(message).__name__


def sent(*parts: bytes | float) -> list[str]:
    return Line().send(*parts).received


# Bytes


@pytest.mark.parametrize(
    ("parts", "typed"),
    [
        ((b"caf\xe9 hi",), "caf� hi"),
        ((b"caf\xe9", SEQUENCE_SECONDS), "caf�"),
        ((b"\xff\xfe\x80",), "���"),
        ((b"\xe4\xbd", b"\xa0"), "你"),
        ((b"\xf0", 0.3, b"\x9f\x98", 0.3, b"\x80"), "😀"),
        ((b"\xf0\x9f\x98", b"a"), "�a"),
        ((b"\xed\xa0\x80",), "���"),
    ],
)
def test_bytes_that_are_no_utf8_read_as_replacement_characters(
    parts: tuple[bytes | float, ...], typed: str
) -> None:
    assert Line().send(*parts).typed == typed


def test_a_character_that_the_end_cuts_off_is_not_lost() -> None:
    line = Line().send(b"a\xe4\xbd")
    assert [_short(message) for message in line.input.close()] == ["replacement_character"]


# Keys


@pytest.mark.parametrize(
    ("report", "keys"),
    [
        (b"\x1b[97;1:1u", ["a"]),
        (b"\x1b[97;1:2u", ["a"]),
        (b"\x1b[97;1:3u", []),
        (b"\x1b[97;;97u", ["a"]),
        (b"\x1b[97:65;2;65u", ["A"]),
        (b"\x1b[97:65;2:1u", ["A"]),
        (b"\x1b[97;2u", ["A"]),
        (b"\x1b[1089::99;5u", ["ctrl+с"]),
        (b"\x1b[48;5u", ["ctrl+0"]),
        (b"\x1b[113;5:1u", ["ctrl+q"]),
        (b"\x1b[113;69u", ["ctrl+q"]),  # caps lock
        (b"\x1b[0;;104:105u", ["h", "i"]),
        (b"\x1b[0;;" + b":".join([b"128512"] * 20) + b"u", ["grinning_face"] * 20),
        (b"\x1b[13u", ["enter"]),
        (b"\x1b[13;2u", ["shift+enter"]),
        (b"\x1b[27;2;13~", ["shift+enter"]),
        (b"\x1b[1;1:1A", ["up"]),
        (b"\x1b[1;5:2C", ["ctrl+right"]),
        (b"\x1b[1;1:3A", []),
        (b"\x1b[3;1:1~", ["delete"]),
        (b"\x1b[1;2R", ["shift+f3"]),
        (b"\x1b[A\x1bOP\x1b[Z\x1b[[A", ["up", "f1", "shift+tab", "f1"]),
        (b"\x1b[57441;2:3u", []),
        (b"\x1ba", ["alt+a"]),
        (b"\x1b1\x1b4", ["alt+1", "alt+4"]),
    ],
)
def test_a_report_of_a_key_is_that_key(report: bytes, keys: list[str]) -> None:
    assert sent(report) == keys
    singly = [report[at : at + 1] for at in range(len(report))]
    assert sent(*singly) == keys


@pytest.mark.parametrize(
    "report",
    [
        b"\x1b[<32;NaN;NaNM",
        b"\x1b[<0;nan;-nan(ind)m",
        b"\x1b[<0;-5;3M",
        b"\x1b[<0;1e5;3M",
        b"\x1b[<99999999999;" + b"9" * 5000 + b";1M",
        b"\x1b[<;;M",
        b"\x1b[M\x20\xff\xff",
        b"\x1b[48;NaN;Infinity;0;0t",
        b"\x1b[48;0;0;0;0t",
        b"\x1b[48;99999;99999;1;1t",
        b"\x1b[48;-1;5;0;0t",
        b"\x1b[48;1t",
        b"\x1b[99~",
        b"\x1b[35~",
        b"\x1b[99;1A",
        b"\x1b[1114112u",
        b"\x1b[55296;;55296u",
        b"\x1b[0;;27u",
        b"\x1b[" + b"9" * 6000 + b"u",
        b"\x1b[97;1:7u",
        b"\x1b[97;1;97;97;97u",
        b"\x1b[;u",
        b"\x1b[?62;c",
        b"\x1b[>0;276;0c",
        b"\x1b[0n",
        b"\x1b[?997;1n",
        b"\x1b[?1u",
        b"\x1b[8;24;80t",
        b"\x1b]11;rgb:0000/0000/0000\x1b\\",
        b"\x1b]52;c;YWJj\x07",
        b"\x1bP>|kitty(0.35)\x1b\\",
        b"\x1bP1$r0m\x1b\\",
        b"\x1b_Gi=1;OK\x1b\\",
        b"\x1b^private\x1b\\",
        b"\x1bXstring\x1b\\",
        b"\x1bOz",
    ],
)
def test_a_report_that_means_no_key_is_nothing_however_it_is_split(report: bytes) -> None:
    for at in range(1, len(report) + 1)[:40]:
        assert sent(report[:at], report[at:], SEQUENCE_SECONDS, b"x") == ["x"]


@pytest.mark.parametrize("begun", [b"\x1b[", b"\x1b[<32;", b"\x1b[97;", b"\x1bO", b"\x1b]11;rgb"])
def test_a_report_that_stops_short_is_given_up_and_keys_go_on(begun: bytes) -> None:
    assert sent(begun, SEQUENCE_SECONDS + 0.1, CTRL_Q) == ["ctrl+q"]
    assert sent(begun, CTRL_Q) == ["ctrl+q"]


def test_escape_alone_is_the_key_after_a_moment() -> None:
    assert sent(b"\x1b") == []
    assert sent(b"\x1b", 0.2) == ["escape"]
    assert sent(b"\x1b\x1b", 0.2) == ["escape", "escape"]
    assert sent(b"\x1b", b"[A") == ["up"]


def test_mouse_and_size_are_reported() -> None:
    assert sent(b"\x1b[<0;5;7M", b"\x1b[<35;6;7M") == ["MouseDown 4,6", "MouseMove 5,6"]
    assert sent(b"\x1b[48;30;100;0;0t", b"\x1b[<0;5;7M") == ["Resize 100x30", "MouseDown 4,6"]
    assert sent(b"\x1b[48;30;100;600;1000t", b"\x1b[<0;51;41M") == [
        "Resize 100x30",
        "MouseDown 5,2",
    ]
    assert sent(b"\x1b[I\x1b[O") == ["AppFocus", "AppBlur"]
    assert sent(b"\x1b[?2026;2$y") == ["TerminalSupportsSynchronizedOutput"]


# Pastes


@pytest.mark.parametrize("at", range(1, len(START + b"ab" + END)))
@pytest.mark.parametrize("silence", [0.0, 0.2, 0.6])
def test_a_paste_is_whole_however_it_is_split(at: int, silence: float) -> None:
    paste = START + b"ab" + END
    received = sent(paste[:at], silence, paste[at:], CTRL_Q)
    if at == 1 and silence:
        assert received.pop(0) == "escape"  # a byte that stood alone for so long
    assert received == ["paste 'ab'", "ctrl+q"]


@pytest.mark.parametrize(
    ("parts", "received"),
    [
        ((b"ab", PASTE_SECONDS), ["paste 'ab'"]),
        ((b"ab", PASTE_SECONDS, CTRL_Q), ["paste 'ab'", "ctrl+q"]),
        ((b"ab", KEY_SECONDS + 0.1, CTRL_Q), ["paste 'ab'", "ctrl+q"]),
        ((b"ab", KEY_SECONDS + 0.1, b"\x1b[113;5u"), ["paste 'ab'", "ctrl+q"]),
        ((b"ab\x1b[20", PASTE_SECONDS + 0.1, CTRL_Q), ["paste 'ab'", "ctrl+q"]),
        ((b"ab", PASTE_SECONDS, b"c", b"d"), ["paste 'ab'", "c", "d"]),
    ],
)
def test_a_paste_without_an_end_swallows_no_key(
    parts: tuple[bytes | float, ...], received: list[str]
) -> None:
    assert sent(START, *parts) == received


def test_what_a_slow_line_brings_late_of_a_paste_is_not_read_as_keys_that_send() -> None:
    received = sent(START + b"one\r", 3.0, b"two\rthree\r" + END, b"x")
    assert received == ["paste 'one\\n'", "paste 'two\\nthree\\n'", "x"]


def test_what_a_paste_holds_is_its_text_made_visible_without_nul_and_its_own_marks() -> None:
    inside = b"a\x00b\x1b[31mc\x1b[Ad\x1b]0;t\x07" + START + b"e\xff"
    assert sent(START + inside + END, b"f") == [
        "paste 'ab␛[31mc␛[Ad␛]0;t␇e�'",
        "f",
    ]
    assert sent(END, START + END, b"f") == ["f"]


def test_a_long_text_at_once_is_a_paste_although_it_is_not_marked() -> None:
    line = "x" * 99 + "\r"
    pasted = sent(line.encode() * 4)
    assert pasted == [f"paste {(line * 4)[:-1].replace(chr(13), chr(10))!r}", "enter"]
    assert sent(line.encode() * 4 + b"a\rb\r", b"c\rd\r", b"\r")[1:] == [
        "enter", "paste 'c\\nd'", "enter", "enter",
    ]  # fmt: skip
    assert sent(line.encode() * 4, 0.3, b"ab\r")[2:] == ["a", "b", "enter"]
    assert sent(b"ab\rc\r") == ["a", "b", "enter", "c", "enter"]


def test_a_paste_of_megabytes_comes_in_one_piece() -> None:
    text = b"0123456789abcde\n" * 250_000
    line = Line()
    line.send(START, *(text[at : at + 4096] for at in range(0, len(text), 4096)), END)
    (paste,) = line.messages
    assert isinstance(paste, events.Paste)
    assert paste.text == text.decode()


# Anything


PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([START, END, b"\x1b", b"\x1b[", b"\x1b[<", b"\x1b]", b"\x1bP", b"\x1b\\"]),
    st.text(alphabet="0123456789;:<?NaInfMmu~tR\x1b[", max_size=16).map(str.encode),
    st.sampled_from([0.1, 0.2, 0.5, 1.2]),
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12))
@example([START, b"\xc2"])
def test_nothing_that_a_terminal_sends_ends_the_input_or_swallows_it(
    pieces: list[bytes | float],
) -> None:
    line = Line().send(*pieces, SEQUENCE_SECONDS, PASTE_SECONDS)
    line.messages.clear()
    line.send(CTRL_Q)
    assert line.received[-1] == "ctrl+q"


@settings(deadline=None)
@given(st.lists(PIECES.filter(lambda piece: isinstance(piece, bytes)), max_size=6), st.data())
def test_how_bytes_are_split_makes_no_difference(pieces: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(pieces)
    cuts = data.draw(st.sets(st.integers(0, len(whole)), max_size=8))
    ends = sorted({0, len(whole), *cuts})
    parts = [whole[start:end] for start, end in pairwise(ends)]
    assert sent(*parts, 2.0) == sent(whole, 2.0)
