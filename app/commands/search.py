"""`sequoia search`: the best tree for an acceptance vector and measured times.

The options are the release's config file or the same values as flags. Also `sequoia reproduce
tree-search`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sequoia_core.errors import ParameterError

from ..config.output_files import output_picture, output_result
from .console import progress_line
from .experiment import AsJson, Destination, Picture, flag, print_report

if TYPE_CHECKING:
    from sequoia_core.reproduce.experiment import Report
    from sequoia_core.tree.budget_search import Candidate, SearchConfig, SearchResult

DST = Path("growmap.json")
_PANEL = "Without --config"

Config = Annotated[
    Path | None, flag("--config", "The release's search config, JSON.", None, "FILE")
]


def search(
    config: Config = None,
    vector: Annotated[
        Path | None, flag("--vector", "Acceptance vector, .pt or .json.", _PANEL, "FILE")
    ] = None,
    max_depth: Annotated[
        int | None, flag("--max-depth", "Most levels of the tree, the root's included.", _PANEL)
    ] = None,
    max_budget: Annotated[
        int | None, flag("--max-budget", "Most nodes; default: the most that has a time.", _PANEL)
    ] = None,
    draft_time: Annotated[
        float | None, flag("--draft-time", "Of a draft forward, milliseconds.", _PANEL, "MS")
    ] = None,
    target_time: Annotated[
        str | None,
        flag(
            "--target-time", "Of a target forward, by nodes: 1:10,8:12,32:18.", _PANEL, "N:MS,..."
        ),
    ] = None,
    dst: Destination = None,
    as_json: AsJson = False,
    picture: Picture = None,
) -> None:
    """Search the tree with the least predicted time per token, and write it as .json or .pt.

    Reads the config file of the release's tree_search.py, or takes the same values as flags.
    """
    if config is not None:
        given = {
            "vector": vector, "max-depth": max_depth, "max-budget": max_budget,
            "draft-time": draft_time, "target-time": target_time,
        }  # fmt: skip
        for name, value in given.items():
            if value is not None:
                raise ParameterError(f"--{name} and --config say the same; give one of them")
        tree_search(config, dst, as_json, picture)
        return
    from sequoia_core.tree.budget_search import SearchConfig
    from sequoia_core.tree.files import read_acceptance_rates

    if vector is None or max_depth is None or draft_time is None or target_time is None:
        raise ParameterError(
            "give --config FILE, or --vector, --max-depth, --draft-time and --target-time"
        )
    times = parsed_times(target_time)
    budget = max(times) if max_budget is None else max_budget
    wanted = SearchConfig(read_acceptance_rates(vector), max_depth, budget, draft_time, times)
    _search(wanted, vector, dst or DST, picture, as_json=as_json)


def tree_search(
    config: Config = None, dst: Destination = None, as_json: AsJson = False, picture: Picture = None
) -> None:
    """The best tree for a config file: the release's tree_search.py."""
    if config is None:
        raise ParameterError("give the search's config file: --config demo-config.json")
    from sequoia_core.tree.budget_search import SearchFile

    file = SearchFile.read(config)
    _search(file.config, file.vector, dst or file.dst or DST, picture, as_json=as_json)


def _search(
    config: "SearchConfig", vector: Path, dst: Path, picture: Path | None, *, as_json: bool
) -> None:
    from sequoia_core.tree import budget_search
    from sequoia_core.tree.files import save_growmap

    dst, picture = output_result(dst), output_picture(picture)
    with progress_line() as progress:
        progress("Searching", None)
        result = budget_search.search(config, f"searched for {vector.name} with given times")
    save_growmap(result.tree, dst)
    print_report(_report(config, result, dst), picture, as_json=as_json)


def parsed_times(text: str) -> dict[int, float]:
    """Milliseconds by number of nodes, from `1:10,8:12`.

    Raises:
        ParameterError: it is no such list, or names a number twice.
    """
    from sequoia_core.tree.budget_search import paired

    try:
        pairs = [entry.split(":") for entry in text.split(",")]
        nodes, times = [int(n) for n, _ in pairs], [float(ms) for _, ms in pairs]
    except ValueError:
        raise ParameterError(
            f"--target-time: {text!r} is no list of nodes and milliseconds, as 1:10,8:12 is"
        ) from None
    return paired(nodes, times)


def _report(config: "SearchConfig", result: "SearchResult", dst: Path) -> "Report":
    from sequoia_core.reproduce.experiment import Report, ReportTable

    best, tree, speedup = result.best, result.tree, result.speedup(result.best)
    pays = tree.size > 1 and speedup > 1.0
    plain = "plain decoding"
    if config.plain_nodes > 1:
        plain = f"a forward of {config.plain_nodes} rows"
    lines = [
        f"{tree.size} nodes, depth {tree.depth} ({best.levels} levels): "
        f"{best.expected_tokens:.3f} tokens/step, {best.ms_per_token:.3f} ms/token, "
        f"{speedup:.3f}x {plain} ({result.plain_ms:g} ms)",
        *([] if pays else ["no tree is predicted to pay: decode plainly (--mode ar)"]),
        f"written: {dst}",
    ]
    headings = ("nodes", "levels", "depth", "tokens/step", "ms/step", "ms/token", "speed-up", "")
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

    def draw(file: Path) -> None:
        from sequoia_core.figures.charts import draw_search

        draw_search(file, result)

    return Report((table,), "\n".join(lines), values, draw)


def _row(nodes: int, result: "SearchResult") -> tuple[str, ...]:
    """The best depth of a budget."""
    best = result.best_of(nodes)
    if best is None:
        return str(nodes), *"-" * 6, "unreachable"
    return (
        str(best.nodes),
        str(best.levels),
        str(best.levels - 1),
        f"{best.expected_tokens:.3f}",
        f"{best.step_ms:.3f}",
        f"{best.ms_per_token:.3f}",
        f"{result.speedup(best):.3f}x",
        "chosen" if best == result.best else "",
    )


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
