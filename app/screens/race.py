"""The race: one prompt decoded in two ways, side by side."""

from os.path import commonprefix

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static
from typing_extensions import override

from sequoia_core.chat.race import Lane, Race
from sequoia_core.errors import counted
from sequoia_core.events import PrefillDone

from ..config.actions import bindings
from ..engine.decode_thread import DecodeThread
from ..state.answer import ENDINGS
from ..state.chat_session import ChatSession, RaceQuestion
from ..state.figures import per_pass
from ..state.race_result import (
    Agreement,
    agreement_line,
    compared,
    speed_ratio,
)
from ..state.race_state import LaneState, RaceState
from ..state.sanitize import fit, one_line, visible
from ..ui.base_app import BaseApp
from ..widgets.bars import RaceBars
from ..widgets.key_bar import KeyBar
from ..widgets.lane_text import AROUND_TITLE, LanePanel
from ..widgets.line import Line, first_fitting, speed_text
from ..widgets.prompt import Prompt
from .chat.redraw import FramePacer
from .explain import ExplainScreen
from .help import RaceHelp
from .step_screen import legend

_DRAW_SECONDS = 1 / 20
_TERMS = "The two take turns; each clock counts only its own work."
_MORE_TERMS = "Reading the prompt is not counted."
_STILL_RACING = "Press race.leave to stop the race first, then type"


class RaceScreen(Screen[None]):
    """Both texts, their speeds, and the result; the events of the race arrive at the session.

    What is typed when it is over goes to the chat's prompt.
    """

    app: BaseApp
    BINDINGS = bindings("race")

    def __init__(
        self, session: ChatSession, decoder: DecodeThread, question: RaceQuestion, prompt: Prompt
    ) -> None:
        super().__init__()
        self._session, self._decoder, self._question = session, decoder, question
        self._prompt, self._typed = prompt, False  # somebody typed while it ran
        self._left = False  # for the chat, where the rest of what is typed goes
        self._params = session.settings.sampling()
        self._run: RaceState
        self._seen: tuple[object, ...] = ()
        self._pacer = FramePacer()
        self._title = Line(id="race-title")
        self._panels = {lane: LanePanel(id=f"race-{lane.value}") for lane in Lane}
        self._tinted = True
        self._bars = RaceBars()
        self._verdict = Static(id="race-verdict")
        self._legend, self._terms = Line(id="race-legend"), Line(id="race-terms")
        self._keys = KeyBar()

    def compose(self) -> ComposeResult:
        yield self._title
        yield Horizontal(*self._panels.values(), id="race-lanes")
        yield from (self._bars, self._verdict, self._legend, self._terms, self._keys)

    def on_mount(self) -> None:
        self._keys.keys = self.app.keys
        self._begin()
        self.set_interval(_DRAW_SECONDS, self._tick)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)  # once the parts have their sizes

    def _begin(self) -> None:
        question = self._question
        sides, prompt = question.sides, question.prompt
        self._run = self._session.race = RaceState(prompt, question.exchange, sides)
        self._decoder.submit(Race(sides, question.turns, prompt, self._params))
        self._seen, self._typed = (), False  # a short race may look just like the one before
        self._draw()

    def _tick(self) -> None:
        """Draw what has changed, at a pace that spares the decoding."""
        run = self._run
        seen = (
            run.ended, self._decoder.paused, run.terms, run.loading, len(run.notices), *(
                (each.tokens, each.answer.prefill, each.answer.done) for each in run.lanes.values()
            ),
        )  # fmt: skip
        running = not run.ended and not self._decoder.paused
        if seen != self._seen and (self._pacer.due() or not running):
            self._seen = seen
            self._draw()

    def _draw(self) -> None:
        run = self._run
        texts = [each.answer.text for each in run.lanes.values()]
        parted = run.diverged and run.greedy
        common = len(commonprefix(texts)) if parted else None  # noqa: RUF071 texts, not paths
        for lane, each in run.lanes.items():
            panel = self._panels[lane]
            panel.text.show(each.parts, common, tinted=self._tinted)
            room = panel.outer_size.width - AROUND_TITLE
            panel.entitle(_lane_title(each, room), _progress(each, run, room))
            panel.headline.show(_headline(each, run.lanes[lane.other], panel.headline.size.width))
            panel.show_tree(each.answer.steps[-1] if each.answer.steps else None)
        self._bars.show_race(run)
        self._title.show(self._title_text())
        self._show_verdict()
        self._legend.show(legend(self.size.width - 2, looked_up=True) if self._tinted else "")
        terms = [Content.styled(f"{_TERMS} {_MORE_TERMS}", "$notice")]
        terms.append(terms[0][: len(_TERMS)])
        if self._typed and not run.ended:
            terms = [Content.styled(self.app.keys.shown(_STILL_RACING), "bold $bonus")]
        self._terms.show(first_fitting(terms, self._terms.size.width))
        running = "race paused" if self._decoder.paused else "race"
        self._keys.row = "race over" if run.ended else running

    def _show_verdict(self) -> None:
        run = self._run
        lines = [_speedup(run), _agreement(run)]
        if run.diverged and run.greedy:
            lines.append(Content.styled(visible(f"there: {run.divergence()}"), "$notice"))
        elif run.notices and not run.ended:
            lines.append(Content.styled(visible(run.notices[-1]), "$notice"))
        self._verdict.update(Content("\n").join(lines), layout=run.ended or len(lines) > 2)

    def _title_text(self) -> Content:
        run = self._run
        state = " paused " if self._decoder.paused and not run.ended else ""
        temperature, threads = self._params.temperature, ""
        if run.terms is not None:
            temperature = run.terms.temperature
            threads = f"  {counted(run.terms.threads, 'thread')} each"
        right = Content.assemble(
            (state, "bold reverse $bonus"), (f"{threads}  T {temperature:g}", "$notice"), " "
        )
        room = max(0, self.size.width - right.cell_length - 8)
        prompt = fit(one_line(run.prompt), room)
        return Content.assemble((" Race  ", "bold $primary"), (prompt, "$foreground"), " ", right)

    @override
    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "single_step":
            return self._decoder.paused and not self._run.ended
        return super().check_action(action, parameters)

    async def on_key(self, event: events.Key) -> None:
        typed = self._left or event.key not in self.active_bindings
        if typed and event.is_printable and event.character is not None:
            event.stop()
            if self._may_type():
                self._prompt.write(event.character)

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        if self._may_type():
            self._prompt.post_message(events.Paste(event.text))

    def _may_type(self) -> bool:
        """Go back to the chat for what is typed; while the race runs, say how instead."""
        if not self._run.ended:
            self._typed = True
            self._draw()
        elif not self._left:  # more keys may come before it is gone
            self._left = True
            self.dismiss()
        return self._run.ended

    def action_leave(self) -> None:
        if self._run.ended:
            self.dismiss()
        else:
            self._decoder.cancel()

    def action_pause(self) -> None:
        self._decoder.toggle_pause()
        self._draw()

    def action_single_step(self) -> None:
        if self._decoder.paused and not self._run.ended:
            self._decoder.single_step()

    def action_again(self) -> None:
        if self._run.ended:
            self._begin()

    def action_tint(self) -> None:
        self._tinted = not self._tinted
        self._draw()

    def action_explain_screen(self) -> None:
        self.app.push_screen(ExplainScreen(self, context="race"))

    def action_help(self) -> None:
        self.app.push_screen(RaceHelp())

    def action_scroll(self, lines: int) -> None:
        for panel in self._panels.values():
            panel.text.scroll_relative(y=lines, animate=False)

    def action_scroll_to(self, end: int) -> None:
        """Go to the beginning (0) or the end (1) of both texts."""
        for panel in self._panels.values():
            panel.text.scroll_to(y=panel.text.max_scroll_y * end, animate=False)


def _lane_title(lane: LaneState, room: int) -> Content:
    """What the lane decodes with; of a name that is too long, its first parts or the label."""
    parts = visible(lane.name).split(", ")
    forms = [Content(", ".join(parts[:most])) for most in range(len(parts), 0, -1)]
    return first_fitting([*forms, Content(visible(lane.label))], room)


def _headline(lane: LaneState, other: LaneState, width: int) -> Content:
    """Tokens per pass, and the speed: over plain decoding where the other lane is that."""
    if not lane.answer.step_count:
        return Content("")
    passes = Content.styled(per_pass(lane.tokens_per_pass), "bold $foreground")
    ratio = speed_ratio(lane, other) if other.plain and not lane.plain else None
    speeds = [Content.styled(f"{lane.tokens_per_second:.1f} tokens/s", "$foreground")]
    if ratio is not None:
        speeds = [speed_text(ratio), speed_text(ratio, short=True)]
    return first_fitting(
        [*(Content.assemble(passes, "   ", each) for each in speeds), passes], width
    )


def _progress(lane: LaneState, run: RaceState, room: int) -> str:
    """How far a lane is; on a narrow screen only what the bars do not show."""
    answer = lane.answer
    if answer.finished is not None:
        ended = ENDINGS[answer.finished.reason]
        text = ", ".join([f"{lane.tokens} tokens in {lane.seconds:.2f} s", *ended])
        return text if len(text) <= room else ", ".join(ended)
    if run.ended:
        return "ended"
    if isinstance(answer.prefill, PrefillDone):
        return ""
    return "reading the prompt" if run.terms else "waiting"


def _speedup(run: RaceState) -> Content:
    if run.failure is not None:
        return Content.styled(visible(run.failure), "$error")
    subject, other = compared(run.first, run.second)
    ratio = speed_ratio(subject, other)
    if ratio is None:
        waiting = "each reads the prompt, then they decode"
        if run.terms is None and run.loading:
            waiting = visible(run.loading)
        return Content.styled(waiting, "$notice")
    rates = f"{subject.tokens_per_second:.1f} against {other.tokens_per_second:.1f} tokens/s"
    ended = any(each.answer.done for each in run.lanes.values())
    who = "" if other.plain else f"{visible(subject.label)}: "
    more = ", while both ran" if ended else ""
    more += "" if other.plain else "; neither is plain decoding"
    return Content.assemble(
        (who, "bold $foreground"),
        speed_text(ratio, other=visible(other.label)),
        (f"   {rates}{more}", "$foreground"),
    )


def _agreement(run: RaceState) -> Content:
    result = run.result()
    style, text = "$notice", ""
    if result is not None:
        glyph = {Agreement.EQUAL: "✔ ", Agreement.DIVERGED: "✘ "}.get(result.agreement, "")
        style = "bold $accepted" if result.agreement is Agreement.EQUAL else "$foreground"
        text = glyph + agreement_line(result)
    elif run.common and not run.ended:
        if not run.greedy:
            text = "above temperature 0 each lane draws its own text at random"
        elif run.diverged:
            style, text = "$foreground", f"✘ the texts differ after {counted(run.common, 'token')}"
        else:
            style, text = "$accepted", f"✔ equal so far: {counted(run.common, 'token')}"
    return Content.styled(text, style)
