"""The options of a distillation, the plan file that keeps them for `--resume`, and its progress."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any

from sequoia_core.errors import ParameterError
from sequoia_core.files import expanded, write_whole

BLOCKS = {4: "q4_0", 8: "q8_0"}

PLAN = "plan.json"
FORMAT = 3  # version of the work directory's files; those of another one cannot be resumed
FINISHED = "finished.json"
TRAINING_PLANNED = "steps.json"  # exists once training has begun
OF_TRAINING = ("steps", "loss", "bits")  # only training reads these; until then they may change
SAVE_SECONDS = 10.0  # between two writings of the clock


@dataclass(frozen=True, slots=True)
class Options:
    """As on the command line, with usual values for None; raises ParameterError out of range."""

    target: str | None = None
    layers: str | None = None
    head_vocab: int = 8192
    tokens: int = 1_500_000
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    data: str | None = None
    text: str | None = None
    begin_with: str | None = None
    kind: str = "conditioned"  # of `target.LAYERS`
    loss: str = "mix"  # of `losses.LOSSES`
    bits: int = 4
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in {"tokens": 500, "head_vocab": 16, "steps": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ParameterError(f"{_flag(name)} is {value}; it must be at least {least}")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise ParameterError(f"--minutes is {self.minutes}; it must be above 0")
        if self.bits not in BLOCKS:
            raise ParameterError(f"--bits is {self.bits}; give {' or '.join(map(str, BLOCKS))}")
        if self.begin_with and self._changed().keys() & {"kind", "layers", "head_vocab"}:
            raise ParameterError(
                "--begin-with continues a draft as it is; leave out --kind, --layers and "
                "--head-vocab"
            )

    @property
    def blocks(self) -> str:
        """Format of the draft's weights, see `model.blocks`."""
        return BLOCKS[self.bits]

    def _changed(self) -> dict[str, Any]:
        usual = asdict(Options())
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    def command_line(self, out: Path) -> str:
        given = ((_flag(name), str(value)) for name, value in self._changed().items())
        return shlex.join(["sequoia", "distill", "--out", str(out), *chain(*given)])

    def chosen_layers(self, count: int, default: int) -> tuple[int, ...]:
        """Which of `count` layers a draft begins with; so many are taken from the bottom."""
        stated = self.layers or str(default)
        try:
            numbers: Sequence[int] = [int(part) for part in stated.split(",") if part.strip()]
        except ValueError:
            numbers = []
        if "," not in stated and len(numbers) == 1:
            numbers = range(numbers[0])
        if not numbers or any(not 0 <= layer < count for layer in numbers):
            raise ParameterError(
                f"--layers is {stated!r}; the target has {count}: give how many of them, or which, "
                f"as in 0,1,{count - 1}"
            )
        return tuple(numbers)


def options_for(work: Path, given: Mapping[str, Any], resume: bool) -> Options:
    """The options of a run in the folder `work` of a draft's; raises ParameterError.

    With `resume`, values that are not given are those of the run's plan; given ones must equal it,
    except those of training before it has begun.
    """
    plan, out = work / PLAN, work.parent
    if resume:
        return _resumed(plan, given)
    if (work / FINISHED).exists():
        raise ParameterError(f"{out} holds a finished draft; choose another --out")
    if plan.exists():
        raise ParameterError(
            f"{out} holds an unfinished distillation; continue it with --resume, or choose another "
            "--out"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ParameterError(f"{out} is there already and not empty; choose another --out")
    options = Options(**given)
    _digests(options)
    return options


def _resumed(plan: Path, given: Mapping[str, Any]) -> Options:
    out = plan.parent.parent
    try:
        record = json.loads(plan.read_text("utf-8"))
        options = Options(**{each.name: record[each.name] for each in fields(Options)})
    except FileNotFoundError:
        raise ParameterError(f"{out} holds nothing to resume") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(f"{plan} is damaged ({error}); begin anew") from None
    if record.get("format") != FORMAT:
        raise ParameterError(
            f"{out} was begun by another version of sequoia; begin in another --out"
        )
    free = () if (plan.parent / TRAINING_PLANNED).exists() else OF_TRAINING
    for name, value in given.items():
        if value != record[name] and name not in free:
            raise ParameterError(
                f"this was begun with {_flag(name)} {record[name]}, not {value}; "
                "resume without it, or begin in another --out"
            )
    if record["files"] != _digests(options):
        raise ParameterError(
            "a file of --data, --text or --begin-with has changed since this was begun; begin in "
            "another --out"
        )
    return replace(options, **{name: given[name] for name in free if name in given})


def remember(work: Path, options: Options) -> None:
    """Write the plan, so that the run can be resumed; raises ParameterError where it cannot be."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        write_json(work / PLAN, asdict(options) | {"format": FORMAT, "files": _digests(options)})
    except OSError as error:
        raise ParameterError(f"{work.parent} cannot be written: {error.strerror}") from None


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all."""
    write_whole(path, json.dumps(record, indent=1) + "\n")


def _digests(options: Options) -> dict[str, str]:
    """SHA-256 of the files that the options name; raises ParameterError if one is unreadable."""
    digests = {}
    weights = options.begin_with and str(Path(options.begin_with) / "model.safetensors")
    given = {"data": options.data, "text": options.text, "begin_with": weights}
    for name, file in given.items():
        if file is not None:
            try:
                digests[name] = hashlib.sha256(expanded(file).read_bytes()).hexdigest()
            except OSError as error:
                raise ParameterError(f"{file} cannot be read: {error.strerror}") from None
    return digests


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class DistillStatus:
    stage: str
    fraction: float  # done of the stage, 0 to 1
    rate: float  # tokens per second since the stage was begun or resumed
    loss: float | None = None  # of the last training step
    tokens_per_step: float | None = None  # predicted on held-out text, once evaluated


class TimeBudget:
    """Counts the time of a run across interruptions, without the breaks, in a file."""

    _counted: tuple[str, float, int] = ("", 0.0, 0)  # of a stage, when and what first

    def __init__(self, file: Path, minutes: float | None) -> None:
        self._file, self._minutes = file, minutes
        spent = json.loads(file.read_text("utf-8"))["seconds"] if file.exists() else 0.0
        self._saved = monotonic()
        self._began = self._saved - spent  # as if there had been no breaks

    @property
    def seconds(self) -> float:
        return monotonic() - self._began

    def rate(self, stage: str, tokens: int) -> float:
        """Tokens per second since the first count of the stage; saves the time now and then."""
        now = monotonic()
        if now - self._saved > SAVE_SECONDS:  # what comes after is lost to a kill
            write_json(self._file, {"seconds": self.seconds})
            self._saved = now
        if self._counted[0] != stage:
            self._counted = stage, now, tokens
        _, since, before = self._counted
        return (tokens - before) / (now - since) if now > since else 0.0

    def left(self, share: float) -> float:
        """Seconds until this share of the budget is spent; infinite without a budget."""
        total = float("inf") if self._minutes is None else self._minutes * 60.0
        return share * total - self.seconds
