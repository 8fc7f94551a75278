"""The look of all pictures: axes without a frame, readable on white and on black.

Text stays text in an SVG, and the same figures give the same file.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.errors import ParameterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f6f8f", "#c8783c", "#5b8a57", "#8a5a8f")
GREY = "#6b6b6b"
"""Readable on white and on black alike."""
ENDINGS = (".svg", ".png")


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_picture(file: Path) -> None:
    """Refuse a picture that could not be drawn, before its figures are measured: ParameterError."""
    if file.suffix not in ENDINGS:
        raise ParameterError(f"{file}: a picture's name must end in {' or '.join(ENDINGS)}")
    if not can_draw():
        raise ParameterError(f"{file}: pictures are drawn by matplotlib; pip install matplotlib")


def axes(height: float) -> Axes:
    """Axes of a new picture, `height` inches high."""
    return panels(height, 1)[0]


def panels(height: float, count: int) -> list[Axes]:
    """Axes of a new picture, in a row over one range of y; any of them saves the whole."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    made = list(figure.subplots(1, count, sharey=True, squeeze=False)[0])
    for each in made:
        each.tick_params(colors=GREY)
        for text in (each.xaxis.label, each.yaxis.label, each.title):
            text.set_color(GREY)
        for side, spine in each.spines.items():
            spine.set(visible=side in ("left", "bottom"), color=GREY)
    return made


def save(drawn: Axes, file: Path) -> None:
    """Write a picture, with a legend if it has none yet, in the format of its name's ending."""
    from matplotlib import rc_context

    if drawn.get_legend() is None and drawn.get_legend_handles_labels()[1]:
        drawn.legend(frameon=False, labelcolor=GREY)
    figure = drawn.get_figure(root=True)
    assert figure is not None
    kind = file.suffix.removeprefix(".") or "svg"
    dated = {"Date": None} if kind == "svg" else {"Software": None}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sequoia"}):
        figure.savefig(file, format=kind, transparent=True, metadata=dated)
