"""`sequoia search`: the best tree for an acceptance vector and measured times.

Owns the options, which are the release's config file or the same values as flags, and how the
choice is shown. Also `sequoia reproduce tree-search`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sequoia_core.errors import ParameterError

from ..config.output_files import output_picture, output_result
from . import reproduce_options
from .progress import progress_line

if TYPE_CHECKING:
    from rich.table import Table

    from sequoia_core.tree.budget_search import Candidate, SearchConfig, SearchResult

DST = Path("growmap.json")


def _option(name: str, text: str, metavar: str | None = None) -> Any:
    return typer.Option(
        name, help=text, metavar=metavar, rich_help_panel="Without --config", show_default=False
    )


@dataclass(frozen=True, slots=True)
class Given:
    """What may stand on the command line in place of a config file."""

    vector: Path | None
    max_depth: int | None
    max_budget: int | None
    draft_time: float | None
    target_time: str | None

    def config(self) -> "SearchConfig":
        """All of it, as the search takes it.

        Raises:
            ParameterError: something is missing or outside its range.
            GrowMapError: the vector cannot be used.
        """
        from sequoia_core.tree.budget_search import SearchConfig
        from sequoia_core.tree.files import read_acceptance_rates

        vector, depth, budget = self.vector, self.max_depth, self.max_budget
        if vector is None or depth is None or self.draft_time is None or self.target_time is None:
            raise ParameterError(
                "give --config FILE, or --vector, --max-depth, --draft-time and --target-time"
            )
        times = parsed_times(self.target_time)
        most = max(times) if budget is None else budget
        rates = read_acceptance_rates(vector)
        return SearchConfig(rates, depth, most, self.draft_time, times)

    def refuse(self) -> None:
        """Where a config file says it.

        Raises:
            ParameterError: one of them was given beside it.
        """
        for name in ("vector", "max_depth", "max_budget", "draft_time", "target_time"):
            if getattr(self, name) is not None:
                raise ParameterError(
                    f"--{name.replace('_', '-')} and --config say the same; give one of them"
                )


def search(
    config: reproduce_options.Config = None,
    vector: Annotated[
        Path | None, _option("--vector", "Acceptance vector, .pt or .json.", "FILE")
    ] = None,
    max_depth: Annotated[
        int | None, _option("--max-depth", "Most levels of the tree, the root's included.")
    ] = None,
    max_budget: Annotated[
        int | None, _option("--max-budget", "Most nodes; default: the most that has a time.")
    ] = None,
    draft_time: Annotated[
        float | None, _option("--draft-time", "Of a drafting pass, milliseconds.", "MS")
    ] = None,
    target_time: Annotated[
        str | None,
        _option("--target-time", "Of a target forward, by nodes: 1:10,8:12,32:18.", "N:MS,..."),
    ] = None,
    dst: reproduce_options.Destination = None,
    as_json: reproduce_options.AsJson = False,
    picture: reproduce_options.Picture = None,
) -> None:
    """Search the tree with the least predicted time a token, and write it as .json or .pt.

    Reads the config file of the release's tree_search.py, or takes the same values as flags.
    """
    given = Given(vector, max_depth, max_budget, draft_time, target_time)
    if config is not None:
        given.refuse()
    _search(config, given, (dst, picture), as_json)


def tree_search(
    config: reproduce_options.Config = None,
    dst: reproduce_options.Destination = None,
    as_json: reproduce_options.AsJson = False,
    picture: reproduce_options.Picture = None,
) -> None:
    """The best tree for a config file: the release's tree_search.py."""
    if config is None:
        raise ParameterError("give the search's config file: --config demo-config.json")
    _search(config, Given(None, None, None, None, None), (dst, picture), as_json)


def _search(
    config: Path | None, given: Given, files: tuple[Path | None, Path | None], as_json: bool
) -> None:
    from sequoia_core.tree.budget_search import SearchFile
    from sequoia_core.tree.budget_search import search as searched
    from sequoia_core.tree.files import save_growmap

    file = SearchFile.read(config) if config is not None else None
    wanted = file.config if file is not None else given.config()
    dst = output_result(files[0] or (file.dst if file is not None else DST))
    picture = output_picture(files[1])
    vector = file.vector if file is not None else given.vector
    assert vector is not None
    with progress_line() as progress:
        progress("Searching", None)
        result = searched(wanted, f"searched for {vector.name} with given times")
    save_growmap(result.tree, dst)
    if picture is not None:
        from sequoia_core.figures.charts import draw_search

        draw_search(picture, result)
    if as_json:
        typer.echo(json.dumps({**_values(wanted, result), "dst": str(dst)}))
        return
    _print(wanted, result, [each for each in (dst, picture) if each is not None])


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


def _values(config: "SearchConfig", result: "SearchResult") -> dict[str, Any]:
    return {
        **_figures(result, result.best),
        "tree_nodes": result.tree.size,
        "tree_depth": result.tree.depth,
        "parents": result.tree.parents,
        "plain_nodes": config.plain_nodes,
        "plain_ms": result.plain_ms,
        "pays": _pays(result),
        "candidates": [_figures(result, each) for each in result.candidates],
    }


def _figures(result: "SearchResult", each: "Candidate") -> dict[str, Any]:
    return {
        "nodes": each.nodes,
        "levels": each.levels,
        "depth": each.levels - 1,
        "expected_tokens": each.expected_tokens,
        "step_ms": each.step_ms,
        "ms_per_token": each.ms_per_token,
        "speedup": result.speedup(each),
    }


def _pays(result: "SearchResult") -> bool:
    return result.tree.size > 1 and result.speedup(result.best) > 1.0


def _print(config: "SearchConfig", result: "SearchResult", files: list[Path]) -> None:
    from rich.console import Console

    Console(highlight=False).print(_table(config, result))
    best, tree = result.best, result.tree
    typer.echo(
        f"{tree.size} nodes, depth {tree.depth} ({best.levels} levels): "
        f"{best.expected_tokens:.3f} tokens/step, {best.ms_per_token:.3f} ms/token, "
        f"{result.speedup(best):.3f}x {_plain(config.plain_nodes)} ({result.plain_ms:g} ms)"
    )
    if not _pays(result):
        typer.echo("no tree is predicted to pay: decode plainly (--mode ar)")
    for file in files:
        typer.echo(f"written: {file}")


def _plain(nodes: int) -> str:
    return "plain decoding" if nodes == 1 else f"a forward of {nodes} rows"


def _table(config: "SearchConfig", result: "SearchResult") -> "Table":
    """The best depth of each budget."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = ("nodes", "levels", "depth", "tokens/step", "ms/step", "ms/token", "speed-up", "")
    for heading in headings:
        table.add_column(heading, justify="right")
    for nodes in config.target_time:
        best = result.best_of(nodes)
        if best is None:
            table.add_row(str(nodes), *"-" * 6, "unreachable")
            continue
        table.add_row(
            str(nodes),
            str(best.levels),
            str(best.levels - 1),
            f"{best.expected_tokens:.3f}",
            f"{best.step_ms:.3f}",
            f"{best.ms_per_token:.3f}",
            f"{result.speedup(best):.3f}x",
            "chosen" if best == result.best else "",
        )
    return table
