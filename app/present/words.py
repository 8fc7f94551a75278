"""Ranks, dates and settings in words."""

import re
from datetime import datetime, timedelta

from sequoia_core.config import Lookup
from sequoia_core.events import MemoryUse, PairDescription, TreeChosen
from sequoia_core.model.loading.memory_plan import size_text
from sequoia_core.recording.trace_file import LAST_MOMENT, SceneInfo
from sequoia_core.tree.choice import TreeChoice, lookup_for

from ..config.settings import CHAT_SETTINGS, Settings, shown
from ..state.answer import Answer
from ..state.figures import figures, per_pass, request_lines, speed_words, tree_size

VALUE_COLUMN = 16  # of the text of `/show`
_TITLE_CHARACTERS = 60
_FENCED = re.compile(r"^(```|~~~).*?(^\1|\Z)", re.MULTILINE | re.DOTALL)
_COURTESY = re.compile(
    r"(hi|hello|hey|good (morning|afternoon|evening)|please|thanks|thank you"
    r"|(can|could|would|will) you( please)?|i('d| would) like you to|i (want|need) you to"
    r"|help me( to)?|tell me)\b[\s,.!:;-]*",
    re.IGNORECASE,
)


def ordinal(rank: int) -> str:
    """1st, 2nd, 11th, 21st."""
    ending = "th" if rank // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"


def title_of(prompt: str) -> str:
    """The first meaningful words of a prompt: no code, no greeting, one line of 60 characters."""
    lines = _FENCED.sub("", prompt).splitlines() or [""]
    line = next((line for line in lines if any(map(str.isalnum, line))), prompt)
    line = title = " ".join(line.split()).lstrip("#>*- ")
    while found := _COURTESY.match(title):
        title = title[found.end() :]
    title = title[:1].upper() + title[1:] if title and title != line else line
    if len(title) > _TITLE_CHARACTERS:
        title = title[:_TITLE_CHARACTERS].rpartition(" ")[0] or title[:_TITLE_CHARACTERS]
        title = title.rstrip(",;:.- ") + "…"
    return title


def progress_text(message: str, fraction: float | None) -> str:
    """What is being done, and how much of it is done where that is known."""
    return message if fraction is None else f"{message} {fraction:.0%}"


def moment(value: object) -> float:
    """Seconds since the epoch from a file; 0 for anything that is no date."""
    return float(value) if isinstance(value, int | float) and 0.0 <= value <= LAST_MOMENT else 0.0


def when(then: float, now: float) -> str:
    """A moment as seen from another, both in seconds since the epoch: "today 14:03", "3 Nov"."""
    past, present = datetime.fromtimestamp(then), datetime.fromtimestamp(now)
    days = (present.date() - past.date()).days
    if days == 0:
        return f"today {past:%H:%M}"
    if days == 1:
        return f"yesterday {past:%H:%M}"
    if 0 < days < 7:
        return f"{past:%a %H:%M}"
    if past.year == present.year or present - past < timedelta(days=90):
        return f"{past.day} {past:%b}"
    return f"{past.day} {past:%b %Y}"


def token_count(tokens: int) -> str:
    """A number of tokens as context windows are named: 812, 3.4k, 8k, 128k."""
    if tokens < 1000:
        return str(tokens)
    thousands = tokens / 1024
    return f"{thousands:.{0 if thousands >= 10 else 1}f}".removesuffix(".0") + "k"


def origin(scene: SceneInfo | None) -> str:
    """When and on what a recording was made: "recorded 3 Nov 2026 on ..."."""
    if scene is None:
        return ""
    day = datetime.fromtimestamp(at) if (at := moment(scene.recorded)) else None
    date = f"{day.day} {day:%b %Y}" if day is not None else ""
    words = (date, f"on {scene.machine}" if scene.machine else "")
    return " ".join(("recorded", *filter(None, words))) if any(words) else ""


def value_text(settings: Settings, name: str) -> str:
    """The value of a setting that `/set` changes, as it is shown."""
    return shown(getattr(settings, name)) or CHAT_SETTINGS[name].unset


def without_draft(settings: Settings) -> str:
    """How a target without a draft decodes."""
    looks_up = lookup_for(TreeChoice(settings.mode, lookup=settings.lookup)) is not Lookup.OFF
    return "prompt lookup alone guesses tokens" if looks_up else "plain decoding"


def describe(
    settings: Settings,
    pair: PairDescription | None,
    tree: TreeChosen | None,
    answer: Answer | None = None,
    memory: MemoryUse | None = None,
) -> str:
    """The text of `/show`, an entry a line: settings, pair, memory, tree, figures of an answer."""
    rows = [(name, value_text(settings, name)) for name in CHAT_SETTINGS]
    if pair is None:
        rows.append(("pair", "still loading"))
    else:
        rows += [
            ("target", pair.target),
            ("draft", pair.draft or f"none: {without_draft(settings)}"),
            ("device", f"{pair.device}, {pair.dtype}"),
            ("context window", f"{pair.context_window} tokens"),
        ]
    rows += [*_memory_rows(memory), *_tree_rows(tree), *_answer_rows(answer)]
    return "\n".join(f"{name:<{VALUE_COLUMN}}{value}" for name, value in rows)


def _memory_rows(memory: MemoryUse | None) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for each in memory.devices if memory is not None else ():
        used, reserved = size_text(each.cache_used), size_text(each.cache_reserved)
        parts = [
            f"weights {size_text(each.weights)}",
            f"KV cache {reserved}" + (f" ({used} used)" if used != reserved else ""),
            *([f"CUDA graphs {size_text(each.recordings)}"] if each.recordings else []),
            f"peak {size_text(each.peak)}",
            f"free {size_text(each.free)}",
        ]
        rows.append(("" if rows else "memory", f"{each.device}: {', '.join(parts)}"))
    return rows


def _tree_rows(tree: TreeChosen | None) -> list[tuple[str, str]]:
    if tree is None:
        return [("tree", "chosen with the next answer")]
    if tree.nodes <= 1:
        return [("tree", f"none: {tree.reason or 'plain decoding'}")]
    text = f"{tree.growmap}: {tree_size(tree)}"
    if tree.expected_tokens is not None:
        text += f", {per_pass(tree.expected_tokens)} expected"
    if tree.predicted_speedup is not None:
        text += f", predicted {speed_words(tree.predicted_speedup, short=True)}"
    return [("tree", text)] + ([("", tree.reason)] if tree.reason else [])


def _answer_rows(answer: Answer | None) -> list[tuple[str, str]]:
    if answer is None or not answer.statistics:
        return []
    last = answer.statistics[-1]
    text = ", ".join(figures(last.totals, last.speedup))
    return [("last answer", text), *(("", line) for line in request_lines(last.totals))]
