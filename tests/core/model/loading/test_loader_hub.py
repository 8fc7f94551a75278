"""Models are fetched from a hub: here one of a few lines of code, on the loopback interface.

Questions are asked in processes of their own, since `huggingface_hub` reads its environment when it
is imported.
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
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.core.checkpoints import save_model, tiny_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "a-secret"
OPEN = r"""
import json, sys, torch
from sequoia_core.errors import SequoiaError
from sequoia_core.model.loading.loader import open_checkpoint
def opened(source):
    reported = []
    try:
        model = open_checkpoint(source, lambda *each: reported.append(each))
    except SequoiaError as error:
        return {"error": str(error)}
    return {
        "name": model.name,
        "tensors": len(model.weights),
        "norm": model.weights["model.norm.weight"].tolist(),
        "tokenizer": len(model.tokenizer().get_vocab()),
        "reported": reported,
    }
print(json.dumps([opened(source) for source in sys.argv[1:]]))
"""


class FakeHub:
    """Serves folders as `owner/name`; `gated/...` needs the token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.partition("?")[0].strip("/")
        asked_for_files = not path.startswith("api/models/")
        owner, name, *rest = path.removeprefix("api/models/").split("/")
        model = self.folder / owner / name
        if not model.is_dir():
            self.send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        elif asked_for_files and self.locked(owner, request):
            self.send(request, 401, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        elif asked_for_files:
            content = (model / rest[-1]).read_bytes()
            if body:
                self.fetched.append(rest[-1])
            etag = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.send(request, 200, content, etag, body)
        else:
            files = sorted(file.name for file in model.iterdir())
            answer: Any = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": []}
            if rest[0] == "tree":
                answer = [entry(model / file) for file in files]
            self.send(request, 200, json.dumps(answer).encode(), {}, body)

    def locked(self, owner: str, request: BaseHTTPRequestHandler) -> bool:
        return owner == "gated" and request.headers.get("Authorization") != f"Bearer {TOKEN}"

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str],
        body: bool,
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(content)


def entry(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "path": file.name, "size": len(content), "oid": oid}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    folder = tmp_path / "hub"
    save_model(folder / "open" / "tiny", tiny_tokenizer())
    (folder / "open" / "tiny" / "pytorch_model.bin").write_bytes(b"not needed")
    (folder / "open" / "tiny" / "README.md").write_text("not needed")
    save_model(folder / "gated" / "tiny", tiny_tokenizer())
    pickled = folder / "open" / "pickled"
    save_model(pickled, tiny_tokenizer())
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    odd = folder / "open" / "odd"
    save_model(odd, tiny_tokenizer())
    tensors = load_file(odd / "model.safetensors")
    (odd / "model.safetensors").unlink()
    save_file(tensors, odd / "part-1.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "part-1.safetensors")}
    (odd / "model.safetensors.index.json").write_text(json.dumps(index))
    hub = FakeHub(folder)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def environment(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}


def opened(environment: dict[str, str], *sources: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *sources], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_model_is_fetched_once_and_then_found_offline(
    hub: FakeHub, environment: dict[str, str]
) -> None:
    (found,) = opened(environment, "open/tiny")
    assert found["name"] == "tiny"
    assert found["tensors"] == 21
    assert found["norm"] == [1.0] * 32
    assert found["tokenizer"] == 96
    assert "model.safetensors" in hub.fetched
    assert not {"pytorch_model.bin", "README.md"} & set(hub.fetched)
    message, fraction = found["reported"][-1]
    assert message == "Downloading open/tiny"
    assert fraction == 1.0
    hub.server.shutdown()
    hub.server.server_close()
    for gone in (environment, {**environment, "HF_HUB_OFFLINE": "1"}):
        again, other = opened(gone, "open/tiny", "open/pickled")
        assert {**again, "reported": []} == {**found, "reported": []}
        assert other == {
            "error": "open/pickled: the hub cannot be reached and there is no complete local copy; "
            "connect once, or give a folder or a .gguf file"
        }


def test_a_gated_model_needs_the_token(hub: FakeHub, environment: dict[str, str]) -> None:
    (refused,) = opened(environment, "gated/tiny")
    assert refused["error"].startswith("gated/tiny: access is gated; accept its terms at ")
    assert refused["error"].endswith("set HF_TOKEN")
    assert hub.fetched == []
    assert opened({**environment, "HF_TOKEN": TOKEN}, "gated/tiny")[0]["tensors"] == 21


def test_pickles_are_fetched_where_there_is_nothing_else_and_wrong_names_are_named(
    hub: FakeHub, environment: dict[str, str]
) -> None:
    pickled, odd, unknown, impossible = opened(
        environment, "open/pickled", "open/odd", "open/nowhere", "open/no--such..name"
    )
    assert odd["norm"] == [1.0] * 32
    assert "part-1.safetensors" in hub.fetched
    assert pickled["norm"] == [1.0] * 32
    assert "pytorch_model.bin" in hub.fetched
    assert unknown["error"].startswith("open/nowhere: no such model on the hub")
    assert impossible["error"].startswith("open/no--such..name: ")
    assert "\n" not in impossible["error"]
