"""Pages of a file that was copied do not stay in memory."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sequoia_core.model.malloc_trim import release_file_pages, return_freed_memory

SIZE = 8 << 20


def resident_kilobytes(file: Path) -> int:
    """Of this process's mappings of a file."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_of_a_file_are_let_go_and_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)) * (SIZE // 256))
    mapped = np.memmap(file, dtype=np.uint8, mode="r")
    rows = mapped.reshape(-1, 256)[16:]
    assert rows.sum() == 255 * 128 * len(rows)
    assert resident_kilobytes(file) * 1024 > SIZE // 2
    release_file_pages(rows)
    assert resident_kilobytes(file) == 0
    assert rows.sum() == 255 * 128 * len(rows)


def test_arrays_of_no_file_are_left_as_they_are() -> None:
    array = np.arange(100_000)
    release_file_pages(array[10:])
    return_freed_memory()
    assert array.sum() == 99_999 * 50_000


COUNT_HEAPS = """
import ctypes, sys, tempfile, threading
from sequoia_core.model.malloc_trim import keep_to_one_arena
if sys.argv[1] == "one":
    keep_to_one_arena()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
together = threading.Barrier(4)
def allocate():
    together.wait()
    for _ in range(200):
        libc.malloc(1000)
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with tempfile.TemporaryFile() as file:
    stream = libc.fdopen(file.fileno(), b"w")
    libc.malloc_info(0, ctypes.c_void_p(stream))
    libc.fflush(ctypes.c_void_p(stream))
    file.seek(0)
    print(file.read().count(b"<heap nr="))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_threads_share_one_arena_on_request() -> None:
    def heaps(how: str) -> int:
        command = [sys.executable, "-c", COUNT_HEAPS, how]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    assert heaps("one") == 1
    assert heaps("many") > 1
