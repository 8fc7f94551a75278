"""Text from models and people made harmless: a terminal must not interpret what they wrote."""

import re
import unicodedata

from rich.cells import cell_len, set_cell_size

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
END_OF_ANSWER = "end of answer"
_END_MARKS = re.compile(  # models call it end of the text, the turn, the message
    r"</s>|\[EOS\]|<[|｜]?"
    r"(?:im_end|eo[stm](?:_id)?|end(?:_?|▁)(?:of(?:_?|▁)(?:text|turn|sentence|message))?)[|｜]?>"
)
_TOKEN_ESCAPES = {" ": "·", "\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def visible(text: str) -> str:
    """The text with newlines and tabs kept and every other control character made visible.

    ESC reads `␛`, so a terminal escape is shown and not obeyed. A carriage return before a
    newline is dropped; bidirectional overrides, separators and lone surrogates read `�`.
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda match: _glyph(match.group()), text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The same as one line: a blank for all blanks, tabs and newlines in a row."""
    return " ".join(visible(text).split())


def _glyph(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else _REPLACEMENT


def quote_token(text: str) -> str:
    """A token as the tree shows it: quoted on one line, spaces as `·`, nothing invisible.

    The mark by which a model ends its answer, such as `<|im_end|>`, is shown in words.
    """
    return END_OF_ANSWER if _END_MARKS.fullmatch(text) else spelt_token(text)


def spelt_token(text: str) -> str:
    """The same in the model's own spelling, end marks too."""
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(character: str) -> str:
    if escaped := _TOKEN_ESCAPES.get(character):
        return escaped
    if character.isprintable() or unicodedata.combining(character):
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return _glyph(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def fit(text: str, cells: int) -> str:
    """The text cut or padded to exactly `cells` terminal cells, `…` marking a cut."""
    if cells <= 0:
        return ""
    if cell_len(text) <= cells:
        return set_cell_size(text, cells)
    return set_cell_size(set_cell_size(text, cells - 1).rstrip() + "…", cells)
