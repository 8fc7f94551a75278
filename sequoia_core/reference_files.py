"""Files of the reference code, read so that they cannot run code.

Owns the two formats: growmaps (a dict of lists and tensors) and acceptance vectors (a tensor, here
also JSON).
Hands over plain Python lists and knows nothing of `GrowMap`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.errors import GrowMapError
from sequoia_core.tree_order import breadth_first_order, children_from_successors

if TYPE_CHECKING:
    from torch import Tensor

_MAX_BYTES = 512_000_000
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
    with path.open("wb") as file:
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

    if not isinstance(vector, torch.Tensor) or vector.dim() != 1 or vector.numel() < 3:
        raise GrowMapError("a tensor [W + 2] is expected")
    entries = vector.to(torch.float64).tolist()
    if entries[0] != 0.0:
        raise GrowMapError(f"entry 0 is {entries[0]:g}; it must be 0, and entry k is a_k")
    _check_mass(entries)
    return tuple(entries[1:-1])


def _json_rates(path: Path) -> tuple[float, ...]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise GrowMapError("this is not valid JSON") from None
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
            path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
            return
        import torch

        with path.open("wb") as file:
            torch.save(torch.tensor([0.0, *rates, rejected], dtype=torch.float32), file)
    except OSError as error:
        raise GrowMapError(f"acceptance vector {path}: {error.strerror or error}") from None


def _load(path: Path) -> Any:
    if path.stat().st_size > _MAX_BYTES:
        raise GrowMapError(f"larger than {_MAX_BYTES:,} bytes")
    import torch

    with path.open("rb") as file:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        # Damaged bytes surface as almost any exception type from inside the unpickler.
        except Exception:
            raise GrowMapError(
                "not a PyTorch file of plain tensors and numbers (damaged, or it would run code)"
            ) from None


def _checked_children(data: dict[str, Any]) -> list[list[int]]:
    """Children of each node, once all entries agree; raises what comparing odd types raises."""
    children = children_from_successors(data["Successors"])
    depths = _depths(children)
    levels: list[list[int]] = [[] for _ in range(max(depths) + 1)]
    for node, depth in enumerate(depths):
        levels[depth].append(node)
    if data["size"] != len(children):
        raise GrowMapError(f"size is {data['size']!r:.40} but Successors has {len(children)} nodes")
    if data["roots"] != levels:
        raise GrowMapError("roots disagrees with Successors")
    if data["branches"] != [[len(children[node]) for node in level] for level in levels]:
        raise GrowMapError("branches disagrees with Successors")
    _check_tensors(data, children, depths)
    return children


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
    if not isinstance(depth, torch.Tensor) or depth.tolist() != depths:
        raise GrowMapError("depth disagrees with Successors")
    if not isinstance(mask, torch.Tensor) or mask.shape != (size, size):
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
