"""The race: plain and speculative decoding of one prompt side by side."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.screen import Screen

from sequoia_core.chat.race import Lane
from sequoia_core.events import PrefillDone

from ..config.actions import bindings, key_row
from ..engine.decode_thread import Decoder
from ..engine.messages import Race
from ..state.answer import ENDINGS
from ..state.chat_session import ChatSession
from ..state.race_result import Agreement, LaneState, RaceState, agreement_line
from ..state.sanitize import fit, visible
from ..ui.base_app import BaseApp
from ..widgets.key_bar import KeyBar
from ..widgets.lane_text import LaneText
from ..widgets.line import Line
from ..widgets.race_bars import RaceBars
from .redraw import FramePacer

_DRAW_SECONDS = 1 / 20
_WIDE = 100
"""Columns for the whole sentence on how it is run."""
_SCROLL = ("race.up race.down", "scroll")
_RUNNING = key_row("race.leave", "race.pause", _SCROLL, "app.quit")
_PAUSED = key_row("race.step", ("race.pause", "resume"), _SCROLL, "race.leave", "app.quit")
_OVER = key_row(("race.leave", "back to the chat"), _SCROLL, "race.again", "app.quit")
_TITLES = {Lane.PLAIN: "plain decoding", Lane.SPECULATIVE: "speculative"}


class RaceScreen(Screen[None]):
    """Both texts, their speeds, and the result.

    Args:
        session: the chat; the events of its race arrive there.
        decoder: the decode thread.
        request: what is raced.
        exchange: id of the exchange that asked the prompt, or None.
    """

    app: BaseApp
    BINDINGS: ClassVar[list[BindingType]] = bindings("race")

    def __init__(
        self, session: ChatSession, decoder: Decoder, request: Race, exchange: str | None
    ) -> None:
        super().__init__()
        self._session, self._decoder = session, decoder
        self._request, self._exchange = request, exchange
        self._run = RaceState(request.prompt, exchange)
        self._seen: tuple[object, ...] = ()
        self._pacer = FramePacer()
        self._title = Line(id="race-title")
        self._texts = {lane: LaneText(id=f"race-{lane.value}") for lane in Lane}
        self._bars = RaceBars()
        self._verdict = Line(id="race-verdict")
        self._terms = Line(id="race-terms")
        self._keys = KeyBar()

    def compose(self) -> ComposeResult:
        """Title over texts over bars over the result."""
        yield self._title
        with Horizontal(id="race-lanes"):
            yield from self._texts.values()
        yield self._bars
        yield self._verdict
        yield self._terms
        yield self._keys

    def on_mount(self) -> None:
        """Start the race."""
        self._keys.keys = self.app.keys
        self._begin()
        self.set_interval(_DRAW_SECONDS, self._tick)

    def on_resize(self) -> None:
        """Wrap the verdict to the width."""
        self._verdict.styles.height = None
        self._draw()

    def _begin(self) -> None:
        self._run = self._session.race = RaceState(self._request.prompt, self._exchange)
        self._decoder.submit(self._request)
        self._verdict.styles.height = None
        self._seen = ()  # a short race may look just like the one before
        self._draw()

    def _tick(self) -> None:
        """Draw what has changed, at a pace that spares the decoding."""
        run = self._run
        seen = (
            run.ended, self._decoder.paused, run.terms, len(run.notices), *(
                (each.tokens, each.answer.prefill, each.answer.done) for each in run.lanes.values()
            ),
        )  # fmt: skip
        running = not run.ended and not self._decoder.paused
        if seen != self._seen and (self._pacer.due() or not running):
            self._seen = seen
            self._draw()

    def _draw(self) -> None:
        run, width = self._run, self.size.width
        plain, trees = run.plain.answer.text, run.speculative.answer.text
        common = _common(plain, trees) if run.diverged and run.greedy else None
        for lane, each in run.lanes.items():
            text = self._texts[lane]
            text.show(each.answer.text, common)
            text.border_title = Content(_TITLES[lane] if lane is Lane.PLAIN else visible(run.tree))
            text.border_subtitle = Content(_state(each, run, text.size.width))
        self._bars.show_race(run)
        self._title.show(self._title_text(width))
        self._show_verdict(self._verdict_text())
        self._terms.show(Content.styled(_terms(run, width), "$notice"))
        if run.ended:
            self._keys.row = _OVER
        else:
            self._keys.row = _PAUSED if self._decoder.paused else _RUNNING

    def _show_verdict(self, verdict: Content) -> None:
        """Let it grow to the lines it takes; it shrinks only for another race or size."""
        lines = len(verdict.wrap(max(1, self._verdict.size.width)))
        if lines > self._verdict.size.height > 0 and not self.has_class("-tiny"):
            self._verdict.styles.height = lines
        self._verdict.show(verdict)

    def _title_text(self, width: int) -> Content:
        run = self._run
        state = "" if run.ended else " paused " if self._decoder.paused else ""
        temperature = run.terms.temperature if run.terms else self._request.params.temperature
        right = Content.assemble(
            (state, "bold reverse $bonus"), (f"  T {temperature:g}", "$notice"), " "
        )
        room = max(0, width - right.cell_length - 8)
        prompt = " ".join(visible(run.prompt).split())
        left = Content.assemble((" Race  ", "bold $primary"), (fit(prompt, room), "$foreground"))
        return Content.assemble(left, " ", right)

    def _verdict_text(self) -> Content:
        """The speed-up, and whether the texts are equal."""
        run = self._run
        lines = [_speedup(run)]
        style, text = _agreement(run)
        lines.append(Content.styled(text, style))
        if run.diverged and run.greedy:
            lines.append(Content.styled(f"there: {run.divergence()}", "$notice"))
        elif run.notices and not run.ended:
            lines.append(Content.styled(visible(run.notices[-1]), "$notice"))
        return Content("\n").join(lines)

    def action_leave(self) -> None:
        """Stop the race; when it is over, go back."""
        if self._run.ended:
            self.dismiss()
        else:
            self._decoder.cancel()

    def action_pause(self) -> None:
        """Pause after the current step, or resume."""
        self._decoder.toggle_pause()
        self._draw()

    def action_single_step(self) -> None:
        """Run one step of the lane whose turn it is."""
        if self._decoder.paused and not self._run.ended:
            self._decoder.single_step()

    def action_again(self) -> None:
        """Race the same prompt again."""
        if self._run.ended:
            self._begin()

    def action_scroll(self, lines: int) -> None:
        """Scroll both texts."""
        for text in self._texts.values():
            text.scroll_relative(y=lines, animate=False)

    def action_scroll_to(self, end: int) -> None:
        """Go to the beginning or the end of both texts."""
        for text in self._texts.values():
            text.scroll_to(y=text.max_scroll_y * end, animate=False)


def _common(left: str, right: str) -> int:
    """Characters from the start that are the same."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))


def _state(each: LaneState, run: RaceState, width: int) -> str:
    """How far a lane is; on a narrow screen only what the bars do not show."""
    answer = each.answer
    if answer.finished is not None:
        ended = ENDINGS[answer.finished.reason]
        text = ", ".join([f"{each.tokens} tokens in {each.seconds:.2f} s", *ended])
        return text if len(text) <= width else ", ".join(ended)
    if run.ended:
        return "ended"
    if not isinstance(answer.prefill, PrefillDone):
        return "reading the prompt" if run.terms else "waiting"
    return ""


def _speedup(run: RaceState) -> Content:
    """The speed-up so far."""
    if run.failure is not None:
        return Content.styled(visible(run.failure), "$error")
    plain, trees = run.plain, run.speculative
    if not plain.tokens or not trees.tokens:
        return Content.styled("each reads the prompt, then they decode", "$notice")
    ratio = trees.tokens_per_second / plain.tokens_per_second
    figure = Content.styled(f"{ratio:.2f}x plain", "bold $speedup")
    rates = f"{trees.tokens_per_second:.1f} against {plain.tokens_per_second:.1f} tokens/s"
    ended = any(each.answer.done for each in run.lanes.values())
    clock = ", while both ran" if ended else ", wall clock"
    return Content.assemble(figure, (f"   {rates}{clock}", "$foreground"))


def _agreement(run: RaceState) -> tuple[str, str]:
    """Style and text on whether both texts are equal."""
    result = run.result()
    if result is not None:
        glyph = {Agreement.EQUAL: "✔ ", Agreement.DIVERGED: "✘ "}.get(result.agreement, "")
        style = "bold $accepted" if result.agreement is Agreement.EQUAL else "$foreground"
        return style, glyph + agreement_line(result)
    if run.ended or not run.common:
        return "$notice", ""
    if not run.greedy:
        return "$notice", "above temperature 0 each lane draws its own text"
    if run.diverged:
        return "$foreground", f"✘ the texts parted after {run.common} tokens"
    return "$accepted", f"✔ equal so far: {run.common} tokens, one for one"


def _terms(run: RaceState, width: int) -> str:
    threads = "" if run.terms is None else f" on {run.terms.threads} threads"
    if width < _WIDE:
        return (
            f"Interleaved{threads}: the clock behind steps next;\neach counts its own steps, "
            "not the reading of prompts."
        )
    return (
        f"Interleaved{threads}: the lane whose clock is behind has the next step; a clock counts "
        "its own lane's\nsteps only, and no reading of the prompt."
    )
