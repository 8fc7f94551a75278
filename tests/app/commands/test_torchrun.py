"""`sequoia ask` under torchrun: the first process answers, the others follow it and end with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.checkpoints import save_model, tiny_tokenizer

ROOT = Path(__file__).parents[3]
SEQUOIA = (sys.executable, "-W", "ignore", "-c", "from app import main; main()")
TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
    "--no-python",
)  # fmt: skip


def asked(folder: Path, *before: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    command = [
        *before, *SEQUOIA, "ask", "--target", str(folder), "--dtype", "float32", "--device", "cpu",
        "--temperature", "0", "--max-new-tokens", "12", "--json", *options, "HELLO",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "target", tiny_tokenizer())
    return tmp_path / "target"


def test_the_answer_is_that_of_one_process_and_is_written_once(folder: Path) -> None:
    status, alone, _ = asked(folder, options=("--weights", "torch"))
    assert status == 0
    status, shared, errors = asked(folder, *TORCHRUN, options=("--tensor-parallel", "2"))
    assert status == 0, errors
    one, several = json.loads(alone), json.loads(shared)  # one object
    assert one["token_ids"] == several["token_ids"]
    assert len(one["token_ids"]) > 1


CHAT_THAT_ENDS = """
import os; from app import main; from app.commands.chat import leave
from sequoia_core.model.loading.pair import load_pair
if os.environ["RANK"] != "0":
    main()
load_pair({!r}, dtype="float32", device="cpu", tensor_parallel=2)
leave(0)
"""


@pytest.mark.parametrize("code", ["from app import main; main()", CHAT_THAT_ENDS])
def test_an_end_without_an_error_is_none_of_the_others(folder: Path, code: str) -> None:
    command = [*TORCHRUN, *SEQUOIA[:3], "-c", code.format(str(folder)), "growmap", "list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_number_of_processes_is_a_line(folder: Path) -> None:
    status, output, errors = asked(folder, *TORCHRUN)
    assert status != 0
    assert output == ""
    assert "sequoia: tensor_parallel is 1, but torchrun has started 2 processes; give" in errors
