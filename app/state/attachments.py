"""Files that a message names with `@`, and long parts of a message, which are shown as one line."""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sequoia_core.errors import counted
from sequoia_core.files import expanded, is_file_name

from .chat_session import ChatError

MOST_LINES = 20  # of a paste that is shown as it is
_MOST_BYTES = 1_000_000  # of a file; after more, each key would take seconds
_MOST_READ = 100_000_000  # bytes of a file of which some lines are attached
_CHARACTERS = 4  # of a token, about
_MENTION = re.compile(r'(?<![^\s(\[{])@(?:"([^"\n]+)"((?::|#L)\d[\dL:-]*)?|([^\s"@]+))')
_AFTER_NAME = ".,;:!?)]}'`"
_BLOCK = re.compile(
    r"^(?P<name>[^\n]{1,300}):\n(?P<fence>`{3,})[^\n`]*\n(?P<body>.*?)\n(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
"""An attached file at the end of a message, as `attach` writes it."""
_BLANK = "\N{NO-BREAK SPACE}"
"""In labels for each space, so that no text that was typed, or is in a file, is one."""
_LABEL = re.compile(rf"\[[^\[\]\n]+{_BLANK}lines?\)?(?:{_BLANK}#\d+)?\]")
_LINES = re.compile(r"(?P<name>.+?)(?::|#L)(?P<first>\d{1,9})(?:-L?(?P<last>\d{0,9}))?(?::\d+)?")
"""A name with line numbers: `a.py:12`, `a.py:12-40`, `a.py:12:5` of a compiler, `a.py#L12-L40`."""
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffd]")
_BRACKETS = str.maketrans("[]", "()")
_IMAGES = frozenset({
    ".avif", ".bmp", ".gif", ".heic", ".ico", ".jpeg", ".jpg", ".png", ".psd", ".tif", ".tiff",
    ".webp",
})  # fmt: skip
_IMAGE_STARTS = ("\x89PNG", "\ufffdPNG", "GIF87a", "GIF89a", "\xff\xd8\xff", "data:image/")
BINARIES = _IMAGES | {
    ".7z", ".a", ".avi", ".bin", ".bz2", ".class", ".db", ".dll", ".doc", ".docx", ".dylib",
    ".exe", ".flac", ".gguf", ".gz", ".jar", ".mkv", ".mov", ".mp3", ".mp4", ".npy", ".npz", ".o",
    ".odt", ".ogg", ".onnx", ".otf", ".pdf", ".pickle", ".pkl", ".ppt", ".pptx", ".pt", ".pth",
    ".pyc", ".pyd", ".safetensors", ".so", ".sqlite", ".tar", ".tgz", ".ttf", ".wasm", ".wav",
    ".webm", ".whl", ".woff", ".woff2", ".xls", ".xlsx", ".xz", ".zip", ".zst",
}  # fmt: skip
"""Endings of files that are no text."""
_TEXTS = frozenset({
    ".bash", ".bat", ".c", ".cfg", ".cmake", ".conf", ".cpp", ".cs", ".css", ".csv", ".diff", ".go",
    ".h", ".hpp", ".html", ".ini", ".ipynb", ".java", ".js", ".json", ".jsonl", ".jsx", ".kt",
    ".lua", ".md", ".mk", ".patch", ".php", ".pl", ".py", ".pyi", ".rb", ".rs", ".rst", ".scala",
    ".scss", ".sh", ".sql", ".svg", ".swift", ".tcss", ".tex", ".toml", ".ts", ".tsv", ".tsx",
    ".txt", ".vue", ".xml", ".yaml", ".yml", ".zig",
})  # fmt: skip
"""Endings that say that a missing file was meant, and no decorator or address."""
_MOST_CONTROLS = 0.1  # share of control characters in a text


def mention(path: str) -> str:
    """How a message names a file."""
    return f'@"{path}"' if re.search(r"\s", path) else f"@{path}"


@dataclass(frozen=True, slots=True)
class _Part:
    """A file, or some of its lines."""

    path: str  # as it was typed
    length: int  # characters that name it, with the numbers of lines
    first: int | None = None  # line, from 1 on; None for the whole file
    last: int | None = None  # None for the last of the file


def attach(
    text: str,
    folder: Path,
    chosen: Collection[str] = (),
    window: int | None = None,
    unfolded: Callable[[str], str] = str,
) -> str:
    """The message as the model reads it: each file by its name, and its content at the end.

    Files are relative to a folder; `chosen` were picked from a list. `unfolded` makes the message
    itself whole, and is not for what is in files. Reads files. Raises ChatError if one that is
    meant is not there, is no text, lacks the lines, or is too large for a context window of so
    many tokens.
    """
    files: dict[_Part, tuple[str, str]] = {}
    parts, at = [], 0
    for found in _MENTION.finditer(text):
        given = found[3] or found[1] + (found[2] or "")
        part = _part(given, folder, chosen, quoted=found[1] is not None)
        if part is not None:
            if part not in files:
                files[part] = _block(part, folder, window)
            parts += [text[at : found.start()], files[part][0]]
            at = found.end() if found[1] else found.start() + 1 + part.length
    head = unfolded("".join([*parts, text[at:]]))
    whole = "\n\n".join([head, *(block for _, block in files.values())])
    if files:
        _check_size(f"the message with {counted(len(files), 'file')}", len(whole), window)
    return whole


def _part(given: str, folder: Path, chosen: Collection[str], *, quoted: bool) -> _Part | None:
    """What is meant, without what may follow a name in a sentence; None for usual text."""
    bare = given.rstrip(_AFTER_NAME)
    ends = () if quoted else range(len(given) - 1, len(bare) - 1, -1)
    for name in (given, *(given[:end] for end in ends)):
        if name and _exists(folder, name):
            return _Part(name, len(name))
    if lines := _LINES.fullmatch(bare):
        first, last, bare = int(lines["first"]), lines["last"], lines["name"]
        if _exists(folder, bare):
            return _Part(bare, lines.end(), first, int(last) if last else None)
        given = bare
    meant = quoted or given in chosen or Path(bare).suffix.lower() in _TEXTS
    above = bare.rpartition("/")[0]
    if meant or (above and _exists(folder, above, folder=True)):
        name = given if quoted else bare
        if _exists(folder, name, folder=True):
            raise ChatError(f"{name} is a folder; name a file in it, or write it without @")
        raise ChatError(f"no file {name} in {folder}; correct the name, or write it without @")
    return None


def _path(folder: Path, name: str) -> Path:
    path = Path(name)
    return folder / (expanded(path) if name.startswith("~/") else path)


def _exists(base: Path, name: str, *, folder: bool = False) -> bool:
    try:
        path = _path(base, name)
        return is_file_name(name) and (
            path.is_dir() if folder else path.exists() and not path.is_dir()
        )
    except (OSError, RuntimeError):  # a name too long; no home folder
        return False


def _block(part: _Part, folder: Path, window: int | None) -> tuple[str, str]:
    """The name with its lines, and name and content in a fence that no line of it ends."""
    name, text = part.path, _read(part, _path(folder, part.path), window)
    if part.first is not None:
        name = f"{name}:{part.first}"
        if part.last is not None:  # or as many as there are
            name += f"-{part.first + text.removesuffix(chr(10)).count(chr(10))}"
    text = text.rstrip("\n")
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return name, f"{name}:\n{fence}{Path(part.path).suffix[1:]}\n{text}\n{fence}"


def _read(part: _Part, path: Path, window: int | None) -> str:
    name = part.path
    if path.suffix.lower() in _IMAGES:
        raise ChatError(f"{name} is an image; the models here read text only")
    if not path.is_file():
        raise ChatError(f"{name} is no regular file, so it cannot be attached")
    data = b""
    try:
        size = path.stat().st_size
        if part.first is not None and size <= _MOST_READ:
            data = _lines(part, path)
            name, size = f"{name} from line {part.first} on", len(data)
        elif size <= _MOST_BYTES:
            data = path.read_bytes()
    except OSError as error:
        raise ChatError(f"{name} cannot be read: {error.strerror or error}") from None
    _check_size(name, size, window)
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ChatError(f"{name} is no text in UTF-8, so the models cannot read it")
    if not text.strip():
        raise ChatError(f"{name} is empty; write it without @")
    return text


def _lines(part: _Part, path: Path) -> bytes:
    """The lines of a part, as the file has them."""
    first, last = part.first or 0, part.last
    if first < 1:
        raise ChatError(f"{part.path}:{first}: lines count from 1")
    if last is not None and last < first:
        raise ChatError(f"{part.path}:{first}-{last}: the last line comes before the first")
    with path.open("rb") as file:
        before = sum(1 for _ in islice(file, first - 1))
        data = b"".join(islice(file, None if last is None else last - first + 1))
    if not data:
        raise ChatError(f"{part.path} has {counted(before, 'line')}, so there is no line {first}")
    return data


def _check_size(name: str, size: int, window: int | None) -> None:
    if window is not None and size > window * _CHARACTERS:
        raise ChatError(
            f"{name} has {size:,} characters, about {size // _CHARACTERS:,} tokens; the context "
            f"window holds {window:,} tokens, about {window * _CHARACTERS:,} characters"
        )
    if size > _MOST_BYTES:
        raise ChatError(f"{name} has {size:,} bytes; at most {_MOST_BYTES:,} can be attached")


def refused_paste(text: str) -> str:
    """Why a text cannot be pasted; "" if it can."""
    if text.startswith(_IMAGE_STARTS):
        return "that is an image; the models here read text only"
    if len(_CONTROLS.findall(text)) > _MOST_CONTROLS * len(text):
        return "that is no text (control characters), so it is not pasted"
    return ""


def as_shown(label: str) -> str:
    return label.replace(_BLANK, " ")


class Folds:
    """Long parts of messages, each of which is shown as one line until a person opens it."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}  # by label, the line in the prompt

    def label(self, text: str, size: str = "") -> str:
        """What stands for a text in the prompt from now on."""
        size = size or f"pasted {counted(text.count(chr(10)) + 1, 'line')}"
        size = size.replace(" ", _BLANK)
        label, number = f"[{size}]", 1
        while self._texts.setdefault(label, text) != text:
            number += 1
            label = f"[{size}{_BLANK}#{number}]"
        return label

    def keep_only(self, held: Collection[str]) -> None:
        """Forget each text of which neither the label nor the text itself is in one of these."""
        self._texts = {
            label: text
            for label, text in self._texts.items()
            if any(label in each or text in each for each in held)
        }

    def labels(self, line: str) -> Iterator[re.Match[str]]:
        """Where a line of the prompt has labels."""
        if self._texts:
            yield from (found for found in _LABEL.finditer(line) if found[0] in self._texts)

    def whole(self, text: str) -> str:
        """A text of the prompt with the texts in place of their labels."""
        if not self._texts:
            return text
        return _LABEL.sub(lambda found: self._texts.get(found[0], found[0]), text)

    def folded(self, text: str) -> str:
        """A message with labels in place of its attached files and of what was pasted."""
        return "".join(
            self.label(part, label[1:-1]) if label and label not in self._texts else label or part
            for part, label in self._parts(text)
        )

    def _parts(self, text: str) -> list[tuple[str, str]]:
        """The parts of a message, in order, each with its label or ""."""
        parts: list[tuple[str, str]] = []
        at = 0
        for start, end, label in sorted(self._spans(text)):
            parts += [(text[at:start], ""), (text[start:end], label)]
            at = end
        return [(part, label) for part, label in [*parts, (text[at:], "")] if part]

    def shown(self, text: str) -> list[tuple[str, str]]:
        """The parts of a message, in order, each with what is shown in its place, or "".

        The rest of any other long text is folded: what was pasted elsewhere.
        """
        shown: list[tuple[str, str]] = []
        for part, label in self._parts(text):
            lines = part.split("\n")
            if label or len(lines) <= 2 * MOST_LINES:
                shown.append((part, as_shown(label)))
            else:
                head, rest = lines[:MOST_LINES], lines[MOST_LINES:]
                label = f"[{counted(len(rest), 'more line')}]"
                shown += [("\n".join(head), ""), ("\n".join(rest), label)]
        return shown

    def _spans(self, text: str) -> list[tuple[int, int, str]]:
        spans: list[tuple[int, int, str]] = []
        for label, pasted in self._texts.items():
            start = text.find(pasted.strip())  # a message is sent without blanks at its ends
            end = start + len(pasted.strip())
            if start >= 0 and all(end <= first or last <= start for first, last, _ in spans):
                spans.append((start, end, label))
        blocks = list(_BLOCK.finditer(text)) if "\n```" in text else []
        for found in blocks:
            start, end = found.span()
            if found["name"] in text[: blocks[0].start()] and not any(
                first < end and start < last for first, last, _ in spans
            ):
                lines = counted(found["body"].count("\n") + 1, "line")
                size = f"{found['name'].translate(_BRACKETS)} ({lines})"
                spans.append((start, end, f"[{size}]"))
        return spans
