"""The shape of a speculated token tree, as an immutable value.

Owns what a shape is (parents, from which all else follows), its validation, its JSON and where the
packaged shapes lie. Knows nothing of tokens, models or how a shape is searched for; the reference
code's `.pt` format lives in `reference_files`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.errors import GrowMapError, suggest
from sequoia_core.files import parse_json, read_text, write_whole
from sequoia_core.tree import reference_files
from sequoia_core.tree.numbering import (
    breadth_first,
    check_size,
    children_from_parents,
    children_from_successors,
)

if TYPE_CHECKING:
    from torch import Tensor

_MAX_JSON_BYTES = 4_000_000
_MAX_LABEL = 500
_LONG_RUN = 5
_JSON_VERSION = 1
_JSON_KEYS = ("version", "name", "source", "acceptance_rates", "parents")


@dataclass(frozen=True, slots=True)
class GrowMap:
    """A tree shape. Nodes are renumbered breadth first, siblings side by side in rank order.

    Attributes:
        parents: parent of each node, -1 for the root, which is node 0.
        name: what a person calls it.
        acceptance_rates: the positional rates a_1, a_2, ... it was searched for; () if none.
        source: where its numbers come from, one line.
        size: nodes, root included, `T`.
        depths: edges from the root, per node.
        depth: the largest of them.
        levels: nodes of each depth.
        children: children of each node, first rank first.
        ranks: 1 for a first child, 2 for a second, ...; 0 for the root.
        branching: the largest number of children of one node.

    Raises:
        GrowMapError: the parents are no tree, or a rate or label is not one.
    """

    parents: tuple[int, ...]
    name: str = "custom"
    acceptance_rates: tuple[float, ...] = ()
    source: str = ""
    size: int = field(init=False, compare=False, repr=False)
    depths: tuple[int, ...] = field(init=False, compare=False, repr=False)
    depth: int = field(init=False, compare=False, repr=False)
    levels: tuple[tuple[int, ...], ...] = field(init=False, compare=False, repr=False)
    children: tuple[tuple[int, ...], ...] = field(init=False, compare=False, repr=False)
    ranks: tuple[int, ...] = field(init=False, compare=False, repr=False)
    branching: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for label in ("name", "source"):
            _check_label(label, getattr(self, label))
        self._set("acceptance_rates", _checked_rates(self.acceptance_rates))
        self._derive(breadth_first(*children_from_parents(self.parents)))

    @classmethod
    def numbered(cls, parents: Sequence[int], name: str) -> GrowMap:
        """A shape whose nodes are known to be numbered as this class numbers them.

        Nothing is checked: for shapes that are made anew every step.
        """
        return _numbered(tuple(parents), name)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _derive(self, parents: list[int]) -> None:
        children: list[list[int]] = [[] for _ in parents]
        depths, ranks = [0], [0]
        levels: list[list[int]] = [[0]]
        for node, parent in enumerate(parents[1:], start=1):
            children[parent].append(node)
            ranks.append(len(children[parent]))
            depths.append(depths[parent] + 1)
            if depths[node] == len(levels):
                levels.append([])
            levels[depths[node]].append(node)
        self._set("parents", tuple(parents))
        self._set("size", len(parents))
        self._set("depths", tuple(depths))
        self._set("depth", len(levels) - 1)
        self._set("levels", tuple(map(tuple, levels)))
        self._set("children", tuple(map(tuple, children)))
        self._set("ranks", tuple(ranks))
        self._set("branching", max(map(len, children)))

    def ancestor_mask(self) -> Tensor:
        """Bool [T, T] on the CPU, True where the column is the row or an ancestor of it."""
        import numpy as np
        import torch

        mask = np.eye(self.size, dtype=np.bool_)  # rows of numpy: adaptive shapes are new each step
        for node, parent in enumerate(self.parents[1:], start=1):
            mask[node] |= mask[parent]
        return torch.from_numpy(mask)

    def paths(self) -> list[tuple[int, ...]]:
        """The nodes from the root to each node, itself the last."""
        paths: list[tuple[int, ...]] = [(0,)]
        for node, parent in enumerate(self.parents[1:], start=1):
            paths.append((*paths[parent], node))
        return paths

    def node_probs(
        self, rates: Sequence[float], deeper: Sequence[Sequence[float]] = ()
    ) -> list[float]:
        """Probability that each node is accepted.

        Args:
            rates: a_1, a_2, ...; a rank past the end is never accepted.
            deeper: rates of children at depth 2, 3, ..., the last for all below; () is `rates` at
                every depth.
        """
        by_depth = (rates, *deeper)
        probs = [1.0]
        for node in range(1, self.size):
            parent, rank = self.parents[node], self.ranks[node]
            here = by_depth[min(self.depths[node], len(by_depth)) - 1]
            probs.append(probs[parent] * (here[rank - 1] if rank <= len(here) else 0.0))
        return probs

    def expected_tokens(
        self, rates: Sequence[float], deeper: Sequence[Sequence[float]] = ()
    ) -> float:
        """Expected tokens of one step, the bonus token included (Sequoia, section 3.1).

        The sum over nodes of the product of positional rates along the path; the root counts 1.
        """
        return math.fsum(self.node_probs(rates, deeper))

    def expected_by_depth(
        self, rates: Sequence[float], deeper: Sequence[Sequence[float]] = ()
    ) -> tuple[float, ...]:
        """Probability that a step accepts at least d drafted tokens, for d = 1 to `depth`."""
        probs = self.node_probs(rates, deeper)
        return tuple(math.fsum(probs[node] for node in level) for level in self.levels[1:])

    def widths(self) -> str:
        """Nodes per level as a line of text; a long run of equal levels as, say, `8 (x16)`."""
        parts: list[str] = []
        for width, run in groupby(map(len, self.levels)):
            count = len(list(run))
            parts += [f"{width} (x{count})"] if count >= _LONG_RUN else [str(width)] * count
        return " ".join(parts)

    @classmethod
    def chain(cls, length: int) -> GrowMap:
        """A path that drafts `length` tokens: `length + 1` nodes, the root is not drafted."""
        return cls.k_ary([1] * length, name=f"chain-{length}")

    @classmethod
    def k_ary(cls, branches: Sequence[int], name: str | None = None) -> GrowMap:
        """Every node of level i has `branches[i]` children; the level after the last has none."""
        parents, level = [-1], range(1)
        for width in branches:
            if width < 0:
                raise GrowMapError(f"{width} children per node; give 0 or more")
            check_size(len(parents) + len(level) * width)
            start = len(parents)
            parents += [node for node in level for _ in range(width)]
            level = range(start, len(parents))
        return cls(tuple(parents), name=name or "x".join(map(str, branches)) or "root")

    @classmethod
    def from_children(
        cls,
        children: Sequence[Sequence[int]],
        name: str = "custom",
        acceptance_rates: Sequence[float] = (),
        source: str = "",
    ) -> GrowMap:
        """From each node's children in rank order; node 0 is the root, the numbering is free."""
        parents = breadth_first(0, children_from_successors(children))
        return cls(tuple(parents), name, tuple(acceptance_rates), source)

    def to_json(self) -> str:
        """One key a line, so that a diff of two shapes can be read."""
        values = (_JSON_VERSION, self.name, self.source, self.acceptance_rates, self.parents)
        lines = (
            f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
            for key, value in zip(_JSON_KEYS, values, strict=True)
        )
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> GrowMap:
        """Read what `to_json` wrote; only `parents` is required.

        Raises:
            GrowMapError: it is no JSON, or no tree shape.
        """
        try:
            data = parse_json(text)
        except ValueError as error:
            raise GrowMapError(f"this is not valid JSON: {error}") from None
        if not isinstance(data, dict) or not isinstance(data.get("parents"), list):
            raise GrowMapError('a JSON object with a list "parents" is expected')
        unknown = sorted(data.keys() - set(_JSON_KEYS))
        if unknown:
            raise GrowMapError(
                f"unknown entry {unknown[0][:80]!r}; known are {', '.join(_JSON_KEYS)}"
            )
        if data.get("version", _JSON_VERSION) != _JSON_VERSION:
            raise GrowMapError(
                f"version {data['version']!r:.40} is not known; this reads version 1"
            )
        rates = data.get("acceptance_rates", [])
        if not isinstance(rates, list):
            raise GrowMapError('"acceptance_rates" is not a list of numbers')
        labels = {key: data[key] for key in ("name", "source") if key in data}
        return cls(tuple(data["parents"]), acceptance_rates=tuple(rates), **labels)

    @classmethod
    def load(cls, path: str | Path) -> GrowMap:
        """Read a JSON or a reference `.pt` file, told apart by content or name.

        Raises:
            GrowMapError: one line that names the file.
        """
        path = Path(path).expanduser()
        try:
            if not path.is_file():
                raise GrowMapError("not a regular file" if path.exists() else "no such file")
            if reference_files.looks_like_torch(path):
                children = reference_files.read_growmap(path)
                return cls.from_children(children, path.stem, source="read from a .pt file")
            if path.stat().st_size > _MAX_JSON_BYTES:
                raise GrowMapError(f"larger than {_MAX_JSON_BYTES:,} bytes; no tree shape is")
            return cls.from_json(read_text(path))
        except GrowMapError as error:
            raise GrowMapError(f"growmap {path}: {error}") from None
        except UnicodeDecodeError:
            raise GrowMapError(f"growmap {path}: neither JSON in UTF-8 nor a .pt file") from None
        except OSError as error:
            raise GrowMapError(f"growmap {path}: {error.strerror or error}") from None

    def save(self, path: str | Path) -> None:
        """Write JSON, or the reference's format where the name ends in `.pt`.

        Raises:
            GrowMapError: the name ends in something else, or the file cannot be written.
        """
        path = Path(path).expanduser()
        try:
            if path.suffix == ".json":
                write_whole(path, self.to_json())
            elif path.suffix == ".pt":
                if self.size > reference_files.MAX_NODES_WRITTEN:
                    raise GrowMapError(
                        f"growmap {path}: a .pt file holds a mask of nodes x nodes, too large for "
                        f"{self.size:,} nodes; give a name that ends in .json"
                    )
                reference_files.write_growmap(
                    path, self.levels, self.children, self.ancestor_mask()
                )
            else:
                raise GrowMapError(f"growmap {path}: the name must end in .json or .pt")
        except OSError as error:
            raise GrowMapError(f"growmap {path}: {error.strerror or error}") from None


@lru_cache(maxsize=256)  # the shapes of adaptive trees come again and again
def _numbered(parents: tuple[int, ...], name: str) -> GrowMap:
    growmap = object.__new__(GrowMap)
    growmap._set("name", name)
    growmap._set("source", "")
    growmap._set("acceptance_rates", ())
    growmap._derive(list(parents))
    return growmap


def growmap_names() -> list[str]:
    """Names of the packaged shapes, folders included, for instance `chain/4`."""
    folder = _packaged_folder()
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.json")
    )


def find_growmap(name_or_path: str, others: tuple[str, ...] = ()) -> GrowMap:
    """A packaged shape by name, or else a file by path.

    Args:
        name_or_path: of the shape.
        others: what else may be given where the shape was named, for the error.

    Raises:
        GrowMapError: neither exists (similar names are listed), or the file is malformed.
    """
    names = growmap_names()
    name = name_or_path.removesuffix(".json")
    if name in names:
        return GrowMap.load(_packaged_folder() / f"{name}.json")
    path = Path(name_or_path).expanduser()
    if path.exists() or path.suffix in {".json", ".pt"}:
        return GrowMap.load(path)
    also = f"{', '.join(others)} and " if others else ""
    every = f"there is {also}what `sequoia growmap list` names"
    hint = suggest(name, [*others, *names], otherwise=every, most=3)
    raise GrowMapError(f"growmap {name_or_path}: no such file or name; {hint}")


def _packaged_folder() -> Path:
    """Beside this module when installed, beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "growmaps"
    return installed if installed.is_dir() else package.parent / "growmaps"


def _check_label(label: str, text: object) -> None:
    if not isinstance(text, str) or len(text) > _MAX_LABEL or not text.isprintable():
        raise GrowMapError(f"{label} must be one printable line of at most {_MAX_LABEL} characters")


def _checked_rates(rates: Iterable[Any]) -> tuple[float, ...]:
    checked = tuple(rates)
    for rate in checked:
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
            raise GrowMapError(f"acceptance rate {rate!r:.40} is not a probability")
    return tuple(float(rate) for rate in checked)
