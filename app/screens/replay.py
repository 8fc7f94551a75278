"""The replay of a recorded chat: its screen, and the app around it."""

from collections.abc import Sequence
from time import monotonic

from msgspec.structs import replace
from textual import on
from textual.screen import Screen
from typing_extensions import override

from sequoia_core.tree.choice import CHOSEN

from ..config.actions import bindings
from ..config.settings import Settings
from ..present.accessible import is_accessible
from ..present.words import origin
from ..state.answer import Chosen
from ..state.attachments import Folds
from ..state.player import Player, TraceLoader
from ..state.step_cursor import StepCursor
from ..state.summary import summary_of
from ..state.timeline import Item, ItemKind, Moment, View
from ..ui.base_app import BaseApp
from ..widgets.bars import PlayerPosition, SeekBar
from ..widgets.caption_bar import CaptionBar, CaptionShown
from ..widgets.entries import AnswerEntry, MessageEntry, note_entry
from ..widgets.header import Header
from ..widgets.tree_view import TreeView
from .explain import ExplainScreen
from .help import ReplayHelp
from .step_screen import StepScreen

TICK_SECONDS = 1 / 20
_THEN = {CHOSEN: "chosen when this was recorded", "this machine": "the recording's machine"}
"""What is said of a tree while it decodes, and what of that is true later and elsewhere."""
NO_PROMPT = "(the prompt was not recorded)"


class ReplayScreen(StepScreen):
    """Plays the timeline of a recording that is being read, with captions and a seek bar."""

    BINDINGS = bindings("replay")
    CONTEXT = KEY_ROW = "replay"
    AUTO_FOCUS = "#transcript"

    def __init__(self, loading: TraceLoader, player: Player) -> None:
        self._caption, self._seek = CaptionBar(), SeekBar()
        super().__init__(Header(replayed=True), self._caption, self._seek)
        self.player, self.trace = player, loading
        self._then = monotonic()
        self._shown: tuple[int, Moment, int, bool, bool] | None = None
        self._explained = False  # a caption explains a node
        self._items: list[Item] = []
        self._entries: dict[str, AnswerEntry] = {}

    def on_mount(self) -> None:
        self.header.status = self.KEY_ROW
        self.key_bar.keys = self.app.keys
        self._begin()
        self.set_interval(TICK_SECONDS, self._tick)

    def on_unmount(self) -> None:
        self.trace.close()

    def _begin(self) -> None:
        """Show the recording from where its player is."""
        self.header.pair = self.trace.pair
        self._then, self._shown = monotonic(), None
        self._items, self._entries = [], {}
        self.transcript.show(())
        self._tick()

    @property
    def view(self) -> View:
        return self.player.timeline.view(self.player.at)

    def _tick(self) -> None:
        now = monotonic()
        if not self.trace.done:
            self.trace.drain()
            self.player.growing = not self.trace.done
            if self.trace.done and self.trace.note:
                self.notify(self.trace.note, severity="warning", timeout=10)
        self.player.advance(now - self._then)
        self._then = now
        self._draw()

    def _draw(self, *, again: bool = False) -> None:
        """Draw the moment on show, if it changed or is looked at in another way."""
        view, playing = self.view, self.player.playing
        still = not playing or view.moment.captioned
        now = (self.player.at, view.moment, len(view.answer.steps), view.answer.done, still)
        if again or now != self._shown:
            moved, self._shown = self._shown is None or now[:2] != self._shown[:2], now
            self._draw_chat(view, still=still)
            self._draw_step(view, still=still)
            if moved:
                self._explain_captioned(view)
        self._draw_caption(view)
        self._draw_place(view)
        self.key_bar.row = self._key_row

    @property
    def _key_row(self) -> str:
        return self.KEY_ROW if self.player.playing else f"{self.KEY_ROW} paused"

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
        self.transcript.redraw()

    def _put(self, items: Sequence[Item]) -> None:
        """Show these in the transcript, by adding to it if that is possible."""
        known = len(self._items)
        if list(items[:known]) != self._items:
            known, self._entries = 0, {}
            self.transcript.show(())
        for item in items[known:]:
            match item.kind:
                case ItemKind.PROMPT:
                    self.transcript.begin(MessageEntry(Folds().shown(item.text or NO_PROMPT)))
                case ItemKind.ANSWER:
                    answer = self.player.timeline.answer(item.exchange)
                    entry = AnswerEntry(answer, self.trace.pair.target)
                    self._entries[item.exchange] = entry
                    self.transcript.add(entry)
                case ItemKind.NOTE | ItemKind.ERROR:
                    self.transcript.add(note_entry(item.text, error=item.kind is ItemKind.ERROR))
        self._items = list(items)

    def _draw_step(self, view: View, *, still: bool) -> None:
        whole, steps = view.recorded.exchange.answer, len(view.answer.steps)
        walked = steps > 0 and not view.answer.done  # an answer that has ended is summed up
        cursor = StepCursor(whole, steps - 1) if walked else StepCursor(view.answer, rests=False)
        title = cursor.title(paused=False)
        self.draw_tree(cursor, title, still=still)
        self.draw_figures(cursor, _as_recorded(cursor.chosen), cursor.context_tokens)
        self.draw_views(cursor, title)
        asked = view.recorded.asked
        self.header.temperature = asked.temperature if asked else None

    def _explain_captioned(self, view: View) -> None:
        """Explain the node that a caption is about; close that with the caption."""
        node = view.moment.node
        if node is not None and view.answer.steps and node < len(view.answer.steps[-1].nodes):
            self.explain(True)
            self.token_tree.point(node)
        elif self._explained:
            self.explain(False)
        self._explained = node is not None

    def _draw_caption(self, view: View) -> None:
        scene, moment = self.trace.scene, view.moment
        self.set_class(self.player.timeline.captioned or scene is not None, "-captioned")
        # one that is over stays while steps fly by, but is not about a step that is looked at
        caption = moment.caption if moment.captioned or self.player.playing else None
        text = self._ending or (caption.text if caption is not None else "")
        stands = moment.captioned or bool(self._ending)
        self._caption.shown = CaptionShown(self._title, origin(scene), text, stands)

    @property
    def _title(self) -> str:
        return self.trace.scene.title if self.trace.scene is not None else ""

    @property
    def _ending(self) -> str:
        """What the caption bar says at the end."""
        return ""

    def _draw_place(self, view: View) -> None:
        player, timeline = self.player, self.player.timeline
        answers = len(timeline.recorded)
        at = timeline.moments[player.at].answer + 1
        steps, of = len(view.answer.steps), len(view.recorded.exchange.answer.steps)
        if self.has_class("-wide") or is_accessible(self):
            where = f"answer {at} of {answers}, " if answers > 1 else ""
            where += f"step {steps} of {of}"
        else:
            where = f"{at}/{answers}  {steps}/{of}" if answers > 1 else f"{steps}/{of}"
        share = 1.0 if self.trace.done else self.trace.share
        self._seek.position = PlayerPosition(
            player.seconds, timeline.seconds, player.playing, player.speed, where, share
        )

    @on(SeekBar.Clicked)
    def _seek_bar_clicked(self, message: SeekBar.Clicked) -> None:
        self.player.seek(message.share * self.player.timeline.seconds)
        self._draw()

    def action_play(self) -> None:
        self.player.toggle()
        self._draw()

    def action_go(self, where: str) -> None:
        """Move; `where` is as in `Player.go`."""
        self.player.go(where)
        self._draw()

    def action_best_step(self) -> None:
        """Go to the step of the answer on show that gave the most tokens; pauses."""
        summary = summary_of(self.view.recorded.exchange.answer)
        if summary is not None:
            self.player.go_to_step(self.view.moment.answer, summary.best + 1)
            self._draw()

    def action_faster(self, steps: int) -> None:
        self.player.faster(steps)
        self._draw()

    @on(TreeView.Pointed)
    def _pause_to_explain(self, message: TreeView.Pointed) -> None:
        self.player.playing = self.player.playing and not message.asked

    @override
    def view_changed(self) -> None:
        self._draw(again=True)

    def action_close(self) -> None:
        self.explain(False)

    def action_leave(self) -> None:
        self.app.exit()

    def action_explain_screen(self) -> None:
        self.player.playing = False
        self._draw()
        self.app.push_screen(ExplainScreen(self, context=self.CONTEXT))

    def action_help(self) -> None:
        self.app.push_screen(ReplayHelp(self.KEY_ROW))


def _as_recorded(chosen: Chosen | None) -> Chosen | None:
    """With a reason that is true of the recording, not of who looks at it and where."""
    if chosen is None:
        return None
    reason = chosen.tree.reason
    for now, then in _THEN.items():
        reason = reason.replace(now, then)
    return Chosen(replace(chosen.tree, reason=reason), chosen.since)


class ReplayApp(BaseApp):
    """Plays recordings with the theme, mode and keys of the settings."""

    TITLE = "Sequoia replay"
    CONTEXTS = ("app", "replay", "demo", "help", "tree", "heat")

    def __init__(self, screen: ReplayScreen, settings: Settings) -> None:
        super().__init__(settings.theme)
        self._settings, self.replay = settings, screen

    def get_default_screen(self) -> Screen[None]:
        return self.replay

    def on_mount(self) -> None:
        self.begin(self._settings)
        for problem in self.use_keys(self._settings.keys):
            self.show_note(problem, error=True)
        self.replay.key_bar.keys = self.keys
