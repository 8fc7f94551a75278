"""`sequoia accept`: measures an acceptance vector, writes it and reports it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sequoia_core.data.passages import PROMPT_TOKENS, DataSpec, load_passages
from sequoia_core.events import Progress
from sequoia_core.measure.acceptance import AcceptancePlan, AcceptanceVector, count_acceptance
from sequoia_core.reproduce import experiment
from sequoia_core.tree.files import write_acceptance_rates

if TYPE_CHECKING:
    from sequoia_core.measure.acceptance import Acceptance
    from sequoia_core.model.loading.pair import Pair


class AcceptanceExperiment(experiment.Experiment):
    """Counts which children are accepted, text by text, and writes the vector to `dst` at the end.

    Raises ParameterError if `cache_length`, the most tokens that may be cached, is too small.
    """

    def __init__(
        self, pair: Pair, plan: AcceptancePlan, data: DataSpec, dst: Path, cache_length: int | None
    ) -> None:
        self._pair, self._plan, self._data, self._dst = pair, plan, data, dst
        tokens = PROMPT_TOKENS + (plan.tokens if plan.static else 0)
        self._passages = load_passages(data, pair.tokenizer, tokens)
        self._counts: list[tuple[Acceptance, ...]] = []
        experiment.required_draft(pair)
        text = plan.text_tokens(self._passages)
        experiment.check_room(pair, text, 0 if plan.static else plan.tree.size - 1, cache_length)

    @override
    def run(self, progress: Progress) -> None:
        texts = len(self._passages)
        for count in count_acceptance(self._pair, self._passages, self._plan):
            self._counts.append(count)
            progress(f"Prompt {len(self._counts)} of {texts}", len(self._counts) / texts)
        vector = self._vector()
        write_acceptance_rates(self._dst, vector.rates, vector.rejected, self._details(vector))

    def _vector(self) -> AcceptanceVector:
        return AcceptanceVector.of(self._counts, self._plan.params.seed or 0)

    def _details(self, vector: AcceptanceVector) -> dict[str, Any]:
        plan, data, pair = self._plan, self._data, self._pair.description
        deeper = {"deeper_rates": vector.deeper, "deeper_positions": vector.deeper_positions}
        return {
            **(deeper if plan.depth > 1 else {}),
            "intervals": vector.intervals,
            "positions": vector.positions,
            "prompts": vector.prompts,
            "method": "static" if plan.static else "decoding",
            "width": plan.width,
            "temperature": plan.params.temperature,
            "top_p": plan.params.top_p,
            "draft_top_p": plan.draft_top_p,
            "seed": plan.params.seed,
            "dataset": data.source,
            "start": data.start,
            "target": pair.target,
            "draft": pair.draft,
            "dtype": pair.dtype,
            "device": pair.device,
        }

    @override
    def report(self) -> experiment.Report:
        from sequoia_core.figures.charts import draw_vector

        vector = self._vector()
        text = _summary(self._plan, vector)
        values = {
            "acceptance_rates": vector.rates,
            "rejected": vector.rejected,
            **self._details(vector),
        }
        if len(self._counts) == len(self._passages):
            text += f"\nwritten: {self._dst}"
            values["dst"] = str(self._dst)
        return experiment.Report(
            (*_tables(vector),), text, values, partial(draw_vector, vector=vector)
        )


def _tables(vector: AcceptanceVector) -> Iterator[experiment.ReportTable]:
    yield _table(vector)
    if vector.deeper:
        depths = range(2, 2 + len(vector.deeper))
        headings = ("rank", *(f"depth {depth}" for depth in depths))
        ranks = enumerate(zip(*vector.deeper, strict=True), start=1)
        rows = [(str(rank), *(f"{rate:.4f}" for rate in rates)) for rank, rates in ranks]
        positions = ("positions", *map(str, vector.deeper_positions))
        yield experiment.ReportTable(headings, (*rows, positions))


def _table(vector: AcceptanceVector) -> experiment.ReportTable:
    intervals = ["{:.4f} to {:.4f}".format(*each) for each in vector.intervals]
    sums = accumulate(vector.rates)
    rows = zip(vector.rates, intervals or ["-"] * len(vector.rates), sums, strict=True)
    return experiment.ReportTable(
        ("rank", "a_k", "95 % over prompts", "sum"),
        tuple(
            (str(rank), f"{rate:.4f}", interval, f"{total:.4f}")
            for rank, (rate, interval, total) in enumerate(rows, start=1)
        ),
    )


def _shape(plan: AcceptancePlan) -> str:
    return "a star" if plan.depth == 1 else f"a tree of {plan.tree.size} nodes"


def _summary(plan: AcceptancePlan, vector: AcceptanceVector) -> str:
    how = "one pass over each text" if plan.static else f"decoding with {_shape(plan)}"
    sampling = ", ".join(experiment.sampling_words(plan.params, plan.draft_top_p))
    return (
        f"{vector.rejected:.4f} rejected by all · {vector.positions} positions of "
        f"{vector.prompts} prompts · {how}, {sampling}"
    )
