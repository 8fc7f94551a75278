"""Files of tree shapes and of acceptance vectors: this project's JSON and the reference's `.pt`."""

import json
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from sequoia_core import files
from sequoia_core.errors import GrowMapError, suggest
from sequoia_core.tree.growmap import MAX_NODES, GrowMap
from sequoia_core.tree.torch_file import is_stored, looks_like_torch, read_torch

_Saved = TypeVar("_Saved", bound=files.Record)
_MAX_JSON_BYTES = 4_000_000
_ENTRIES = ("roots", "branches", "Successors", "mask", "depth", "size")
_MOST_NODES_WRITTEN = 7_900  # the int64 mask of more has more bytes than `torch_file` reads
_MAX_RATES = 65_536
_MAX_DEPTHS = 256  # with rates of their own
_ROUNDING = 1e-3  # Float16 entries of a whole vector add up to 1 no better than that


def growmap_names() -> list[str]:
    """Names of the packaged shapes, folders included, for instance `chain/4`."""
    folder = _packaged_folder()
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.json")
    )


def find_growmap(name_or_path: str, others: tuple[str, ...] = ()) -> GrowMap:
    """A packaged shape by name, or else a file by path.

    Raises GrowMapError if neither exists, listing similar names and `others`, which may also be
    given where the shape was named; or if the file is malformed.
    """
    names = growmap_names()
    name = name_or_path.removesuffix(".json")
    if name in names:
        return load_growmap(_packaged_folder() / f"{name}.json")
    path = files.expanded(name_or_path)
    if files.path_exists(path) or path.suffix in {".json", ".pt"}:
        return load_growmap(path)
    also = f"{', '.join(others)} and " if others else ""
    every = f"there is {also}what `sequoia growmap list` names"
    hint = suggest(name, [*others, *names], otherwise=every, most=3)
    raise GrowMapError(f"growmap {name_or_path}: no such file or name; {hint}")


def largest_packaged(start: str, most_nodes: int, most_depth: int) -> GrowMap | None:
    """Of the packaged shapes whose names begin so, the one with the most nodes within limits."""
    shapes = (find_growmap(name) for name in growmap_names() if name.startswith(start))
    fitting = (each for each in shapes if each.size <= most_nodes and each.depth <= most_depth)
    return max(fitting, key=lambda each: each.size, default=None)


def _packaged_folder() -> Path:
    """In the package when installed, next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "growmaps"
    return installed if installed.is_dir() else package.parent / "growmaps"


def load_growmap(path: str | Path) -> GrowMap:
    """Read JSON or a reference `.pt` file, by content or name; raises GrowMapError."""
    path = files.expanded(path)
    with _naming("growmap", path):
        if not path.is_file():
            raise GrowMapError("not a regular file" if path.exists() else "no such file")
        if looks_like_torch(path):
            return _from_reference(read_torch(path), path.stem)
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise GrowMapError(f"larger than {_MAX_JSON_BYTES:,} bytes; no tree shape is")
        saved = _decoded(_SavedGrowMap, path, "tree shape")
        return GrowMap(
            saved.parents, saved.name, saved.acceptance_rates, saved.source, saved.deeper_rates
        )


def save_growmap(growmap: GrowMap, path: str | Path) -> None:
    """Write JSON, or the reference's format where the name ends in `.pt`; raises GrowMapError."""
    path = files.expanded(path)
    with _naming("growmap", path):
        if _is_json(path):
            files.write_whole(path, _to_json(growmap))
        else:
            _write_reference(growmap, path)


class _SavedGrowMap(files.Record, frozen=True):
    parents: tuple[int, ...]
    version: Literal[1] = 1
    name: str = "custom"
    source: str = ""
    acceptance_rates: tuple[float, ...] = ()
    deeper_rates: tuple[tuple[float, ...], ...] = ()


def _to_json(growmap: GrowMap) -> str:
    """One key a line, so that a diff of two shapes can be read."""
    deeper = ("deeper_rates",) if growmap.deeper_rates else ()
    keys = ("name", "source", "acceptance_rates", *deeper, "parents")
    values = {key: getattr(growmap, key) for key in keys}
    lines = (
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in {"version": 1, **values}.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _write_reference(growmap: GrowMap, path: Path) -> None:
    if growmap.size > _MOST_NODES_WRITTEN:
        raise GrowMapError(
            f"a .pt file holds a mask of nodes x nodes, too large for {growmap.size:,} nodes; give "
            "a name that ends in .json"
        )
    import torch

    data = {
        **_levels(growmap),
        "Successors": list(map(list, growmap.children)),
        "mask": growmap.ancestor_mask().to(torch.int64),
        "depth": torch.tensor(growmap.depths),
        "size": growmap.size,
    }
    with files.written_whole(path) as file:
        torch.save(data, file)


def _from_reference(data: Any, name: str) -> GrowMap:
    """The shape that `Successors` states; every other entry must agree with it."""
    if not isinstance(data, dict) or any(entry not in data for entry in _ENTRIES):
        raise GrowMapError(f"a dict with {', '.join(_ENTRIES)} is expected")
    try:
        successors = _rows(data, "Successors")
        if list(chain.from_iterable(successors)) != list(range(1, len(successors))):
            raise GrowMapError("Successors does not number the nodes level by level")
        parents = [node for node, row in enumerate(successors) for _ in row]
        growmap = GrowMap((-1, *parents), name, source="read from a .pt file")
        if (size := _whole(data["size"], "size")) != growmap.size:
            raise GrowMapError(f"size is {size!r:.40} but Successors has {growmap.size} nodes")
        for entry, rows in _levels(growmap).items():
            if _rows(data, entry) != rows:
                raise GrowMapError(f"{entry} disagrees with Successors")
        _check_tensors(data, growmap)
    except (RuntimeError, TypeError, ValueError):
        raise GrowMapError("an entry is of another type than the format has") from None
    return growmap


def _levels(growmap: GrowMap) -> dict[str, list[list[int]]]:
    children = growmap.children
    return {
        "roots": list(map(list, growmap.levels)),
        "branches": [[len(children[node]) for node in level] for level in growmap.levels],
    }


def _check_tensors(data: Mapping[str, Any], growmap: GrowMap) -> None:
    import torch

    size, depth, mask = growmap.size, data["depth"], data["mask"]
    depths = torch.tensor(growmap.depths)
    if not is_stored(depth) or depth.shape != (size,) or not bool((depth == depths).all()):
        raise GrowMapError("depth disagrees with Successors")
    if not is_stored(mask) or mask.shape != (size, size):
        raise GrowMapError(f"mask is not a [{size}, {size}] tensor")
    if not bool((mask == growmap.ancestor_mask()).all()):
        raise GrowMapError("mask disagrees with Successors")


def _rows(data: Mapping[str, Any], entry: str) -> list[list[int]]:
    """An entry that is a list of lists of whole numbers, no more of them than a tree can have.

    A pickle can name one list a million times, so lengths are looked at before what is in them.
    """
    rows = data[entry]
    if type(rows) is not list or any(type(row) is not list for row in rows):
        raise GrowMapError(f"{entry} is not a list of lists")
    if max(len(rows), sum(map(len, rows))) > MAX_NODES:
        raise GrowMapError(f"{entry} has more than {MAX_NODES:,} nodes")
    return [[_whole(value, entry) for value in row] for row in rows]


def _whole(value: Any, entry: str) -> int:
    """A whole number; a tensor only where it has no dimension, since others may be endless."""
    if type(value) is int or getattr(value, "shape", None) == ():
        return operator.index(value)
    raise GrowMapError(f"{entry}: whole numbers are expected")


def read_acceptance_rates(path: str | Path) -> tuple[tuple[float, ...], ...]:
    """a_1, a_2, ... of a saved acceptance vector, the reference's `.pt` or this project's JSON.

    JSON may have more such rates, of depth 2, 3, ..., the last for all below. Of a `.pt` file entry
    0 (always 0) and the last one (the mass that every child missed) are dropped. A measured vector
    is noisy: it need not fall, and is taken as it is. Raises GrowMapError.
    """
    path = files.expanded(path)
    with _naming("acceptance vector", path):
        return _json_rates(path) if path.suffix == ".json" else _torch_rates(path)


def _torch_rates(path: Path) -> tuple[tuple[float, ...], ...]:
    vector = read_torch(path)
    if not is_stored(vector) or vector.dim() != 1 or not 3 <= vector.numel() <= _MAX_RATES:
        raise GrowMapError(f"a tensor [W + 2] of at most {_MAX_RATES:,} real numbers is expected")
    entries = vector.double().tolist()
    if entries[0] != 0.0:
        raise GrowMapError(f"entry 0 is {entries[0]:g}; it must be 0, and entry k is a_k")
    _check_mass(entries)
    return (tuple(entries[1:-1]),)


class _SavedRates(files.Record, frozen=True, forbid_unknown_fields=False):
    acceptance_rates: tuple[float, ...]
    deeper_rates: tuple[tuple[float, ...], ...] = ()


def _json_rates(path: Path) -> tuple[tuple[float, ...], ...]:
    saved = _decoded(_SavedRates, path, "acceptance vector")
    by_depth = (saved.acceptance_rates, *saved.deeper_rates)
    if not all(by_depth):
        entry = "deeper_rates" if saved.acceptance_rates else "acceptance_rates"
        raise GrowMapError(f'"{entry}" is empty, or holds rates that are')
    if len(by_depth) > _MAX_DEPTHS:
        raise GrowMapError(f'"deeper_rates" has more than {_MAX_DEPTHS - 1} depths')
    for rates in by_depth:
        _check_mass([0.0, *rates])
    return by_depth


def _check_mass(entries: Sequence[float]) -> None:
    """Entry k is the mass of rank k."""
    for rank, rate in enumerate(entries):
        if math.isnan(rate):
            raise GrowMapError(f"entry {rank} is not a number")
        if not 0.0 <= rate <= 1.0:
            raise GrowMapError(f"entry {rank} is {rate:g}, which is not a probability")
    total = math.fsum(entries)
    if total > 1.0 + _ROUNDING:
        raise GrowMapError(
            f"its entries add up to {total:.4g}; of one position at most one child is accepted, so "
            f"they add up to at most 1"
        )


def write_acceptance_rates(
    path: str | Path, rates: Sequence[float], rejected: float, about: Mapping[str, Any]
) -> None:
    """Write an acceptance vector, as JSON or the way the reference does, by the name's ending.

    `rejected` is the mass that every child missed; `about` is what else is known, `deeper_rates`
    too, for JSON. Raises GrowMapError.
    """
    path = files.expanded(path)
    with _naming("acceptance vector", path):
        if _is_json(path):
            values = {"acceptance_rates": list(rates), "rejected": rejected, **about}
            files.write_whole(path, json.dumps(values, indent=1) + "\n")
            return
        import torch

        with files.written_whole(path) as file:
            torch.save(torch.tensor([0.0, *rates, rejected], dtype=torch.float32), file)


@contextmanager
def _naming(what: str, path: Path) -> Iterator[None]:
    """Errors of reading or writing a file as a GrowMapError that says which one."""
    try:
        yield
    except GrowMapError as error:
        raise GrowMapError(f"{what} {path}: {error}") from None
    except OSError as error:
        raise GrowMapError(f"{what} {path}: {error.strerror or error}") from None


def _decoded(kind: type[_Saved], path: Path, what: str) -> _Saved:
    try:
        saved: _Saved = files.decode(kind, files.parse_json(files.read_text(path, _MAX_JSON_BYTES)))
    except files.MisfitError as error:
        raise GrowMapError(f"this is no {what}: {error}") from None
    except ValueError as error:
        raise GrowMapError(f"this is not valid JSON: {error}") from None
    return saved


def _is_json(path: Path) -> bool:
    """Whether a name asks for JSON, and not for the reference's format."""
    if path.suffix not in (".json", ".pt"):
        raise GrowMapError("the name must end in .json or .pt")
    return path.suffix == ".json"
