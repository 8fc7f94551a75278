"""Named data sets are read from a hub: here one of a few lines of code, on the loopback interface.

Questions are asked in processes of their own, since `datasets` reads its environment when it is
imported.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from sequoia_core.data.prompts import HubSet, _opened

WANTED = HubSet("owner/name", "config", "train")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
READ = r"""
import json, sys
from itertools import islice
from sequoia_core.data.prompts import named_rows
from sequoia_core.errors import SequoiaError
def read(name):
    try:
        return [[row.content, row.kind.value] for row in islice(named_rows(name), 3)]
    except SequoiaError as error:
        return str(error)
print(json.dumps([read(name) for name in sys.argv[1:]]))
"""
CONFIGS = """---
configs:
- config_name: wikitext-2-raw-v1
  data_files:
  - split: train
    path: raw/train.jsonl
---
"""


class DatasetHub:
    """Serves folders below `owner/name` as data sets; those of the owner `HuggingFaceH4` ask for a
    token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                hub.answer(self, json.loads(self.rfile.read(length) or b"{}"))

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, asked: Any = None) -> None:
        path = urlsplit(request.path).path.strip("/")
        kind, _, rest = path.partition("datasets/")
        owner, name, *more = rest.split("/")
        root = self.folder / owner / name
        if not root.is_dir():
            send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif kind == "api/":
            send(request, 200, json.dumps(api(root, f"{owner}/{name}", more, asked)).encode(), {})
        elif owner == "HuggingFaceH4":
            send(request, 401, b"{}", {"X-Error-Code": "GatedRepo"})
        elif not (file := root.joinpath(*more[2:])).is_file():
            send(request, 404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            content = file.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            send(request, 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})


def api(root: Path, repo_id: str, more: list[str], asked: Any) -> Any:
    """What the hub says of a repository, of a folder of it, or of some of its paths."""
    files = sorted(file for file in root.rglob("*") if file.is_file())
    if more[:1] == ["paths-info"]:
        return [entry(root, root / path) for path in asked["paths"] if (root / path).exists()]
    if more[:1] == ["tree"]:
        below = root.joinpath(*more[2:])
        return [entry(root, file) for file in files if below in file.parents]
    names = [{"rfilename": file.relative_to(root).as_posix()} for file in files]
    return {"id": repo_id, "sha": COMMIT, "siblings": names, "private": False, "tags": []}


def entry(root: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": COMMIT}
    oid = hashlib.sha1(path.read_bytes()).hexdigest()
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}


def send(
    request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str]
) -> None:
    first, last = 0, len(content)
    wanted = request.headers.get("Range")
    if wanted and status == 200:
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        first, last, status = int(start), int(end or last - 1) + 1, 206
        headers = {**headers, "Content-Range": f"bytes {first}-{last - 1}/{len(content)}"}
    content = content[first:last]
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(content))}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[DatasetHub]:
    folder = tmp_path / "hub"
    wiki = folder / "Salesforce" / "wikitext"
    (wiki / "raw").mkdir(parents=True)
    (wiki / "README.md").write_text(CONFIGS)
    rows = [{"text": text} for text in ("", " = Trees = ", "A sequoia is tall.", "More.")]
    (wiki / "raw" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = folder / "Skylion007" / "openwebtext"
    plain.mkdir(parents=True)
    (plain / "train.jsonl").write_text('{"text": "a page"}\n{"title": "no text"}\n')
    gated = folder / "HuggingFaceH4" / "mt_bench_prompts"
    gated.mkdir(parents=True)
    (gated / "train.jsonl").write_text('{"prompt": ["first", "second"]}\n')
    hub = DatasetHub(folder)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def read(url: str, home: Path, *names: str, **more: str) -> list[Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home), **more}
    done = subprocess.run(
        [sys.executable, "-c", READ, *names], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: list[Any] = json.loads(done.stdout)
    return found


def test_rows_are_streamed_and_refusals_are_one_line(hub: DatasetHub, tmp_path: Path) -> None:
    wiki, web, gated, absent = read(
        hub.url, tmp_path / "home", "wiki", "openwebtext", "mt-bench", "c4"
    )
    assert wiki == [["", "text"], [" = Trees = ", "text"], ["A sequoia is tall.", "text"]]
    assert web == 'openwebtext, row 1: no "turns", "prompt", "text" or "article" to read'
    assert "gated; accept its terms on the hub and set HF_TOKEN" in gated
    assert absent.startswith("data set c4 (allenai/c4): not found on the hub, or private")


def test_without_a_network_one_line_names_the_local_option(tmp_path: Path) -> None:
    expected = (
        "data set cnn (abisee/cnn_dailymail): the hub cannot be reached; a .jsonl or .txt file or "
        "a `datasets` folder on disk can be given instead"
    )
    assert read("http://127.0.0.1:9", tmp_path, "cnn") == [expected]
    assert read("http://127.0.0.1:9", tmp_path, "cnn", HF_HUB_OFFLINE="1") == [expected]


def test_of_a_repository_with_a_program_the_hubs_own_conversion_is_read() -> None:
    asked: list[dict[str, Any]] = []

    def load_dataset(*names: str | None, **options: Any) -> str:
        asked.append({"names": names, **options})
        if "revision" not in options:
            raise RuntimeError("Dataset scripts are no longer supported, but found name.py")
        return "rows"

    assert _opened(SimpleNamespace(load_dataset=load_dataset), WANTED) == "rows"
    usual = {"names": ("owner/name", "config"), "split": "train", "streaming": True}
    assert asked == [usual, {**usual, "revision": "refs/convert/parquet"}]

    def broken(*_names: str | None, **_options: Any) -> str:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        _opened(SimpleNamespace(load_dataset=broken), WANTED)
