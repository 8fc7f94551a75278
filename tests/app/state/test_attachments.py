"""Files that a message names, what is refused, and the long parts that are folded."""

from pathlib import Path

import pytest

from app.state.attachments import Folds, as_shown, attach, refused_paste
from app.state.chat_session import ChatError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "my file.py").write_text("def f():\n    pass\n")
    (tmp_path / "a.md").write_text("```\ncode\n```\n")
    (tmp_path / "data.txt").write_bytes(b"\x00\x01")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "long.txt").write_text("word " * 1000)
    return tmp_path


def test_the_model_reads_the_name_in_the_sentence_and_the_content_behind_it(folder: Path) -> None:
    text = attach('Explain @"src/my file.py", then @a.md. And @a.md?', folder)
    head, *blocks = text.split("\n\n")
    assert head == "Explain src/my file.py, then a.md. And a.md?"
    assert blocks == [
        "src/my file.py:\n```py\ndef f():\n    pass\n```",
        "a.md:\n````md\n```\ncode\n```\n````",
    ]


@pytest.mark.parametrize(
    ("text", "name", "lines"),
    [
        ("@n.py:2", "n.py:2", "2 3 4 5"),
        ("@n.py:2-", "n.py:2", "2 3 4 5"),
        ("@n.py:2-4", "n.py:2-4", "2 3 4"),
        ("@n.py:2-4?", "n.py:2-4", "2 3 4"),
        ("@n.py:4-99", "n.py:4-5", "4 5"),
        ("@n.py:5:17", "n.py:5", "5"),
        ("@n.py#L2-L3", "n.py:2-3", "2 3"),
        ('@"my n.py:1-2"', "my n.py:1-2", "1 2"),
        ('@"my n.py":1-2', "my n.py:1-2", "1 2"),
        ("@n.py:9", "n.py:9", "another file"),
    ],
)
def test_some_lines_of_a_file_are_attached(
    tmp_path: Path, text: str, name: str, lines: str
) -> None:
    for file in ("n.py", "my n.py"):
        (tmp_path / file).write_text("1\n2\n3\n4\n5\n")
    (tmp_path / "n.py:9").write_text("another file")
    fence = "py" if name != "n.py:9" else "py:9"
    lines = lines if name == "n.py:9" else lines.replace(" ", "\n")
    head, block = attach(f"See {text}", tmp_path).split("\n\n")
    assert head == f"See {name}" + "?" * text.endswith("?")
    assert block == f"{name}:\n```{fence}\n{lines}\n```"
    assert Folds().shown(f"{head}\n\n{block}")[-1][1].startswith(f"[{name} (")


def test_a_few_lines_of_a_large_file_are_attached(tmp_path: Path) -> None:
    (tmp_path / "large.log").write_text("a line of text\n" * 100_000)
    assert attach("@large.log:99999-100000", tmp_path, window=1000).count("a line of text") == 2
    with pytest.raises(ChatError, match=r"large.log from line 3 on has .* the context window"):
        attach("@large.log:3", tmp_path, window=1000)


@pytest.mark.parametrize(
    "text",
    [
        "me@a.md",
        "@property",
        "@app.route",
        "@org/team says",
        "@host:80",
        "@x.setter\ndef f(): ...",
        "a @ b",
        "@",
    ],
)
def test_other_uses_of_the_sign_stay_text(folder: Path, text: str) -> None:
    assert attach(text, folder) == text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("@nope.py", "no file nope.py in"),
        ('@"no such"', "no file no such in"),
        ("@src/nope", "no file src/nope in"),
        ("@src/.", "src/ is a folder"),
        ("@nope.py:12-40", "no file nope.py in"),
        ("@a.md:4", "a.md has 3 lines, so there is no line 4"),
        ("@a.md:0", "lines count from 1"),
        ("@a.md:3-2", "the last line comes before the first"),
        ("@data.txt", "is no text in UTF-8"),
        ("@latin.txt", "is no text in UTF-8"),
        ("@photo.png", "is an image"),
        ("@empty.txt", "is empty"),
        ("@long.txt", "5,000 characters, about 1,250 tokens; the context window holds 1,000"),
    ],
)
def test_what_cannot_be_attached_is_said_in_a_line(folder: Path, text: str, error: str) -> None:
    with pytest.raises(ChatError) as raised:
        attach(text, folder, window=1000)
    assert error in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_chosen_file_that_is_gone_is_an_error(folder: Path) -> None:
    assert attach("@gone", folder) == "@gone"
    with pytest.raises(ChatError):
        attach("@gone", folder, {"gone"})


@pytest.mark.parametrize(
    "text", ["\x89PNG\r\n\x1a\nIHDR", "\ufffd\x00\x07abc", "data:image/png;base64,AA"]
)
def test_binary_is_not_pasted(text: str) -> None:
    assert refused_paste(text)


def test_colours_of_a_terminal_are_pasted() -> None:
    assert not refused_paste("\x1b[31mred\x1b[0m and usual text\twith\ntabs")


def test_a_fold_is_its_text_again() -> None:
    folds, one, other = Folds(), "a\n" * 30 + "a", "b\n" * 30 + "b"
    labels = [folds.label(one), folds.label(other), folds.label(one)]
    shown = ["[pasted 31 lines]", "[pasted 31 lines #2]", "[pasted 31 lines]"]
    assert [*map(as_shown, labels)] == shown
    typed = f"see {labels[0]} and {labels[1]}, not {shown[0]}"
    assert folds.whole(typed) == f"see {one} and {other}, not {shown[0]}"
    assert folds.folded(folds.whole(typed)) == typed


def test_what_was_pasted_elsewhere_is_folded_after_its_beginning() -> None:
    text = "\n".join(map(str, range(50)))
    (head, none), (rest, label) = Folds().shown(text)
    assert (head.split("\n")[-1], none) == ("19", "")
    assert (rest.split("\n")[0], label) == ("20", "[30 more lines]")
    short = text[: text.index("\n40")]
    assert Folds().shown(short) == [(short, "")]


def test_attached_files_fold_and_code_that_was_typed_does_not(folder: Path) -> None:
    folds = Folds()
    sent = attach("See @a.md", folder)
    assert as_shown(folds.folded(sent)) == "See a.md\n\n[a.md (3 lines)]"
    assert folds.whole(folds.folded(sent)) == sent
    typed = "Here it is:\n```\ncode\n```"
    assert folds.folded(typed) == typed
