"""The options of a distillation, and the plan file that keeps them for `--resume`."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sequoia_core.errors import ParameterError
from sequoia_core.files import write_whole

KINDS = ("conditioned", "independent")
LOSS_NAMES = ("kl", "tv", "mix")
BLOCKS: Mapping[int, str] = MappingProxyType({4: "q4_0", 8: "q8_0"})
"""Formats of the draft's weights, see `model.blocks`, by their bits."""
LEAST_TOKENS = 500

PLAN = "plan.json"
FORMAT = 3
"""Version of the work directory's files; those of another one cannot be resumed."""
FINISHED = "finished.json"
TRAINING_PLANNED = "steps.json"
"""Exists once training has begun."""
OF_TRAINING = ("steps", "loss", "bits")
"""Options that only training reads; they may change until it begins."""


@dataclass(frozen=True, slots=True)
class Options:
    """As on the command line; see `sequoia distill --help`.

    Attributes:
        target: a directory, GGUF file or hub id; None is the embedded target.
        layers: how many of the target's layers, or which, separated by commas.
        head_vocab: rows of the output head.
        tokens: least size of the text.
        steps: of the optimiser; None follows from the text.
        minutes: for everything; None is as long as it takes.
        seed: of all random numbers.
        data: a file with the user's own prompts.
        text: an npz file with text that this target has written already.
        begin_with: the directory of a draft of this target whose weights are trained further.
        kind: one of `KINDS`.
        loss: one of `LOSS_NAMES`.
        bits: of the draft's weights, one of `BLOCKS`.
        device: see `choose_device`.

    Raises:
        ParameterError: a value is outside its range.
    """

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
    kind: str = "conditioned"
    loss: str = "mix"
    bits: int = 4
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, value, least in (
            ("tokens", self.tokens, LEAST_TOKENS),
            ("head-vocab", self.head_vocab, 16),
            ("steps", self.steps, 1),
            ("seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise ParameterError(f"--{name} is {value}; it must be at least {least}")
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise ParameterError(f"--minutes is {self.minutes}; it must be above 0")
        if self.bits not in BLOCKS:
            raise ParameterError(f"--bits is {self.bits}; give {' or '.join(map(str, BLOCKS))}")
        shaped = any(
            getattr(self, each.name) != each.default
            for each in fields(self)
            if each.name in ("kind", "layers", "head_vocab")
        )
        if self.begin_with is not None and shaped:
            raise ParameterError(
                "--begin-with continues a draft as it is; leave out --kind, --layers and "
                "--head-vocab"
            )
        for name, word, known in (("kind", self.kind, KINDS), ("loss", self.loss, LOSS_NAMES)):
            if word not in known:
                raise ParameterError(f"--{name} is {word!r}; give {' or '.join(known)}")

    def command_line(self, out: Path) -> str:
        """The command that repeats this run."""
        words = ["sequoia", "distill", "--out", str(out)]
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                words += [f"--{each.name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def chosen_layers(self, count: int, default: int) -> tuple[int, ...]:
        """Which of the target's `count` layers the draft begins with.

        A number of layers takes that many from the bottom (measured: docs/decisions/0018).

        Raises:
            ParameterError: there are no such layers.
        """
        stated = self.layers or str(default)
        try:
            numbers = [int(part) for part in stated.split(",") if part.strip()]
        except ValueError:
            numbers = []
        if "," not in stated and len(numbers) == 1:
            wanted, numbers = numbers[0], []
            if 1 <= wanted <= count:
                numbers = [*range(wanted)]
        if not numbers or any(not 0 <= layer < count for layer in numbers):
            raise ParameterError(
                f"--layers is {stated!r}; the target has {count}: give how many of them, or which, "
                f"as in 0,1,{count - 1}"
            )
        return tuple(numbers)


def options_for(work: Path, given: Mapping[str, Any], resume: bool) -> Options:
    """The options of a run in a work directory; nothing is written.

    Args:
        work: inside the directory of the draft.
        given: values given by the user, by the names of `Options`.
        resume: continue the run in the directory. Values not given are the plan's; given ones must
            equal it, except those of training before it has begun.

    Raises:
        ParameterError: a value is outside its range, the directory holds a run although `resume` is
            off or none although it is on, or the run was begun with other values.
    """
    plan, out = work / PLAN, work.parent
    if resume:
        return _resumed(plan, given)
    if plan.exists():
        finished = (work / FINISHED).exists()
        raise ParameterError(
            f"{out} holds a finished draft; choose another --out"
            if finished
            else f"{out} holds an unfinished distillation; continue it with --resume, or choose "
            "another --out"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ParameterError(f"{out} is there already and not empty; choose another --out")
    options = Options(**given)
    _digests(options)
    return options


def remember(work: Path, options: Options) -> None:
    """Write the plan, so that the run can be resumed.

    Raises:
        ParameterError: the directory cannot be written.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        write_json(work / PLAN, asdict(options) | {"format": FORMAT, "files": _digests(options)})
    except OSError as error:
        raise ParameterError(f"{work.parent} cannot be written: {error.strerror}") from None


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all.

    Raises:
        OSError: the disk refuses.
    """
    write_whole(path, json.dumps(record, indent=1) + "\n")


def _resumed(plan: Path, given: Mapping[str, Any]) -> Options:
    try:
        record = json.loads(plan.read_text("utf-8"))
        options = Options(**{each.name: record[each.name] for each in fields(Options)})
    except FileNotFoundError:
        raise ParameterError(f"{plan.parent.parent} holds nothing to resume") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(f"{plan} is damaged ({error}); begin anew") from None
    if record.get("format") != FORMAT:
        raise ParameterError(
            f"{plan.parent.parent} was begun by another version of sequoia; begin in another --out"
        )
    free = () if (plan.parent / TRAINING_PLANNED).exists() else OF_TRAINING
    for name, value in given.items():
        if value != record[name] and name not in free:
            raise ParameterError(
                f"this was begun with --{name.replace('_', '-')} {record[name]}, not {value}; "
                "resume without it, or begin in another --out"
            )
    if record["files"] != _digests(options):
        raise ParameterError(
            "a file of --data, --text or --begin-with has changed since this was begun; begin in "
            "another --out"
        )
    return replace(options, **{name: given[name] for name in free if name in given})


def _digests(options: Options) -> dict[str, str]:
    """SHA-256 of the files that the options name.

    Raises:
        ParameterError: one cannot be read.
    """
    digests = {}
    weights = options.begin_with and str(Path(options.begin_with) / "model.safetensors")
    given = {"data": options.data, "text": options.text, "begin_with": weights}
    for name, file in given.items():
        if file is not None:
            try:
                digests[name] = hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest()
            except OSError as error:
                raise ParameterError(f"{file} cannot be read: {error.strerror}") from None
    return digests
