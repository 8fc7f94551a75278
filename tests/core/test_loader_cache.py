"""A GGUF file is converted once; a damaged, unwritable or contended cache never stops a start."""

import hashlib
import json
import os
import random
import shutil
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from sequoia_core.errors import ModelLoadError
from sequoia_core.model import convert_cache, loader
from sequoia_core.model.convert_cache import MANIFEST, ConvertCache, file_digests
from sequoia_core.model.loader import Checkpoint, open_checkpoint
from tests.core.checkpoints import save_gguf, tiny_llama

REFERENCE = tiny_llama().state_dict()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_gguf(tmp_path / "Tiny-1M.Q4_1.gguf", tiny_llama())
    return tmp_path / "Tiny-1M.Q4_1.gguf"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Conversions:
    """Counts how often something had to be converted."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, message: str, fraction: float | None) -> None:
        self.count += message.startswith("Converting") and fraction is None


def opened(source: Path, root: Path, dtype: torch.dtype = torch.float32) -> tuple[Checkpoint, int]:
    """The checkpoint, checked against the model it was made from, and conversions it took."""
    conversions = Conversions()
    model = open_checkpoint(str(source), dtype, ConvertCache(root), conversions)
    assert set(model.weights) == set(REFERENCE)
    for name in REFERENCE:
        assert torch.equal(model.weights[name].to(dtype), REFERENCE[name].to(dtype)), name
    assert model.tokenizer is not None
    assert model.tokenizer().convert_tokens_to_ids("<|im_end|>") == 2
    assert model.eos_token_ids == {2}
    assert model.name == "Tiny-1M"
    return model, conversions.count


def test_the_second_start_converts_nothing(source: Path, root: Path) -> None:
    first, converted = opened(source, root)
    assert converted == 1
    second, converted = opened(source, root)
    assert converted == 0
    assert first.digest == second.digest
    assert first.config == second.config


def test_what_an_older_converter_wrote_is_not_used(
    source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one wrote tokenizers that cut special tokens into pieces."""
    assert loader.CONVERTER_VERSION > 1
    with monkeypatch.context() as patch:
        patch.setattr(loader, "CONVERTER_VERSION", 1)
        assert opened(source, root)[1] == 1
    assert opened(source, root)[1] == 1
    assert opened(source, root)[1] == 0


def test_each_dtype_is_rounded_from_the_file_itself(source: Path, root: Path) -> None:
    assert opened(source, root, torch.bfloat16)[1] == 1
    model, converted = opened(source, root, torch.float32)
    assert converted == 1
    assert model.weights["model.norm.weight"].dtype is torch.float32
    assert opened(source, root, torch.bfloat16)[1] == 0


def test_the_entry_is_found_from_a_copy_of_the_file_and_not_from_another(
    source: Path, root: Path, tmp_path: Path
) -> None:
    digest = opened(source, root)[0].digest
    (tmp_path / "copies").mkdir()
    copy = tmp_path / "copies" / source.name
    copy.write_bytes(source.read_bytes())
    assert opened(copy, root)[1] == 0
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    other = open_checkpoint(str(copy), torch.float32, ConvertCache(root), lambda *_: None)
    assert other.digest != digest


def entry_of(root: Path) -> Path:
    (entry,) = root.iterdir()
    return entry


def half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def emptied(entry: Path) -> Path:
    shutil.rmtree(entry)
    return entry


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda entry: (entry / MANIFEST).unlink(),
    "half a manifest": lambda entry: half(entry / MANIFEST),
    "an empty manifest": lambda entry: (entry / MANIFEST).write_text("{}"),
    "a manifest of another kind": lambda entry: (entry / MANIFEST).write_text("[1]"),
    "a manifest that is no text": lambda entry: (entry / MANIFEST).write_bytes(b"\xff\xfe"),
    "half the weights": lambda entry: half(entry / "model-00001.safetensors"),
    "no weights": lambda entry: (entry / "model-00001.safetensors").unlink(),
    "a flipped bit in the weights": lambda entry: flip(entry / "model-00001.safetensors"),
    "a flipped bit in the tokenizer": lambda entry: flip(entry / "tokenizer.json"),
    "no tokenizer": lambda entry: (entry / "tokenizer.json").unlink(),
    "an empty folder": lambda entry: emptied(entry).mkdir(),
    "a file in its place": lambda entry: emptied(entry).write_text("x"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_rebuilt(damage: str, source: Path, root: Path) -> None:
    opened(source, root)
    DAMAGE[damage](entry_of(root))
    assert opened(source, root)[1] == 1
    assert opened(source, root)[1] == 0
    assert len(list(root.iterdir())) == 1


def test_an_entry_that_is_whole_but_unreadable_is_rebuilt(source: Path, root: Path) -> None:
    opened(source, root)
    entry = entry_of(root)
    (entry / "config.json").write_text("{}")
    files = [file for file in entry.iterdir() if file.name != MANIFEST]
    (entry / MANIFEST).write_text(json.dumps(file_digests(files)))
    assert opened(source, root)[1] == 1
    assert opened(source, root)[1] == 0


def test_without_a_writable_cache_it_works_every_time(source: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    for _ in range(2):
        assert opened(source, tmp_path / "taken" / "cache")[1] == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("I/O error")])
def test_a_full_disk_leaves_nothing_behind(
    error: Exception, source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("sequoia_core.model.loader.save_file", full)
    assert opened(source, root)[1] == 1
    assert list(root.iterdir()) == []


def test_a_nearly_full_disk_is_left_alone(
    source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(root.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert opened(source, root)[1] == 1
    assert list(root.iterdir()) == []


def test_a_large_model_is_written_in_shards(
    source: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequoia_core.model.loader.SHARD_BYTES", 20_000)
    opened(source, root)
    assert len(list(entry_of(root).glob("*.safetensors"))) > 2
    assert opened(source, root)[1] == 0


def test_concurrent_starts_all_succeed(source: Path, root: Path) -> None:
    barrier = threading.Barrier(4)
    models: list[Checkpoint] = []

    def start() -> None:
        barrier.wait()
        models.append(opened(source, root)[0])

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({model.digest for model in models}) == 1
    assert len(models) == 4
    assert len(list(root.iterdir())) == 1
    assert opened(source, root)[1] == 0


def test_the_slower_of_two_writers_takes_the_faster_ones_entry(root: Path) -> None:
    cache = ConvertCache(root)

    def write(text: str, first: Callable[[], object] = lambda: None) -> Callable[[Path], None]:
        def into(folder: Path) -> None:
            first()
            (folder / "a.txt").write_text(text)

        return into

    kept = cache.store("key", 1, write("slow", lambda: cache.store("key", 1, write("fast"))))
    assert kept == root / "key"
    assert (kept / "a.txt").read_text() == "fast"
    assert [entry.name for entry in root.iterdir()] == ["key"]


def test_what_a_crash_left_is_swept_later_and_what_is_being_written_is_not(root: Path) -> None:
    crashed, busy = root / ".writing-crashed", root / ".writing-busy"
    crashed.mkdir(parents=True)
    busy.mkdir()
    long_ago = time.time() - 2 * convert_cache.ABANDONED_SECONDS
    os.utime(crashed, (long_ago, long_ago))
    ConvertCache(root).store("key", 1, lambda folder: (folder / "a").touch())
    assert sorted(entry.name for entry in root.iterdir()) == [".writing-busy", "key"]


def test_a_damaged_source_says_so_and_caches_nothing(source: Path, root: Path) -> None:
    half(source)
    with pytest.raises(ModelLoadError, match=r"Q4_1\.gguf: truncated"):
        opened(source, root)
    assert not root.exists()


def test_a_digest_is_sha256_of_the_whole_file(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3 * (1 << 16) + 5)
    (tmp_path / "a").write_bytes(content)
    assert file_digests([tmp_path / "a"]) == {"a": hashlib.sha256(content).hexdigest()}


def test_files_that_crc32_cannot_tell_apart_have_entries_of_their_own(
    tmp_path: Path, root: Path
) -> None:
    """Of one size and checksum: four bytes behind a change bring the checksum back."""
    save_gguf(tmp_path / "one.gguf", tiny_llama())
    content = bytearray((tmp_path / "one.gguf").read_bytes())
    wanted = zlib.crc32(content)
    content[-8] ^= 1
    content[-4:] = _forged(zlib.crc32(content[:-4]), wanted)
    (tmp_path / "other.gguf").write_bytes(content)
    assert zlib.crc32(content) == wanted
    models = [
        open_checkpoint(str(tmp_path / name), torch.float32, ConvertCache(root), lambda *_: None)
        for name in ("one.gguf", "other.gguf")
    ]
    assert models[0].digest != models[1].digest
    assert len(list(root.iterdir())) == 2


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
    monkeypatch.setattr(convert_cache, "REMEMBERED_BYTES", 1000)
    monkeypatch.setattr(convert_cache, "SETTLED_NS", -1)
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
    first = file_digests([large], reads)
    assert file_digests([large], reads) == first
    assert reads.count == 1
    state = large.stat()
    large.write_bytes(bytes(4999) + b"x")
    os.utime(large, ns=(state.st_atime_ns, state.st_mtime_ns))  # size and time as they were
    second = file_digests([large], reads)
    assert second != first
    assert reads.count == 2
    large.rename(large.with_name("another"))
    large.write_bytes(bytes(5000))
    assert file_digests([large], reads) == first


def test_a_file_that_changed_just_now_is_not_remembered(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_cache, "SETTLED_NS", 3600 * 10**9)
    reads = Reads()
    for _ in range(2):
        file_digests([large], reads)
    assert reads.count == 2


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs the modes of files")
def test_what_others_could_have_written_is_not_believed(large: Path) -> None:
    (right,) = file_digests([large]).values()
    state = large.stat()
    record = convert_cache.digest_root() / f"{state.st_dev:x}-{state.st_ino:x}"
    assert record.stat().st_mode & 0o777 == 0o600
    assert record.parent.stat().st_mode & 0o777 == 0o700
    forged = json.dumps([*json.loads(record.read_text())[:-1], "0" * 64])
    record.write_text(forged)
    assert file_digests([large]) == {"large": "0" * 64}  # this user's own word
    record.chmod(0o666)
    assert file_digests([large]) == {"large": right}
    for junk in ("", "[]", "{}", "[1, 2]", "\x00"):
        record.write_text(junk)
        assert file_digests([large]) == {"large": right}


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs the modes of files")
def test_converted_models_are_private(source: Path, root: Path) -> None:
    opened(source, root)
    assert root.stat().st_mode & 0o777 == 0o700
    assert entry_of(root).stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in entry_of(root).iterdir()} == {0o600}
