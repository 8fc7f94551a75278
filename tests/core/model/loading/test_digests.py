"""A digest depends on a file's content; a large file is read once for it."""

import hashlib
import json
import os
import random
import zlib
from pathlib import Path

import platformdirs
import pytest

from sequoia_core.model.loading import model_files
from sequoia_core.model.loading.loader import open_checkpoint
from sequoia_core.model.loading.model_files import file_digest
from tests.core.checkpoints import save_gguf, tiny_llama


def test_a_digest_is_sha256_of_the_whole_file(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3 * (1 << 16) + 5)
    (tmp_path / "a").write_bytes(content)
    assert file_digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_files_that_crc32_cannot_tell_apart_have_digests_of_their_own(tmp_path: Path) -> None:
    """Of one size and checksum: four bytes behind a change bring the checksum back."""
    save_gguf(tmp_path / "one.gguf", tiny_llama())
    content = bytearray((tmp_path / "one.gguf").read_bytes())
    wanted = zlib.crc32(content)
    content[-8] ^= 1
    content[-4:] = _forged(zlib.crc32(content[:-4]), wanted)
    (tmp_path / "other.gguf").write_bytes(content)
    assert zlib.crc32(content) == wanted
    models = [open_checkpoint(str(tmp_path / name)) for name in ("one.gguf", "other.gguf")]
    assert models[0].digest() != models[1].digest()


def _forged(checksum: int, wanted: int) -> bytes:
    """The four bytes that lead from one CRC32 to another."""
    table = [zlib.crc32(bytes([byte]), 0xFFFFFFFF) ^ 0xFFFFFFFF for byte in range(256)]
    highest = {entry >> 24: byte for byte, entry in enumerate(table)}
    state, steps = wanted ^ 0xFFFFFFFF, []
    for _ in range(4):
        byte = highest[state >> 24]
        state = ((state ^ table[byte]) << 8) & 0xFFFFFFFF
        steps.append(byte)
    state = checksum ^ 0xFFFFFFFF
    forged = bytearray()
    for byte in reversed(steps):
        forged.append((state ^ byte) & 0xFF)
        state = (state >> 8) ^ table[byte]
    return bytes(forged)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose digest is remembered: not small, and unchanged for a day."""
    monkeypatch.setattr(model_files, "REMEMBERED_BYTES", 1000)
    monkeypatch.setattr(model_files, "SETTLED_NS", -1)
    (tmp_path / "large").write_bytes(bytes(5000))
    return tmp_path / "large"


class Reads:
    """Counts how often a file was read for its digest."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _fraction: float) -> None:
        self.count += 1


def test_a_large_file_is_read_once_and_again_when_it_has_changed(large: Path) -> None:
    reads = Reads()
    first = file_digest(large, reads)
    assert file_digest(large, reads) == first
    assert reads.count == 1
    state = large.stat()
    large.write_bytes(bytes(4999) + b"x")
    os.utime(large, ns=(state.st_atime_ns, state.st_mtime_ns))  # size and time as they were
    second = file_digest(large, reads)
    assert second != first
    assert reads.count == 2
    large.rename(large.with_name("another"))
    large.write_bytes(bytes(5000))
    assert file_digest(large, reads) == first


def test_a_file_that_changed_just_now_is_not_remembered(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "SETTLED_NS", 3600 * 10**9)
    reads = Reads()
    for _ in range(2):
        file_digest(large, reads)
    assert reads.count == 2


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs the modes of files")
def test_what_others_could_have_written_is_not_believed(large: Path) -> None:
    right = file_digest(large)
    state = large.stat()
    folder = platformdirs.user_cache_path("sequoia") / "digests"
    record = folder / f"{state.st_dev:x}-{state.st_ino:x}"
    assert record.stat().st_mode & 0o777 == 0o600
    assert record.parent.stat().st_mode & 0o777 == 0o700
    forged = json.dumps([*json.loads(record.read_text())[:-1], "0" * 64])
    record.write_text(forged)
    assert file_digest(large) == "0" * 64  # this user's own word
    record.chmod(0o666)
    assert file_digest(large) == right
    for junk in ("", "[]", "{}", "[1, 2]", "\x00"):
        record.write_text(junk)
        assert file_digest(large) == right
