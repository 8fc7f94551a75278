"""Named data sets of the hub, and folders of `datasets` on disk.

Rows are streamed, so that of a large set only the first pages are fetched. `datasets` is imported
only where a set is read with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sequoia_core.data.prompts import EXPECTED, Row, row_of
from sequoia_core.errors import ParameterError, SequoiaError

SPLITS = ("test", "validation", "train")  # parts of a local data set, in order of preference
LONGEST_WAIT = 10.0  # seconds until the hub counts as unreachable
_LONGEST_PROBLEM = 200
_LOCAL = "a .jsonl or .txt file or a `datasets` folder on disk can be given instead"
_CONNECTION_ERRORS = ("Connect", "Timeout", "Offline", "LocalEntryNotFound", "gaierror")
"""Parts of the names of their classes."""


@dataclass(frozen=True, slots=True)
class HubSet:
    """A public data set; `config` is None where it has only one."""

    repo_id: str
    config: str | None
    split: str


NAMED: Mapping[str, HubSet] = MappingProxyType(
    {
        "cnn": HubSet("abisee/cnn_dailymail", "3.0.0", "test"),
        "openwebtext": HubSet("Skylion007/openwebtext", None, "train"),
        "c4": HubSet("allenai/c4", "en", "validation"),
        "wiki": HubSet("Salesforce/wikitext", "wikitext-2-raw-v1", "train"),
        "mt-bench": HubSet("HuggingFaceH4/mt_bench_prompts", None, "train"),
    }
)


def named_rows(name: str) -> Iterator[Row]:
    """Rows of a named set, fetched as they are read; raises SequoiaError if they cannot be."""
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
            raise ParameterError(f"{name}, row {number}: no {EXPECTED} to read")
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
