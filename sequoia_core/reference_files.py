"""Files of the reference code, read so that they cannot run code.

Owns the two formats: growmaps (a dict of lists and tensors) and acceptance vectors (a tensor).
Hands over plain Python lists and knows nothing of `GrowMap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.errors import GrowMapError
from sequoia_core.tree_order import breadth_first_order, children_from_successors

if TYPE_CHECKING:
    from torch import Tensor

_MAX_BYTES = 512_000_000
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
    """a_1, a_2, ... of a saved acceptance vector.

    Entry 0 (always 0) and the last one (the mass that every child missed) are dropped.

    Raises:
        GrowMapError: one line that names the file.
    """
    path = Path(path).expanduser()
    try:
        vector = _load(path)
    except GrowMapError as error:
        raise GrowMapError(f"acceptance vector {path}: {error}") from None
    except OSError as error:
        raise GrowMapError(f"acceptance vector {path}: {error.strerror or error}") from None
    import torch

    if not isinstance(vector, torch.Tensor) or vector.dim() != 1 or vector.numel() < 3:
        raise GrowMapError(f"acceptance vector {path}: a tensor [W + 2] is expected")
    rates = vector[1:-1].to(torch.float64)
    if not bool(((rates >= 0) & (rates <= 1)).all()):
        raise GrowMapError(f"acceptance vector {path}: an entry is not a probability")
    return tuple(float(rate) for rate in rates)


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
