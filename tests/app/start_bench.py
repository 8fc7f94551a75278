"""How long until there is something on the screen: the chat's prompt, a replay's first picture.

`python -m tests.app.start_bench [ROUNDS]` starts the installed command again and again on a
pseudo-terminal of 160x50 and waits for words of the first picture. The chat's models load behind
its prompt; a replay has none.
"""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).parent / "sequoia")
RECORDING = ROOT / "docs" / "img" / "answer.jsonl"
LONGEST_SECONDS = 60.0
QUIT = b"\x11"
WAYS = {
    "python alone": ([sys.executable, "-c", "print('ready')"], b"ready"),
    "sequoia --help": ([COMMAND, "--help"], b"Usage"),
    "sequoia": ([COMMAND], b"ask"),
    "sequoia replay": ([COMMAND, "replay", str(RECORDING)], b"Statistics"),
}


def seconds_until(arguments: list[str], words: bytes) -> tuple[float, float]:
    """From the start of the process to the words on its terminal: by the clock, and of processor.

    The latter hardly depends on what else the machine is doing.
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    begun = perf_counter()
    child = subprocess.Popen(
        arguments, stdin=terminal, stdout=terminal, stderr=terminal, env=environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        seen = b""
        while words not in seen:
            if not select.select([controller], [], [], LONGEST_SECONDS)[0]:
                raise TimeoutError(f"{arguments} did not show {words!r}")
            try:
                seen += os.read(controller, 65536)
            except OSError:  # how Linux says that the other end is closed
                text = seen.decode(errors="replace")
                raise SystemExit(f"{arguments} ended without {words!r}: {text}") from None
        took = perf_counter() - begun, processor_seconds(child.pid)
        os.write(controller, QUIT)
        while child.poll() is None:
            if select.select([controller], [], [], 0.1)[0]:
                try:
                    os.read(controller, 65536)
                except OSError:
                    break
        child.wait(LONGEST_SECONDS)
        return took
    finally:
        child.kill()
        child.wait()
        os.close(controller)


def processor_seconds(pid: int) -> float:
    """Of all threads of a process so far; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the median, the fastest and the slowest of each way to start."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for name, (arguments, words) in WAYS.items():
        both = [seconds_until(arguments, words) for _ in range(rounds)]
        took, spent = zip(*both, strict=True)
        print(
            f"{name:<16} {median(took):5.2f} s ({min(took):.2f} to {max(took):.2f}), "
            f"processor {median(spent):.2f} s ({min(spent):.2f} to {max(spent):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
