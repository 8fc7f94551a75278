"""Plays a recorded chat, and reads its trace meanwhile."""

import queue
import threading
from collections.abc import Iterable

from sequoia_core.errors import TraceError
from sequoia_core.recording.trace_file import Entry, TraceReader

from .timeline import Timeline

SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SKIP_SECONDS = 2.0
_AT_ONCE = 300_000  # bytes read before anything is shown: errors in them are reported instead
_PER_DRAIN = 400  # entries taken at a time, so that a long trace does not block the screen


class Player:
    def __init__(self, timeline: Timeline, speed: float = 1.0) -> None:
        self.timeline = timeline
        self.at = 0  # index of the moment on show
        self.seconds = 0.0  # in the recording
        self.playing = False
        self.growing = False  # there will be more moments
        self.speed = min(SPEEDS, key=lambda each: abs(each - speed))

    @property
    def ended(self) -> bool:
        """Whether the last moment is over and no more will come."""
        return not self.growing and self.seconds >= self.timeline.seconds

    def advance(self, seconds: float) -> None:
        """Let real time pass."""
        if self.playing:
            self.seek(self.seconds + seconds * self.speed)
            self.playing = not self.ended

    def toggle(self) -> None:
        """Play or pause; at the end, play again from the beginning."""
        if self.ended:
            self._show(0)
        self.playing = not self.playing and not self.ended

    def faster(self, steps: int) -> None:
        """Go up, or down, so many speeds of the list."""
        at = SPEEDS.index(self.speed) + steps
        self.speed = SPEEDS[max(0, min(len(SPEEDS) - 1, at))]

    def go(self, where: str) -> None:
        """Go `back` or `forward` a moment, which pauses, `earlier` or `later`, `first` or `last`.

        `on` ends the wait for a caption, and plays. `answer back` goes to where this answer begins
        or the one before, `answer forward` to the next one.
        """
        last = len(self.timeline.moments) - 1
        begins = [each.first for each in self.timeline.recorded]
        moments = {
            "back": self.at - 1,
            "forward": self.at + 1,
            "on": self.at + 1,
            "first": 0,
            "last": last,
            "answer back": max((each for each in begins if each < self.at), default=0),
            "answer forward": min((each for each in begins if each > self.at), default=last),
        }
        if where in moments:
            self._show(moments[where])
        else:
            self.seek(self.seconds + (SKIP_SECONDS if where == "later" else -SKIP_SECONDS))
        playing = self.playing or where == "on"
        self.playing = playing and where not in ("back", "forward") and not self.ended

    def go_to_step(self, answer: int, steps: int) -> None:
        """Show an answer, by its index, after so many steps; pauses."""
        moments = enumerate(self.timeline.moments)
        wanted = (answer, steps)
        self._show(next(at for at, each in moments if (each.answer, each.steps) == wanted))
        self.playing = False

    def seek(self, seconds: float) -> None:
        self.seconds = max(0.0, min(seconds, self.timeline.seconds))
        self.at = self.timeline.at(self.seconds)

    def _show(self, at: int) -> None:
        last = len(self.timeline.moments) - 1
        self.at = max(0, min(at, last))
        end = at > last or (self.at == last and not self.timeline.moments[last].captioned)
        self.seconds = self.timeline.seconds if end else self.timeline.moments[self.at].seconds


class TraceLoader:
    """Reads a trace into a timeline: its beginning at once, the rest in a thread.

    Raises TraceError if the beginning is damaged, or there is nothing to play.
    """

    def __init__(self, reader: TraceReader) -> None:
        self.pair, self.scene = reader.description, reader.scene
        self.timeline = Timeline()  # grows with each `drain`
        self.note = ""  # one line on errors in the trace
        self.done = False
        self._reader = reader
        self._read: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        entries = iter(reader)
        for entry in entries:
            self.timeline.add(entry)
            if reader.done >= _AT_ONCE:
                break
        if not self.timeline.moments:
            raise TraceError(f"{reader.path} holds no answer; record one to its end")
        self._thread = threading.Thread(
            target=self._run, args=(entries,), name="sequoia-trace", daemon=True
        )
        self._thread.start()

    @property
    def share(self) -> float:
        return self._reader.share

    def drain(self) -> None:
        """Add to the timeline what was read, or a part of it."""
        for _ in range(min(_PER_DRAIN, self._read.qsize())):
            entry = self._read.get()
            if entry is None:
                self.done = True
                self.note = self.note or self._reader.note
            else:
                self.timeline.add(entry)

    def close(self) -> None:
        """Read no further."""
        self._closing.set()
        self._thread.join()

    def _run(self, entries: Iterable[Entry]) -> None:
        try:
            for entry in entries:
                if self._closing.is_set():
                    break
                self._read.put(entry)
        except TraceError as error:
            self.note = f"{error}; what comes before it is here"
        finally:
            self._reader.close()
            self._read.put(None)
