"""Files of the reference code, read so that they cannot run code.

Owns the two formats: growmaps (a dict of lists and tensors) and acceptance vectors (a tensor, here
also JSON).
Hands over plain Python lists and knows nothing of `GrowMap`.
"""

from __future__ import annotations

import io
import json
import math
import operator
import pickletools
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeGuard

from sequoia_core.errors import GrowMapError
from sequoia_core.files import parse_json, read_text, write_whole, written_whole
from sequoia_core.tree.numbering import MAX_NODES, breadth_first_order, children_from_successors

if TYPE_CHECKING:
    from torch import Tensor

_MAX_BYTES = 512_000_000
_MAX_JSON_BYTES = 4_000_000
_MAX_RATES = 65_536
MAX_NODES_WRITTEN = 7_900
"""The mask of more has more than `_MAX_BYTES`, so that the file could not be read again."""
_ARCHIVE, _PICKLED = b"PK\x03\x04", "data.pkl"
_CALLABLES = frozenset({"torch._utils _rebuild_tensor_v2", "collections OrderedDict"})
"""All that the two formats call; the storage types are names only."""
_RATES = "acceptance_rates"
_ROUNDING = 1e-3
"""Float16 entries of a whole vector add up to 1 no better than that."""
_ENTRIES = ("roots", "branches", "Successors", "mask", "depth", "size")


def looks_like_torch(path: Path) -> bool:
    """True for a zip archive, a pickle, or a name that ends in `.pt`.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(4)
    return path.suffix == ".pt" or head.startswith((b"PK\x03\x04", b"\x80\x02"))


def read_growmap(path: Path) -> list[list[int]]:
    """Children of each node in rank order; every entry of the file must agree with them.

    Raises:
        GrowMapError: the file is damaged or inconsistent. The message does not name it.
        OSError: the file cannot be read.
    """
    data = _load(path)
    if not isinstance(data, dict) or any(entry not in data for entry in _ENTRIES):
        raise GrowMapError(f"a dict with {', '.join(_ENTRIES)} is expected")
    try:
        return _checked_children(data)
    except (RuntimeError, TypeError, ValueError):
        raise GrowMapError("an entry is of another type than the format has") from None


def write_growmap(
    path: Path,
    levels: Sequence[Sequence[int]],
    children: Sequence[Sequence[int]],
    ancestor_mask: Tensor,
) -> None:
    """Write a breadth-first tree the way the reference does.

    Raises:
        OSError: the file cannot be written.
    """
    import torch

    depth = [index for index, level in enumerate(levels) for _ in level]
    data = {
        "roots": [list(level) for level in levels],
        "branches": [[len(children[node]) for node in level] for level in levels],
        "Successors": [list(row) for row in children],
        "mask": ancestor_mask.to(torch.int64),
        "depth": torch.tensor(depth, dtype=torch.int64),
        "size": len(children),
    }
    with written_whole(path) as file:
        torch.save(data, file)


def read_acceptance_rates(path: str | Path) -> tuple[float, ...]:
    """a_1, a_2, ... of a saved acceptance vector, the reference's `.pt` or this project's JSON.

    Of a `.pt` file entry 0 (always 0) and the last one (the mass that every child missed) are
    dropped. A measured vector is noisy: it need not fall, and is taken as it is.

    Raises:
        GrowMapError: one line that names the file.
    """
    path = Path(path).expanduser()
    try:
        return _json_rates(path) if path.suffix == ".json" else _torch_rates(path)
    except GrowMapError as error:
        raise GrowMapError(f"acceptance vector {path}: {error}") from None
    except OSError as error:
        raise GrowMapError(f"acceptance vector {path}: {error.strerror or error}") from None


def _torch_rates(path: Path) -> tuple[float, ...]:
    vector = _load(path)
    import torch

    if not _is_plain(vector) or vector.dim() != 1 or not 3 <= vector.numel() <= _MAX_RATES:
        raise GrowMapError(f"a tensor [W + 2] of at most {_MAX_RATES:,} real numbers is expected")
    entries = vector.to(torch.float64).tolist()
    if entries[0] != 0.0:
        raise GrowMapError(f"entry 0 is {entries[0]:g}; it must be 0, and entry k is a_k")
    _check_mass(entries)
    return tuple(entries[1:-1])


def _json_rates(path: Path) -> tuple[float, ...]:
    try:
        data = parse_json(read_text(path, _MAX_JSON_BYTES))
    except ValueError as error:
        raise GrowMapError(f"this is not valid JSON: {error}") from None
    rates = data.get(_RATES) if isinstance(data, dict) else None
    if not isinstance(rates, list) or not rates or any(type(r) not in (int, float) for r in rates):
        raise GrowMapError(f'a JSON object with a list of numbers "{_RATES}" is expected')
    _check_mass([0.0, *rates])
    return tuple(map(float, rates))


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

    Args:
        path: ends in `.json` or `.pt`.
        rates: a_1 to a_W.
        rejected: the mass that every child missed.
        about: what else is known of it, for JSON; the reference's format has no room for it.

    Raises:
        GrowMapError: the name ends in something else, or the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".json", ".pt"):
        raise GrowMapError(f"acceptance vector {path}: the name must end in .json or .pt")
    try:
        if path.suffix == ".json":
            values = {_RATES: list(rates), "rejected": rejected, **about}
            write_whole(path, json.dumps(values, indent=1) + "\n")
            return
        import torch

        with written_whole(path) as file:
            torch.save(torch.tensor([0.0, *rates, rejected], dtype=torch.float32), file)
    except OSError as error:
        raise GrowMapError(f"acceptance vector {path}: {error.strerror or error}") from None


def _load(path: Path) -> Any:
    """The content of a `.pt` file; nothing is built from it that the file is not large enough for.

    Tensors are not larger than what is stored for them only where `_is_plain`.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise GrowMapError(f"larger than {_MAX_BYTES:,} bytes")
    with path.open("rb") as file:
        if file.read(4) != _ARCHIVE:
            raise _not_plain()
        checked = _checked_archive(file)
    import torch

    try:
        return torch.load(checked, map_location="cpu", weights_only=True)
    # Damaged bytes surface as almost any exception type from inside the unpickler.
    except Exception:
        raise _not_plain() from None


def _checked_archive(file: IO[bytes]) -> io.BytesIO:
    """A copy of the archive, of stored members and calls that make tensors only.

    torch reads the copy, so that no second reader of zip files can see something else in it.
    """
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as made:
            members = archive.infolist()
            if any(each.compress_type != zipfile.ZIP_STORED for each in members):
                raise GrowMapError("compressed; PyTorch stores its files as they are")
            if sum(each.file_size for each in members) > _MAX_BYTES:
                raise GrowMapError(f"it declares more than {_MAX_BYTES:,} bytes")
            for each in members:
                content = archive.read(each)
                if each.filename.endswith(_PICKLED):
                    _check_calls(content)
                made.writestr(each.filename, content)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise _not_plain() from None
    copy.seek(0)
    return copy


def _check_calls(pickled: bytes) -> None:
    """Refuse a pickle that calls anything but what makes a tensor."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "BUILD"):
            raise _not_plain()
        if opcode.name == "GLOBAL" and argument not in _CALLABLES:
            module, _, name = str(argument).partition(" ")
            if module != "torch" or not name.endswith("Storage"):
                raise _not_plain()


def _not_plain() -> GrowMapError:
    return GrowMapError(
        "not a PyTorch file of plain tensors and numbers (damaged, saved before PyTorch 1.6, or it "
        "would run code)"
    )


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor of which every number is stored."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_complex()
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def _checked_children(data: dict[str, Any]) -> list[list[int]]:
    """Children of each node, once all entries agree; raises what comparing odd types raises."""
    children = children_from_successors(_rows(data, "Successors"))
    depths = _depths(children)
    levels: list[list[int]] = [[] for _ in range(max(depths) + 1)]
    for node, depth in enumerate(depths):
        levels[depth].append(node)
    size = _whole(data["size"], "size")
    if size != len(children):
        raise GrowMapError(f"size is {size!r:.40} but Successors has {len(children)} nodes")
    if _rows(data, "roots") != levels:
        raise GrowMapError("roots disagrees with Successors")
    if _rows(data, "branches") != [[len(children[node]) for node in level] for level in levels]:
        raise GrowMapError("branches disagrees with Successors")
    _check_tensors(data, children, depths)
    return children


def _rows(data: dict[str, Any], entry: str) -> list[list[int]]:
    """An entry that is a list of lists of whole numbers, no more of them than a tree can have.

    A pickle can name one list a million times, so lengths are looked at before what is in them.
    """
    rows = data[entry]
    if type(rows) is not list or any(type(row) is not list for row in rows):
        raise GrowMapError(f"{entry} is not a list of lists")
    if max(len(rows), sum(map(len, rows))) > MAX_NODES:
        raise GrowMapError(f"{entry} has more than {MAX_NODES:,} nodes")
    return [[_whole(value, entry) for value in row] for row in rows]


def _whole(value: object, entry: str) -> int:
    import torch

    if type(value) is int:
        return value
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        return operator.index(value)
    raise GrowMapError(f"{entry}: whole numbers are expected")


def _depths(children: list[list[int]]) -> list[int]:
    """Depth of each node, in the file's own numbering."""
    depths = [0] * len(children)
    for node in breadth_first_order(0, children):
        for child in children[node]:
            depths[child] = depths[node] + 1
    return depths


def _check_tensors(data: dict[str, Any], children: list[list[int]], depths: list[int]) -> None:
    import torch

    size = len(children)
    depth, mask = data["depth"], data["mask"]
    if not _is_plain(depth) or depth.shape != (size,) or depth.tolist() != depths:
        raise GrowMapError("depth disagrees with Successors")
    if not _is_plain(mask) or mask.shape != (size, size):
        raise GrowMapError(f"mask is not a [{size}, {size}] tensor")
    allowed = mask != 0
    if not bool((mask == allowed).all()) or not bool(allowed.diagonal().all()):
        raise GrowMapError("mask disagrees with Successors")
    # By induction from the root: a row is its parent's row and itself, nothing else.
    if int(allowed[0].sum()) != 1:
        raise GrowMapError("mask disagrees with Successors")
    for node, row in enumerate(children):
        if not row:
            continue
        expected = allowed[node].repeat(len(row), 1)  # [children, T]
        expected[range(len(row)), row] = True
        if not torch.equal(allowed[row], expected):
            raise GrowMapError("mask disagrees with Successors")
