"""How long keys take to be seen in a program on a pseudo-terminal."""

import random
import time
from collections.abc import Sequence

from app.commands.terminal import RARE, Terminal

BACKSPACE = "\x7f"
PAUSES = 0.05, 0.3  # seconds between an echo and the next key, at least and at most


def typing_latencies(terminal: Terminal, keys: int, chance: random.Random) -> list[float]:
    """Seconds from single keys to their echo, at irregular times; each key is deleted again."""
    latencies: list[float] = []
    for at in range(keys):
        key = RARE[at % len(RARE)]
        latencies.append(terminal.echo(key, key, timeout=10))
        terminal.type(BACKSPACE)
        time.sleep(chance.uniform(*PAUSES))
    return latencies


def percentile(values: Sequence[float], share: float) -> float:
    """The value at or below which a share of all lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
