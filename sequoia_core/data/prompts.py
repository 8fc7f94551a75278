"""Rows of data sets: built-in prompts, files, folders of `datasets`, and named sets of the hub."""

from collections.abc import Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.files import expanded, parse_json, read_text, split_lines
from sequoia_core.text.detokenizer import well_formed

PROMPTS = tuple(split_lines(read_text(Path(__file__).with_suffix(".txt"))))
SPLITS = ("test", "validation", "train")  # parts of a local data set, in order of preference
LONGEST_WAIT = 10.0  # seconds until the hub counts as unreachable
_EXPECTED = '"turns", "prompt", "text" or "article"'
_LONGEST_PROBLEM = 200
_LOCAL = "a .jsonl or .txt file or a `datasets` folder on disk can be given instead"
_CONNECTION_ERRORS = ("Connect", "Timeout", "Offline", "LocalEntryNotFound", "gaierror")
"""Parts of the names of their classes."""


class HubSet(NamedTuple):
    """A public data set; `config` is None where it has only one."""

    repo_id: str
    config: str | None
    split: str


NAMED = {
    "cnn": HubSet("abisee/cnn_dailymail", "3.0.0", "test"),
    "openwebtext": HubSet("Skylion007/openwebtext", None, "train"),
    "c4": HubSet("allenai/c4", "en", "validation"),
    "wiki": HubSet("Salesforce/wikitext", "wikitext-2-raw-v1", "train"),
    "mt-bench": HubSet("HuggingFaceH4/mt_bench_prompts", None, "train"),
}


class RowKind(Enum):
    TEXT = "text"  # its beginning is the prompt, the rest is the continuation
    PROMPT = "prompt"  # a question to a model that chats, a text to any other
    TURN = "turn"  # the first turn of a conversation


class Row(NamedTuple):
    content: str
    kind: RowKind


def row_of(values: object) -> Row | None:
    """The row of a data set's entry; None if it has no known field.

    The first item of `turns` counts, and of `prompt` where it is a list. Half a surrogate pair,
    which JSON can spell and no tokenizer takes, becomes U+FFFD.
    """
    if not isinstance(values, Mapping):
        return None
    content = prompt = values.get("prompt")
    kind = RowKind.PROMPT
    if "turns" in values or isinstance(prompt, list):
        turns = values.get("turns", prompt)
        content, kind = turns[0] if isinstance(turns, list) and turns else None, RowKind.TURN
    elif not isinstance(prompt, str):
        content, kind = values.get("text", values.get("article")), RowKind.TEXT
    return Row(well_formed(content), kind) if isinstance(content, str) else None


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON lines file; raises ParameterError if a line has no content."""
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = row_of(parse_json(line))
        except ValueError as error:
            raise ParameterError(f"{path}, line {number}: not a JSON object: {error}") from None
        if row is None or not row.content.strip():
            raise ParameterError(f"{path}, line {number}: no {_EXPECTED} to read")
        yield row


def text_lines(path: Path) -> list[str]:
    return [line for line in _lines(path) if line.strip()]


def _lines(path: Path) -> list[str]:
    try:
        return split_lines(read_text(path))
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} cannot be read as text: {error}") from None


def prompt_texts(path: str | None, count: int | None = None) -> list[str]:
    """The first `count` prompts of a file, or all.

    The file is a `.jsonl` whose rows have `turns` (the first is taken), `prompt` or `text`, or any
    other with one prompt a line; None takes the built-in ones. Raises ParameterError if it is
    unreadable, a row has none of these, or there are too few.
    """
    if path is None:
        prompts = list(PROMPTS)
    else:
        file = expanded(path)
        is_json = file.suffix == ".jsonl"
        prompts = [row.content for row in json_rows(file)] if is_json else text_lines(file)
    if count is not None and len(prompts) < count:
        raise ParameterError(
            f"{path or 'the built-in set'} has {len(prompts)} prompts; ask for at most as many"
        )
    return prompts[:count]


def named_rows(name: str) -> Iterator[Row]:
    """Rows of a named set, fetched page by page; raises SequoiaError if they cannot be."""
    from huggingface_hub import HfApi

    wanted = NAMED[name]
    datasets = _datasets()
    try:
        # looked up once: `datasets` would try an unreachable hub for half a minute
        HfApi().dataset_info(wanted.repo_id, timeout=LONGEST_WAIT)
        yield from _rows(_opened(datasets, wanted), name)
    except SequoiaError:
        raise
    except Exception as error:  # datasets, fsspec and HTTP have hierarchies of their own
        raise SequoiaError(f"data set {name} ({wanted.repo_id}): {_problem(error)}") from None


def _opened(datasets: Any, wanted: HubSet) -> Any:
    load = partial(
        datasets.load_dataset, wanted.repo_id, wanted.config, split=wanted.split, streaming=True
    )
    try:
        return load()
    except RuntimeError as error:
        if "scripts" not in str(error):
            raise
        # the repository holds a program that makes the set; the hub keeps the result as Parquet
        return load(revision="refs/convert/parquet")


def folder_rows(folder: Path) -> Iterator[Row]:
    """Rows of a folder that `save_to_disk` wrote, or of one with Parquet, JSON or text files.

    The first of `SPLITS` that exists is read. Raises ParameterError if it is no data set.
    """
    datasets = _datasets()
    saved = any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))
    try:
        found = (
            datasets.load_from_disk(str(folder))
            if saved
            else datasets.load_dataset(str(folder), streaming=True)
        )
        if isinstance(found, dict):
            found = found[next((name for name in SPLITS if name in found), next(iter(found)))]
        yield from _rows(found, str(folder))
    except SequoiaError:
        raise
    except Exception as error:  # as in named_rows
        raise ParameterError(f"{folder} is no data set: {_first_line(error)}") from None


def _rows(found: Any, name: str) -> Iterator[Row]:
    for number, values in enumerate(found):
        row = row_of(values)
        if row is None:
            raise ParameterError(f"{name}, row {number}: no {_EXPECTED} to read")
        yield row


def _datasets() -> Any:
    import datasets
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    # its bars and warnings would be written across the screen
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    return datasets


def _problem(error: Exception) -> str:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    line = _first_line(error)
    if isinstance(error, GatedRepoError) or "gated" in line:
        return "access is gated; accept its terms on the hub and set HF_TOKEN"
    if isinstance(error, DatasetNotFoundError | RepositoryNotFoundError):
        return f"not found on the hub, or private; set HF_TOKEN if it is, or {_LOCAL}"
    cause: BaseException | None = error
    while cause is not None:
        if any(part in type(cause).__name__ for part in _CONNECTION_ERRORS):
            return f"the hub cannot be reached; {_LOCAL}"
        cause = cause.__cause__ or cause.__context__
    return f"it cannot be read ({line}); {_LOCAL}"


def _first_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= _LONGEST_PROBLEM else f"{line[: _LONGEST_PROBLEM - 1]}…"
