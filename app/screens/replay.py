"""The replay screen: plays a recorded chat."""

from collections.abc import Sequence
from time import monotonic
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.screen import Screen

from sequoia_core.events import PairDescription

from ..config.actions import bindings, key_row
from ..config.keymap import Keys
from ..present.accessible import is_accessible
from ..state.player import Player, TraceLoader
from ..state.timeline import Item, ItemKind, View
from ..widgets.decode_panel import DecodePanel
from ..widgets.entries import AnswerEntry
from ..widgets.header import ReplayHeader
from ..widgets.key_bar import KeyBar
from ..widgets.seek_bar import PlayerPosition, SeekBar
from ..widgets.step_bar import StepBar
from ..widgets.transcript import Transcript
from ..widgets.tree_view import TreeView
from .help import ReplayHelp
from .step_views import StepViews

TICK_SECONDS = 1 / 20
WIDE = 100
NO_PROMPT = "(the prompt was not recorded)"
PLAYING = key_row(
    "replay.play", ("replay.step_before replay.step_after", "step"),
    ("replay.earlier replay.later", "2 s"), ("replay.faster replay.slower", "speed"),
    ("replay.answer_before replay.answer_after", "answer"), "replay.tree", "replay.tint",
    "replay.help", "replay.leave",
)  # fmt: skip
PAUSED = (("replay.play", "play"), *PLAYING[1:])


class ReplayScreen(Screen[None]):
    """Transcript, tree, step bar, statistics and a seek bar.

    Args:
        loading: reads the recording.
        pair: the models that were recorded.
        player: plays the timeline of `loading`.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("replay")

    def __init__(self, loading: TraceLoader, pair: PairDescription, player: Player) -> None:
        super().__init__()
        self.player = player
        self._loading = loading
        self._pair = pair
        self._then = monotonic()
        self._shown: tuple[int, int, bool, bool] | None = None
        self._items: list[Item] = []
        self._entries: dict[str, AnswerEntry] = {}
        self._note = ""
        self._header = ReplayHeader()
        self._transcript = Transcript()
        self._panel = DecodePanel()
        self._views = StepViews(self._panel, self._transcript)
        self._strip = StepBar(id="strip")
        self._seek = SeekBar()
        self._keys = KeyBar()

    def compose(self) -> ComposeResult:
        """Header over transcript and tree over seek bar over keys."""
        yield self._header
        with Horizontal(id="body"):
            yield self._transcript
            yield self._panel
            yield from self._views.widgets
        yield self._strip
        yield self._seek
        yield self._keys

    def on_mount(self) -> None:
        """Start to play."""
        self._header.pair = self._pair
        self._header.status = "replay"
        self._transcript.focus()
        self._then = monotonic()
        self._tick()
        self.set_interval(TICK_SECONDS, self._tick)

    def use_keys(self, keys: Keys) -> None:
        """Name actions by these keys."""
        self._keys.keys = keys

    @property
    def view(self) -> View:
        """What is on show."""
        return self.player.timeline.view(self.player.at)

    def _tick(self) -> None:
        """Advance the player by the time that passed."""
        now = monotonic()
        if not self._loading.done:
            self._loading.drain()
            self.player.growing = not self._loading.done
        self.player.advance(now - self._then)
        self._then = now
        self.draw()

    def draw(self) -> None:
        """Draw the moment on show, if it changed."""
        view, still = self.view, not self.player.playing
        if self._note != self._loading.note:
            self._note = self._loading.note
            self.notify(self._note, severity="warning", timeout=10, markup=False)
        now = (self.player.at, len(view.answer.steps), view.answer.done, still)
        if now != self._shown:
            self._shown = now
            self._draw_chat(view, still=still)
            self._draw_step(view, still=still)
        self._draw_place(view)
        self._keys.row = PLAYING if self.player.playing else PAUSED

    def _draw_chat(self, view: View, *, still: bool) -> None:
        """Show the transcript of this moment, which mostly grew only."""
        self._put(view.items)
        shown = view.recorded.exchange.id
        for exchange, entry in self._entries.items():
            answer = view.answer if exchange == shown else self.player.timeline.answer(exchange)
            held = still and exchange == shown and answer.steps and not answer.done
            entry.walked_step = answer.steps[-1].index if held else None
            if entry.answer is not answer:
                if len(answer.spans) < len(entry.answer.spans):
                    entry.release()
                entry.answer = answer
        self._transcript.redraw()

    def _put(self, items: Sequence[Item]) -> None:
        """Show these in the transcript, by adding to it if that is possible."""
        known = len(self._items)
        if list(items[:known]) != self._items:
            known, self._entries = 0, {}
            self._transcript.clear()
        for item in items[known:]:
            match item.kind:
                case ItemKind.PROMPT:
                    self._transcript.add_user(item.text or NO_PROMPT)
                case ItemKind.ANSWER:
                    answer = self.player.timeline.answer(item.exchange)
                    entry = self._transcript.add_answer(answer, self._pair.target)
                    self._entries[item.exchange] = entry
                case ItemKind.NOTE | ItemKind.ERROR:
                    self._transcript.add_note(item.text, error=item.kind is ItemKind.ERROR)
        self._items = list(items)

    def _draw_step(self, view: View, *, still: bool) -> None:
        answer = view.answer
        step = answer.steps[-1] if answer.steps else None
        statistics = answer.statistics[-1] if answer.statistics else None
        chosen = answer.tree_at(step.index if step else 1)
        title = f"Step {step.index} of {self._steps(view)}" if step else "Tree"
        self._panel.show_tree(step, title, still=still)
        self._panel.show_figures(step, statistics, chosen)
        self._strip.show_step(step, statistics)
        self._header.statistics = statistics
        self._header.chosen_tree = chosen.tree if chosen is not None else None
        whole = view.recorded.exchange.answer
        last = len(answer.steps) - 1
        self._views.draw(step, title, whole if step else None, last if step else None, chosen)
        asked = view.recorded.asked
        self._header.temperature = asked.temperature if asked else None

    def _draw_place(self, view: View) -> None:
        player, timeline = self.player, self.player.timeline
        answers = len(timeline.recorded)
        at = timeline.moments[player.at].answer + 1
        steps, of = len(view.answer.steps), self._steps(view)
        if self.size.width >= WIDE or is_accessible(self):
            where = f"answer {at} of {answers}, " if answers > 1 else ""
            where += f"step {steps} of {of}"
        else:
            where = f"{at}/{answers}  {steps}/{of}" if answers > 1 else f"{steps}/{of}"
        share = 1.0 if self._loading.done else self._loading.share
        self._seek.position = PlayerPosition(
            player.seconds, timeline.seconds, player.playing, player.speed, where, share
        )

    @staticmethod
    def _steps(view: View) -> int:
        return len(view.recorded.exchange.answer.steps)

    @on(SeekBar.Clicked)
    def _seek_bar_clicked(self, message: SeekBar.Clicked) -> None:
        self.player.seek(message.share * self.player.timeline.seconds)
        self.draw()

    def action_play(self) -> None:
        """Play or pause; from the end, play again."""
        self.player.toggle()
        self.draw()

    def action_go(self, where: str) -> None:
        """Move; `where` is as in `Player.go`."""
        self.player.go(where)
        self.draw()

    def action_faster(self, steps: int) -> None:
        """To the next speed, or the one before."""
        self.player.faster(steps)
        self.draw()

    @on(TreeView.Pointed)
    def _node_pointed(self, message: TreeView.Pointed) -> None:
        """Explain the node, and pause for that."""
        if message.asked:
            self.player.playing = False
            self._views.explain(not self._views.explains)
        self._redraw()

    def _redraw(self) -> None:
        """Draw the same moment in another view."""
        self._shown = None
        self.draw()

    def action_close(self) -> None:
        """Close the explanation."""
        self._views.explain(False)

    def action_tree(self) -> None:
        """Tree, acceptance map or neither; on a narrow screen in place of the transcript."""
        self._views.next_view()
        self._redraw()

    def action_tint(self) -> None:
        """Tint each token by where it came from, or go back to Markdown."""
        self._views.tint()

    def action_help(self) -> None:
        """Show the keys."""
        self.app.push_screen(ReplayHelp())
