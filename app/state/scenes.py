"""The scenes of `sequoia demo`: packaged recordings with captions."""

from pathlib import Path

from sequoia_core.errors import ParameterError, suggest
from sequoia_core.recording.trace_file import TraceReader

from .player import TraceLoader

FOLDER = Path(__file__).parents[1] / "scenes"
FILES = tuple(sorted(FOLDER.glob("*.jsonl.gz")))
NAMES = tuple(path.name.partition(".")[0].partition("-")[2] for path in FILES)


def find_scene(given: str) -> int:
    """Index of the scene with a number, from 1, or a name. Raises ParameterError if none has it."""
    if given.isdecimal() and 1 <= int(given) <= len(FILES):
        return int(given) - 1
    if given in NAMES:
        return NAMES.index(given)
    hint = suggest(given, NAMES, otherwise=f"there are {', '.join(NAMES)}")
    raise ParameterError(f"no scene {given!r}, of 1 to {len(FILES)}; {hint}")


def open_scene(at: int) -> TraceLoader:
    return TraceLoader(TraceReader(FILES[at]))


def scene_title(at: int) -> str:
    reader = TraceReader(FILES[at])
    reader.close()
    return reader.scene.title if reader.scene is not None else NAMES[at]
