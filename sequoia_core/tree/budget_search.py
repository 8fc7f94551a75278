"""The release's `tree_search.py`: its config file, and its choice over budgets and levels.

Its depth counts levels, the root's included: `max_depth` 10 is 9 edges. Its step costs a drafting
pass a level, one more than an engine runs, which drafts nothing from the last level.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sequoia_core import files
from sequoia_core.errors import ParameterError
from sequoia_core.tree.files import read_acceptance_rates
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import MAX_SEARCH_NODES, TreeTable, expected_tokens_table

MOST_LEVELS = 256
_MAX_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """What to search for, times in milliseconds; raises ParameterError if out of range.

    `rates` are a_1, a_2, ... of depth 1, 2, ..., the last of them for all below.
    """

    rates: tuple[tuple[float, ...], ...]
    max_depth: int
    max_budget: int
    draft_time: float
    target_time: Mapping[int, float]

    def __post_init__(self) -> None:
        if not self.rates or not self.branches:
            raise ParameterError("there is no acceptance rate to search with")
        if not 1 <= self.max_depth <= MOST_LEVELS:
            raise ParameterError(f"max_depth is {self.max_depth}; give 1 to {MOST_LEVELS} levels")
        if not 1 <= self.max_budget <= MAX_SEARCH_NODES:
            raise ParameterError(
                f"max_budget is {self.max_budget}; give 1 to {MAX_SEARCH_NODES} nodes"
            )
        if not (math.isfinite(self.draft_time) and self.draft_time >= 0.0):
            raise ParameterError(f"draft_time is {self.draft_time}; give milliseconds, 0 or more")
        if not self.target_time:
            raise ParameterError("valid_budget is empty; give the numbers of nodes to consider")
        for nodes, ms in self.target_time.items():
            if not 1 <= nodes <= self.max_budget:
                raise ParameterError(
                    f"valid_budget has {nodes} nodes, which is not from 1 to max_budget, "
                    f"{self.max_budget}"
                )
            if not (math.isfinite(ms) and ms > 0.0):
                raise ParameterError(
                    f"target_time of {nodes} nodes is {ms}; give milliseconds above 0"
                )

    @property
    def branches(self) -> int:
        """Most children of a node that have a rate."""
        return max(map(len, self.rates))

    @property
    def plain_nodes(self) -> int:
        """Nodes of the forward that a speed-up is over: one, or else the first budget."""
        return 1 if 1 in self.target_time else next(iter(self.target_time))


@dataclass(frozen=True, slots=True)
class Candidate:
    """The best tree of exactly so many nodes and at most so many levels, the root's included."""

    nodes: int
    levels: int
    expected_tokens: float
    step_ms: float

    @property
    def ms_per_token(self) -> float:
        return self.step_ms / self.expected_tokens


@dataclass(frozen=True, slots=True)
class SearchResult:
    """All candidates, by budget in the order given, then by levels, and the fastest."""

    candidates: tuple[Candidate, ...]
    best: Candidate
    tree: GrowMap
    plain_ms: float

    def speedup(self, candidate: Candidate) -> float:
        return self.plain_ms / candidate.ms_per_token

    def best_of(self, nodes: int) -> Candidate | None:
        """The best depth for a budget; None where no tree of so many nodes fits."""
        own = [each for each in self.candidates if each.nodes == nodes]
        return min(own, key=lambda each: each.ms_per_token, default=None)


def search(config: SearchConfig, source: str = "") -> SearchResult:
    """The release's exhaustive choice over budgets and levels.

    `source` says in the tree's file where rates and times come from. Raises ParameterError if no
    budget can be reached within the levels.
    """
    nodes = max(config.target_time)
    rates, *deeper = config.rates
    table = expected_tokens_table(rates, nodes, config.max_depth - 1, config.branches, deeper)
    candidates = tuple(_candidates(config, table))
    if not candidates:
        raise ParameterError(
            f"no tree of {', '.join(map(str, config.target_time))} nodes has at most "
            f"{config.max_depth} levels and {config.branches} children a node; raise max_depth"
        )
    best = min(candidates, key=lambda each: each.ms_per_token)
    tree = table.tree(best.nodes, best.levels - 1, source=source)
    return SearchResult(candidates, best, tree, config.target_time[config.plain_nodes])


def _candidates(config: SearchConfig, table: TreeTable) -> Iterator[Candidate]:
    for nodes, target_ms in config.target_time.items():
        full, level = 0, 1  # nodes of a full tree and of its last level, up to enough
        for levels in range(1, config.max_depth + 1):
            full = min(full + level, nodes)
            level = min(level * len(config.rates[min(levels, len(config.rates)) - 1]), nodes)
            if full == nodes:
                tokens = float(table.values[nodes, levels - 1])
                step_ms = target_ms + levels * config.draft_time
                yield Candidate(nodes, levels, tokens, step_ms)


@dataclass(frozen=True, slots=True)
class SearchFile:
    """A config file, the file its rates were read from, and where the tree goes."""

    config: SearchConfig
    vector: Path
    dst: Path

    @classmethod
    def read(cls, path: Path) -> "SearchFile":
        """Read the release's config; relative paths in it start at its folder, else here.

        Raises ParameterError, or GrowMapError if the acceptance vector cannot be used.
        """
        path = files.expanded(path)
        try:
            data = files.decode(_Entries, files.parse_json(files.read_text(path, _MAX_BYTES)))
            vector = _resolved(path, data.acceptance_rate_vector)
            config = SearchConfig(
                rates=read_acceptance_rates(vector),
                max_depth=data.max_depth,
                max_budget=data.max_budget,
                draft_time=data.draft_time,
                target_time=paired(data.valid_budget, data.target_time),
            )
            return cls(config, vector, _resolved(path, data.dst, new=True))
        except OSError as error:
            why = f"it cannot be read: {error.strerror or error}"
        except (files.MisfitError, ParameterError) as error:
            why = str(error)
        except ValueError as error:
            why = f"this is not valid JSON: {error}"
        raise ParameterError(f"search config {path}: {why}")


class _Entries(files.Record, frozen=True, forbid_unknown_fields=False):
    acceptance_rate_vector: str
    max_depth: int
    max_budget: int
    draft_time: float
    valid_budget: tuple[int, ...]
    target_time: tuple[float, ...]
    dst: str


def paired(budgets: Sequence[int], times: Sequence[float]) -> dict[int, float]:
    """Milliseconds by number of nodes."""
    if len(budgets) != len(times):
        raise ParameterError(
            f'"valid_budget" has {len(budgets)} entries and "target_time" {len(times)}; each '
            f"budget needs its time"
        )
    twice = [nodes for at, nodes in enumerate(budgets) if nodes in budgets[:at]]
    if twice:
        raise ParameterError(f'"valid_budget" names {twice[0]} nodes twice')
    return dict(zip(budgets, map(float, times), strict=True))


def _resolved(config: Path, named: str, new: bool = False) -> Path:
    """A path that the config file names: in its folder if it is there, else in the working folder.

    Of a `new` file, which is to be written, the folder counts.
    """
    if not named or not files.is_file_name(named):
        raise ParameterError(f"{named!r:.60} is no path of a file")
    path = files.expanded(named)
    near = config.parent / path
    try:
        there = near.parent.is_dir() if new else near.exists()
    except OSError as error:
        raise ParameterError(f"{named!r:.60}: {error.strerror or error}") from None
    return near if there or path.is_absolute() else path
