"""Splits what a terminal sends into keys, pastes and reports before Textual interprets them."""

import re
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Generator, Iterable, Iterator

from textual import constants, events
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._keyboard_protocol import FUNCTIONAL_KEYS
from textual._xterm_parser import XTermParser
from textual.message import Message

from ..state.sanitize import visible

SEQUENCE_SECONDS = 1.0  # to wait for the rest of an escape sequence or of a character
PASTE_SECONDS = 1.0  # silence after which a paste without an end is delivered as far as it came
KEY_SECONDS = 0.3  # after a longer silence within a paste, text that reads like one key is a key

_MOST_TYPED = 256  # characters at once; more are a paste without marks, no newline in it sends
_BURST_SECONDS = 0.1  # to wait for the rest of such a paste

_ESC = "\x1b"
_PASTE, _PASTE_END = "\x1b[200~", "\x1b[201~"
_LONGEST = 1 << 20  # characters of an escape sequence
_LONGEST_SIDE = 3000  # columns or rows that a report of the size may have

_WORD = r"(?<=[;<+\-])(?:[Nn]a[Nn]|[Ii]nf(?:inity)?(?!i))"  # as programs print them
_PARAMETERS = rf"(?:[0-?.+\-]|{_WORD})*"
_CSI = (
    r"\x1b\[(?:"
    r"M[^\x1b]{3}"  # mouse report of the oldest kind
    r"|\[[^\x1b]"  # function key of the Linux console
    r"|<[^\x00-\x1f\x7fMm]*[Mm]"  # mouse report
    r"|\d+\$(?![a-z])"  # shifted key of rxvt
    rf"|(?![M\[<]){_PARAMETERS}[ -/]*(?:(?<![;+\-])[@-~]|(?<=[;+\-])[@-HJ-MO-hj-mo-~])"
    r")"
)
_SEQUENCE = re.compile(
    rf"{_CSI}"
    r"|\x1bO[ -~]"
    r"|\x1b\][^\x00-\x1f]*(?:\x07|\x1b\\)"  # replies that are strings
    r"|\x1b[PX^_][^\x00-\x1f]*\x1b\\"
    r"|\x1b(?=\x1b)"
    r"|\x1b[^\[\]OPX^_\x1b]"
)
_BEGUN = re.compile(
    r"\x1b(?:\[(?:M[^\x1b]{0,2}|\[|<[^\x00-\x1f\x7fMm]*|[0-?.+\-NaInfity]*[ -/]*)"
    r"|O|[\]PX^_][^\x00-\x1f]*(?:\x1b\Z)?)?"
)
_LATE = re.compile(r"\[(?=[<\d])")
_ONE_KEY = re.compile(rf"(?:{_CSI}|\x1bO[ -~])+|[^\r\n]|\x1b[^\x1b]")
_LOOSE_KEYS = re.compile(r"[^\r\n]{1,64}|[\r\n]")
_TEXT = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+(?<![\r\n])")
_KEY_REPORT = re.compile(r"\x1b\[([\d:;]*)([u~A-FHPQRS])")
_FOCUS_OR_MODE = re.compile(r"\x1b\[(?:[IO]|\?\d{1,5};\d\$y)")
_SIZE_REPORT = re.compile(r"\x1b\[48;(\d{1,5})(?::\d*)*;(\d{1,5})(?::\d*)*;([\d:]*);([\d:]*)t")
_MOUSE_REPORT = re.compile(r"\x1b\[<\d{1,4};-?\d{1,7};-?\d{1,7}[Mm]")

_SHIFT, _LOCKS = 1, 0b11000000
_PRESSED_OR_HELD = ("", "1", "2")  # event types of a key


class TerminalInput:
    """Reads escape sequences whole and drops unknown ones; Textual 8.2 types them, or ends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._meanings = _Meanings()
        self._held = ""
        self._since = self._heard = clock()
        self._escaped = False
        self._paste: list[str] | None = None
        self._overdue = False
        self._burst = -_BURST_SECONDS

    def feed(self, data: bytes) -> Iterator[Message]:
        """Messages of bytes from the terminal; those that are not UTF-8 read as U+FFFD."""
        now = self._clock()
        silence, self._heard = now - self._heard, now
        text = self._decoder.decode(data)
        if self._paste is not None and self._is_key(text, silence):
            yield from self._end_paste()
        if self._escaped and _LATE.match(text) and _SEQUENCE.match(_ESC + text):
            text = _ESC + text  # the rest of a sequence whose Escape was read as a key
        self._escaped = False
        yield from self._read(text, now)

    def tick(self) -> Iterator[Message]:
        """Messages after a moment without bytes: incomplete input may be given up."""
        now = self._clock()
        if self._paste is not None:
            if now - self._heard < PASTE_SECONDS:
                return
            if half := self._decoder.decode(b"", final=True):  # of a character
                yield from self._read(half, now)
            if self._paste:
                # it stays open: the rest from a slow line must not be read as keys that send
                self._overdue = True
                paste, self._paste = self._paste, []
                yield from _pasted(paste)
        elif not self._held:
            if now - self._heard >= SEQUENCE_SECONDS:
                yield from self._read(self._decoder.decode(b"", final=True), now)
        else:
            short = len(self._held) <= 2 and self._held != "\x1b["
            if now - self._since >= (constants.ESCAPE_DELAY if short else SEQUENCE_SECONDS):
                held, self._held = self._held, ""
                self._escaped = held == _ESC
                if self._escaped:
                    yield events.Key("escape", held)

    def close(self) -> Iterator[Message]:
        """Messages of incomplete input, after the terminal was closed."""
        yield from self._read(self._decoder.decode(b"", final=True), self._clock())
        yield from self._end_paste()

    def _read(self, text: str, now: float) -> Iterator[Message]:
        before = len(self._held)
        held, self._held = self._held + text, ""
        at = 0
        while at < len(held):
            if self._paste is not None:
                at = yield from self._read_paste(self._paste, held, at)
            elif held[at] != _ESC:
                end = held.find(_ESC, at)
                end = len(held) if end < 0 else end
                at = yield from self._read_burst(held[:end], at)
                for character in held[at:end]:
                    yield from self._meanings.keys(character)
                at = end
            elif found := _SEQUENCE.match(held, at):
                at = found.end()
                if found.group() == _PASTE:
                    self._paste, self._overdue = [], False
                else:
                    yield from self._meanings.sequence(found.group())
            else:
                begun = _BEGUN.match(held, at)
                assert begun is not None
                if begun.end() == len(held) and len(held) - at < _LONGEST:
                    self._since = self._since if at < before else now
                    self._held = held[at:]
                    break
                at = begun.end()  # not a sequence

    def _read_burst(self, text: str, at: int) -> Generator[Message, None, int]:
        """Read an unmarked paste, without the newline at its end, which is a key."""
        found = _TEXT.match(text, at)
        bursting = self._heard - self._burst < _BURST_SECONDS
        if found is None or len(found.group()) < (2 if bursting else _MOST_TYPED):
            return at
        self._burst = self._heard
        yield from _pasted([found.group()])
        return found.end()

    def _read_paste(self, paste: list[str], held: str, at: int) -> Generator[Message, None, int]:
        """Read a paste up to its end mark, or to what may be the start of that."""
        end = held.find(_PASTE_END, at)
        if end >= 0:
            paste.append(held[at:end])
            yield from self._end_paste()
            return end + len(_PASTE_END)
        last = held.rfind(_ESC, max(at, len(held) - len(_PASTE_END)))
        kept = last if last >= 0 and _PASTE_END.startswith(held[last:]) else len(held)
        paste.append(held[at:kept])
        self._held = held[kept:]
        return len(held)

    def _is_key(self, text: str, silence: float) -> bool:
        """Whether text within a paste was typed: the end of the paste was lost."""
        if not text or (self._held and _PASTE_END.startswith((self._held + text)[:6])):
            return False
        if self._overdue and _LOOSE_KEYS.fullmatch(text) and _PASTE_END not in text:
            return True
        return silence >= KEY_SECONDS and _ONE_KEY.fullmatch(text) is not None

    def _end_paste(self) -> Iterator[Message]:
        parts, self._paste, self._held = self._paste or [], None, ""
        return _pasted(parts)


def _pasted(parts: Iterable[str]) -> Iterator[Message]:
    text = "".join(parts).replace(_PASTE, "").replace("\x00", "")
    # Textual's one-line inputs write escape sequences to the terminal unchanged
    text = visible(text.replace("\r\n", "\n").replace("\r", "\n"))
    if text:
        yield events.Paste(text)


class _Meanings(XTermParser):
    """Textual's interpretation of whole keys and reports."""

    def sequence(self, sequence: str) -> Iterable[Message]:
        """Messages of an escape sequence; none of an unknown one."""
        if _FOCUS_OR_MODE.fullmatch(sequence):
            return self.feed(sequence)
        if _MOUSE_REPORT.fullmatch(sequence):
            message = self.parse_mouse_code(sequence)
            return [message] if message is not None else []
        if size := _SIZE_REPORT.fullmatch(sequence):
            return self._size(*(each.partition(":")[0] for each in size.groups()))
        if report := _KEY_REPORT.fullmatch(sequence):
            reports = _plain_reports(*report.groups())
            if reports is not None:
                return [key for each in reports for key in self.keys(each)]
        keys = ANSI_SEQUENCES_KEYS.get(sequence)
        if isinstance(keys, tuple):
            return [events.Key(key.value, None) for key in keys]
        # Textual takes Alt and a digit for what a Mac types by it
        with_alt = len(sequence) == 2 and (keys is None or sequence[1].isdigit())
        return self._sequence_to_key_events(sequence[1], alt=True) if with_alt else []

    def keys(self, sequence: str) -> list[events.Key]:
        """Keys of a character or a report."""
        found = self._sequence_to_key_events(sequence)
        return [key for key in found if key.key != "<ignore>"]

    def _size(self, rows: str, columns: str, height: str, width: str) -> Iterable[Message]:
        if not 0 < int(rows) <= _LONGEST_SIDE or not 0 < int(columns) <= _LONGEST_SIDE:
            return []
        # impossible numbers of pixels would make mouse reports fail later
        pixels = [each if 0 < _number(each) < 10**6 else "" for each in (height, width)]
        height, width = pixels if all(pixels) else (rows, columns)
        return self.feed(f"\x1b[48;{rows};{columns};{height};{width}t")


def _plain_reports(codes: str, end: str) -> list[str] | None:
    """A key's report without event type and alternates, one for each text, as Textual reads it.

    None are for a released key; the result is None if it is not a report of this kind.
    """
    fields = [field.split(":") for field in codes.split(";")]
    if end == "~" and len(fields) == 3 and fields[0] == ["27"]:  # xterm's modifyOtherKeys
        fields, end = [fields[2], fields[1]], "u"
    if len(fields) > 3 or any(len(each) > 7 for field in fields for each in field):
        return None
    keys, states, texts = [*fields, [""], [""]][:3]
    if (states[1] if len(states) > 1 else "") not in _PRESSED_OR_HELD:
        return []
    code = keys[0] or ("" if end in "u~" else "1")
    if end == "R":
        code, end = {"1": "13"}.get(code, code), "~"  # it would read as a cursor position
    modifiers = max(0, _number(states[0]) - 1) & 0xFF & ~_LOCKS
    texts = [each for each in texts if _printable(each)]
    state = str(modifiers + 1) if modifiers else ""
    if f"{code}{end}" not in FUNCTIONAL_KEYS:
        if end != "u":
            return None
        if not texts and not _printable(code):
            return []
        if not texts and modifiers == _SHIFT:
            texts = [_shifted(keys)]
    return [f"\x1b[{code};{state};{text}{end}" for text in texts or [""]]


def _shifted(keys: list[str]) -> str:
    """Code point of the character of a key with Shift."""
    if len(keys) > 1 and _printable(keys[1]):
        return keys[1]
    upper = chr(int(keys[0])).upper()
    return str(ord(upper)) if len(upper) == 1 else keys[0]


def _number(digits: str) -> int:
    return int(digits) if digits.isdecimal() and len(digits) < 8 else 0


def _printable(digits: str) -> bool:
    code = _number(digits)
    return code <= 0x10FFFF and code > 0 and chr(code).isprintable()
