"""A picture of an acceptance vector: the rate of each rank and how far it can be trusted."""

from pathlib import Path

from sequoia_core.figures.picture import COLOURS, GREY, axes, save
from sequoia_core.measure.acceptance_vector import AcceptanceVector


def draw_vector(file: Path, vector: AcceptanceVector) -> None:
    """Rates by rank on a logarithmic scale; ranks that were never accepted are left out.

    Args:
        file: SVG or PNG to write.
        vector: what was measured.

    Raises:
        OSError: the file cannot be written.
    """
    drawn = axes(3.4)
    seen = [at for at, rate in enumerate(vector.rates) if rate > 0]
    rates = [vector.rates[at] for at in seen]
    drawn.plot(
        [at + 1 for at in seen], rates, marker="o", markersize=4, color=COLOURS[0], label="a_k"
    )
    if vector.intervals:
        within = [vector.intervals[at] for at in seen]
        below = [max(rate - low, 0.0) for rate, (low, _) in zip(rates, within, strict=True)]
        above = [max(high - rate, 0.0) for rate, (_, high) in zip(rates, within, strict=True)]
        drawn.errorbar(
            [at + 1 for at in seen],
            rates,
            yerr=(below, above),
            fmt="none",
            ecolor=GREY,
            elinewidth=1,
            capsize=2,
            label=f"95 % over {vector.prompts} prompts, resampled",
        )
    if seen:
        drawn.set_yscale("log", nonpositive="clip")
        drawn.set_ylim(bottom=min(rates) / 2)
    drawn.set_xlim(0.5, len(vector.rates) + 0.5)
    drawn.set_xlabel("rank of the child, in drawn order")
    drawn.set_ylabel("probability that it is the accepted one")
    save(drawn, file)
