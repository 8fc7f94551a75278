"""`sequoia search` and `reproduce tree-search`: the best tree for acceptance rates and times."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sequoia_core.errors import ParameterError
from sequoia_core.reproduce.experiment import Report, ReportTable

from ..config.paths import output_picture, output_result
from .console import progress_line
from .experiment import AsJson, Destination, Picture, print_report
from .options import flag

if TYPE_CHECKING:
    from sequoia_core.tree.budget_search import Candidate, SearchConfig, SearchResult

_DST = Path("growmap.json")
_Config = Annotated[
    Path | None, flag("--config", "The release's search config, JSON.", None, "FILE")
]
_PANEL = "Without --config"
_DEPTH = "Most levels of the tree, the root's included."
_BUDGET = "Most nodes; default: the most that has a time."
_TIMES = "Of a target forward, by nodes: 1:10,8:12,32:18."


def search(
    config: _Config = None,
    vector: Annotated[
        Path | None, flag("--vector", "Acceptance vector, .pt or .json.", _PANEL, "FILE")
    ] = None,
    max_depth: Annotated[int | None, flag("--max-depth", _DEPTH, _PANEL)] = None,
    max_budget: Annotated[int | None, flag("--max-budget", _BUDGET, _PANEL)] = None,
    draft_time: Annotated[
        float | None, flag("--draft-time", "Of a draft forward, milliseconds.", _PANEL, "MS")
    ] = None,
    target_time: Annotated[str | None, flag("--target-time", _TIMES, _PANEL, "N:MS,...")] = None,
    dst: Destination = None,
    as_json: AsJson = False,
    picture: Picture = None,
) -> None:
    """Search the tree with the least predicted time per token, and write it as .json or .pt.

    Reads the config file of the release's tree_search.py, or takes the same values as flags.
    """
    from sequoia_core.tree import budget_search
    from sequoia_core.tree.files import read_acceptance_rates, save_growmap

    if config is not None:
        given = {
            "vector": vector, "max-depth": max_depth, "max-budget": max_budget,
            "draft-time": draft_time, "target-time": target_time,
        }  # fmt: skip
        for name, value in given.items():
            if value is not None:
                raise ParameterError(f"--{name} and --config say the same; give one of them")
        file = budget_search.SearchFile.read(config)
        wanted, vector, dst = file.config, file.vector, dst or file.dst
    elif vector is None or max_depth is None or draft_time is None or target_time is None:
        raise ParameterError(
            "give --config FILE, or --vector, --max-depth, --draft-time and --target-time"
        )
    else:
        times = _parsed_times(target_time)
        budget = max(times) if max_budget is None else max_budget
        wanted = budget_search.SearchConfig(
            read_acceptance_rates(vector), max_depth, budget, draft_time, times
        )
    dst, picture = output_result(dst or _DST), output_picture(picture)
    with progress_line() as progress:
        progress("Searching", None)
        result = budget_search.search(wanted, f"searched for {vector.name} with given times")
    save_growmap(result.tree, dst)
    print_report(_report(wanted, result, dst), picture, as_json=as_json)


def _parsed_times(text: str) -> dict[int, float]:
    """Milliseconds by number of nodes, from `1:10,8:12`."""
    from sequoia_core.tree.budget_search import paired

    try:
        pairs = [entry.split(":") for entry in text.split(",")]
        nodes, times = [int(n) for n, _ in pairs], [float(ms) for _, ms in pairs]
    except ValueError:
        raise ParameterError(
            f"--target-time: {text!r} is no list of nodes and milliseconds, as 1:10,8:12 is"
        ) from None
    return paired(nodes, times)


def _report(config: "SearchConfig", result: "SearchResult", dst: Path) -> Report:
    def draw(file: Path) -> None:
        from sequoia_core.figures.charts import draw_search

        draw_search(file, result)

    best, tree, speedup = result.best, result.tree, result.speedup(result.best)
    pays = tree.size > 1 and speedup > 1.0
    plain = "plain decoding"
    if config.plain_nodes > 1:
        plain = f"a forward of {config.plain_nodes} rows"
    lines = [
        f"{tree.size} nodes, depth {tree.depth} ({best.levels} levels): "
        f"{best.expected_tokens:.3f} tokens per pass, {best.ms_per_token:.3f} ms/token, "
        f"{speedup:.3f}x {plain} ({result.plain_ms:g} ms)",
        *([] if pays else ["every tree would be slower here: decode plainly (--mode ar)"]),
        f"written: {dst}",
    ]
    headings = (
        "nodes",
        "levels",
        "depth",
        "tokens per pass",
        "ms/step",
        "ms/token",
        "speed-up",
        "",
    )
    table = ReportTable(headings, tuple(_row(nodes, result) for nodes in config.target_time))
    values = {
        **_values(result, best),
        "tree_nodes": tree.size,
        "tree_depth": tree.depth,
        "parents": tree.parents,
        "plain_nodes": config.plain_nodes,
        "plain_ms": result.plain_ms,
        "pays": pays,
        "candidates": [_values(result, each) for each in result.candidates],
        "dst": str(dst),
    }
    return Report((table,), "\n".join(lines), values, draw)


def _row(nodes: int, result: "SearchResult") -> tuple[str, ...]:
    """The best depth of a budget."""
    best = result.best_of(nodes)
    if best is None:
        return str(nodes), *"-" * 6, "unreachable"
    values = _values(result, best).values()
    cells = [f"{each:.3f}" if isinstance(each, float) else str(each) for each in values]
    return *cells[:-1], f"{cells[-1]}x", "chosen" if best == result.best else ""


def _values(result: "SearchResult", each: "Candidate") -> dict[str, Any]:
    return {
        "nodes": each.nodes,
        "levels": each.levels,
        "depth": each.levels - 1,
        "expected_tokens": each.expected_tokens,
        "step_ms": each.step_ms,
        "ms_per_token": each.ms_per_token,
        "speedup": result.speedup(each),
    }
