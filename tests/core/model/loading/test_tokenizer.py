"""Tokenizers of folders: ids, special tokens, templates, refusals, comparison."""

import contextlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from sequoia_core.errors import ModelLoadError, TokenizerMismatchError
from sequoia_core.model.loading.gguf import open_gguf
from sequoia_core.model.loading.tokenizer import (
    assert_same_tokenizer,
    check_embedding_fit,
    has_tokenizer,
    load_tokenizer,
    stated_eos_ids,
)
from sequoia_core.text.chat_template import ChatTemplate
from tests.core.checkpoints import CHAT_TEMPLATE, save_gguf, tiny_llama, tiny_tokenizer
from tests.core.tiny_tokenizers import byte_level, sentencepiece_like, train_sentencepiece

LLAMA3_TEMPLATE = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
)


def read_gguf(file: Path, **entries: Any) -> Any:
    """The tokenizer of a tiny model's GGUF file, written with these entries."""
    save_gguf(file, tiny_llama(), **entries)
    load = open_gguf(file).tokenizer
    assert load is not None
    return load()


@pytest.fixture(scope="module")
def from_gguf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read_gguf(tmp_path_factory.mktemp("tokenizer") / "model.gguf")


@given(text=st.text(alphabet="AZaz019 \n", max_size=40))
@settings(deadline=None)
def test_digits_are_split_off_before_white_space_is_joined(from_gguf: Any, text: str) -> None:
    """Parting single digits first means: no token is taken over a digit's edge."""
    pieces = [""]
    for character in text:
        if character.isdigit():
            pieces += [character, ""]
        else:
            pieces[-1] += character
    one_by_one = [token for piece in pieces for token in from_gguf.encode(piece)]
    assert from_gguf.encode(text) == one_by_one
    assert from_gguf.decode(one_by_one) == text


def test_the_digit_rule_changes_ids_where_spaces_precede_a_digit(tmp_path: Path) -> None:
    split, joined = (
        read_gguf(tmp_path / "model.gguf", tokenizer__ggml__pre=pre).tokenize("A  1")
        for pre in ("smollm", "gpt-2")
    )
    assert split == ["A", "ĠĠ", "1"]
    assert joined == ["A", "Ġ", "Ġ", "1"]


def test_special_tokens_are_single_ids(from_gguf: Any) -> None:
    assert from_gguf.encode("<|im_start|>A<|im_end|>") == [1, *from_gguf.encode("A"), 2]


def test_an_ordinary_directory_is_read_too(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).get_vocab() == tiny_tokenizer().get_vocab()


def test_a_sentencepiece_model_is_read_too(tmp_path: Path) -> None:
    """What Llama 2 and its small drafts ship."""
    words = ["the sky is blue", "why is the sea blue", "12 birds"]
    trained = train_sentencepiece(words)
    (tmp_path / "tokenizer.model").write_bytes(trained)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    assert has_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_proto=trained)
    for text in [*words, "sky \N{SNOWMAN} 2"]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == reference.encode(text)
        assert tokenizer.decode(ids) == text


def test_a_text_beyond_the_stated_maximum_is_not_warned_of_across_the_screen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 4
    tokenizer.save_pretrained(tmp_path)
    transformers.logging.set_verbosity_warning()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer.encode("ABCDEFGH")
    assert "longer than the specified maximum" in caplog.text
    caplog.clear()
    assert len(load_tokenizer(tmp_path).encode("ABCDEFGH")) == 8
    assert caplog.text == ""


def test_a_folder_may_have_no_tokenizer(tmp_path: Path) -> None:
    assert not has_tokenizer(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_tokenizer_is_one_line(file: str, content: str, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ModelLoadError) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_gguf_file_without_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"model\.gguf: the tokenizer cannot be read"):
        read_gguf(tmp_path / "model.gguf", tokenizer__ggml__tokens=None)


def folder_of(directory: Path, backend: Tokenizer, **settings: Any) -> Path:
    """A folder with this `tokenizer.json` and this configuration."""
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "config.json").write_text('{"model_type": "llama"}')
    return directory


@pytest.mark.parametrize(
    "stated",
    [
        {"tokenizer_class": "LlamaTokenizer", "legacy": False},
        {"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": False},
        {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True},
        {"tokenizer_class": "Qwen2Tokenizer"},
        {"tokenizer_class": "NoSuchTokenizer"},
        {},
    ],
    ids=str,
)
def test_no_class_changes_what_tokenizer_json_says(stated: dict[str, Any], tmp_path: Path) -> None:
    backends = [sentencepiece_like().backend_tokenizer, byte_level().backend_tokenizer]
    digits = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    digits.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    for backend in (*backends, digits):
        tokenizer = load_tokenizer(folder_of(tmp_path, backend, eos_token="</s>", **stated))
        for text in ("<s>[INST] the [/INST]", "</s>\nthe", "a  8", "   77", " the  the\n\né"):
            expected = backend.encode(text, add_special_tokens=False).ids
            assert tokenizer.encode(text, add_special_tokens=False) == expected, text


def test_named_tokens_come_from_either_file_and_only_if_they_exist(tmp_path: Path) -> None:
    backend = byte_level().backend_tokenizer
    folder_of(tmp_path, backend, bos_token="<|begin_of_text|>", pad_token="[PAD]", eos_token=None)
    special = {"eos_token": {"content": "<|eot_id|>", "lstrip": False}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin_of_text|>", "<|eot_id|>")
    assert tokenizer.pad_token is None
    assert len(tokenizer) == backend.get_vocab_size()


@pytest.mark.parametrize(
    "rules",
    [
        {"lstrip": True, "rstrip": True},
        {"lstrip": True},
        {"rstrip": True},
        {"single_word": True},
        {"normalized": True},
        {"special": False, "lstrip": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "names",
    [
        {"eos_token": "<end>"},
        {"eos_token": {"content": "<end>", "lstrip": False, "rstrip": False}},
        {"additional_special_tokens": ["<end>"]},
        {"extra_special_tokens": {"closing_token": "<end>"}},
    ],
    ids=str,
)
def test_a_named_token_keeps_its_rules(
    rules: dict[str, bool], names: dict[str, Any], tmp_path: Path
) -> None:
    backend = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    backend.normalizer = normalizers.Lowercase()
    backend.add_tokens([AddedToken("<end>", **{"special": True, "normalized": False, **rules})])
    tokenizer = load_tokenizer(folder_of(tmp_path, backend, **names))
    for text in ("the <end> the", "the<end>the", "  <end>\n", "<END>", "a<end> <end>b"):
        expected = backend.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_special_tokens=False) == expected, text


def test_tokens_that_only_the_configuration_lists_are_added_under_their_ids(tmp_path: Path) -> None:
    backend = byte_level().backend_tokenizer
    size = backend.get_vocab_size()
    listed = {str(size): {"content": "<a>", "special": True}, str(size + 1): {"content": "<b>"}}
    tokenizer = load_tokenizer(folder_of(tmp_path, backend, added_tokens_decoder=listed))
    assert tokenizer.encode("<a><b>", add_special_tokens=False) == [size, size + 1]
    for wrong in ({str(size + 5): {"content": "<a>"}}, {"7": {"content": "<|eot_id|>"}}):
        folder_of(tmp_path, backend, added_tokens_decoder=wrong)
        with pytest.raises(ModelLoadError, match=r"is stated as token \d+, but the"):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "CONFIG"),
        ({"chat_template.json": '{"chat_template": "OLDER"}'}, "CONFIG"),
        ({"chat_template.jinja": "FILE"}, "FILE"),
        ({"chat_templates/rag.jinja": "RAG", "chat_templates/tool_use.jinja": "TOOL"}, "RAG"),
        ({"chat_templates/rag.jinja": "RAG", "chat_template.jinja": "FILE"}, "FILE"),
        ({"additional_chat_templates/default.jinja": "OTHER"}, "OTHER"),
        ({"additional_chat_templates/rag.jinja": "RAG", "chat_template.jinja": "FILE"}, "FILE"),
    ],
)
def test_the_chat_template_is_found_where_it_may_lie(
    files: dict[str, str], expected: str, tmp_path: Path
) -> None:
    folder_of(tmp_path, byte_level().backend_tokenizer, chat_template="CONFIG")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert load_tokenizer(tmp_path).chat_template == expected


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ([{"name": "rag", "template": "R"}, {"name": "tool_use", "template": "T"}], "R"),
        ([{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}], "D"),
        ({"tool_use": "T", "default": "D"}, "D"),
        ({"tool_use": "T"}, "T"),
        ("D", "D"),
        ("", None),
        ([], None),
    ],
)
def test_of_several_templates_the_default_is_taken_else_the_first(
    stated: Any, expected: str | None, tmp_path: Path
) -> None:
    folder_of(tmp_path, byte_level().backend_tokenizer, chat_template=stated)
    assert load_tokenizer(tmp_path).chat_template == expected


def test_a_template_in_the_oldest_place_is_found(tmp_path: Path) -> None:
    folder_of(tmp_path, byte_level().backend_tokenizer)
    (tmp_path / "chat_template.json").write_text('{"chat_template": "OLDER"}')
    assert load_tokenizer(tmp_path).chat_template == "OLDER"


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"split_special_tokens": True}, "split_special_tokens is not supported"),
        ({"eos_token": 7}, "7 was expected to be a token's text"),
        ({"chat_template": [{"name": "a", "template": 5}]}, "a chat template was expected"),
        ({"chat_template": [{}]}, "has no name or no template"),
        ({"added_tokens_decoder": {"x": {}}}, "cannot be read"),
    ],
)
def test_what_a_folder_states_and_cannot_be_is_one_line(
    stated: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder_of(tmp_path, byte_level().backend_tokenizer, **stated)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_vocabulary_and_merges_alone_are_read_too(tmp_path: Path) -> None:
    backend = byte_level().backend_tokenizer
    backend.model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    tokenizer = load_tokenizer(tmp_path)
    for text in ("the  the\n\né", "he 12"):
        expected = backend.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_special_tokens=False) == expected


@pytest.mark.parametrize("legacy", [None, True, False])
def test_the_rule_of_old_sentencepiece_folders_is_the_stated_one(
    legacy: bool | None, tmp_path: Path
) -> None:
    """Old code put a space before any text after a special token; files may say otherwise."""
    trained = train_sentencepiece(
        ["the sky is blue"] * 2, vocab_size=290, normalization_rule_name="identity"
    )
    (tmp_path / "tokenizer.model").write_bytes(trained)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"legacy": legacy}))
    tokens = load_tokenizer(tmp_path).tokenize("the<s>the")
    first, second = ("▁the", "the") if legacy is False else ("▁the", "▁the")
    assert "".join(tokens) == f"{first}<s>{second}"


def test_a_sentencepiece_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    trained = train_sentencepiece(
        ["the sky is blue", "why is the sea blue"],
        model_type="unigram",
        vocab_size=30,
        byte_fallback=False,
    )
    (tmp_path / "tokenizer.model").write_bytes(trained)
    with pytest.raises(ModelLoadError, match="kind unigram"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("files", ["tokenizer.json", "tokenizer.model", "vocab.json"])
@pytest.mark.parametrize("known", [True, False], ids=["class known", "class unknown"])
def test_no_code_of_a_folder_runs_whatever_is_answered(
    files: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "it ran"
    (tmp_path / "strange.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass It: ...\n")
    name = "GPT2Tokenizer" if known else "It"
    settings = {"tokenizer_class": name, "auto_map": {"AutoTokenizer": ["strange.It", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {"model_type": "llama", "auto_map": {"AutoConfig": "strange.It"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if files == "tokenizer.json":
        byte_level().backend_tokenizer.save(str(tmp_path / files))
    else:
        byte_level().backend_tokenizer.model.save(str(tmp_path))
        (tmp_path / "vocab.json").rename(tmp_path / files)
    asked: list[str] = []

    def agree(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", agree)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    with contextlib.suppress(ModelLoadError):
        load_tokenizer(tmp_path)
    assert not mark.exists()
    assert not asked


def test_tokens_past_the_embedding_are_refused_unless_nothing_needs_them() -> None:
    tokenizer = byte_level()
    rows = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    check_embedding_fit(tokenizer, len(tokenizer), range(len(tokenizer)), "model")
    check_embedding_fit(tokenizer, len(tokenizer) + 64, (), "model")
    check_embedding_fit(tokenizer, rows, (), "model")
    eot = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    with pytest.raises(ModelLoadError, match=rf"model: .* token {eot} \('<\|eot_id\|>'\), but"):
        check_embedding_fit(tokenizer, rows, [eot], "model")
    with pytest.raises(ModelLoadError, match=f"token {rows - 1} .* has {rows - 1} rows"):
        check_embedding_fit(tokenizer, rows - 1, (), "model")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (({},), set()),
        (({"eos_token_id": 2},), {2}),
        (({"eos_token_id": [2, 7]}, {"eos_token_id": 0}), {0, 2, 7}),
        (({"eos_token_id": None}, {"eos_token_id": [5]}), {5}),
    ],
)
def test_stated_ends_are_joined(entries: tuple[dict[str, Any], ...], expected: set[int]) -> None:
    assert stated_eos_ids(*entries) == expected


@pytest.mark.parametrize("bad", ["</s>", [1.5], [[1]], True, {"a": 1}])
def test_an_end_that_is_no_id_is_refused(bad: Any) -> None:
    with pytest.raises(ModelLoadError, match="eos_token_id"):
        stated_eos_ids({"eos_token_id": bad})


@pytest.mark.parametrize(
    ("template", "closing"),
    [
        (CHAT_TEMPLATE, "<|im_end|>"),
        (LLAMA3_TEMPLATE, "<|eot_id|>"),
        ("{% for m in messages %}{{ m.content }} {{ eos_token }}{% endfor %}", "<|endoftext|>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),
        ("{{ raise_exception('only one turn') }}", None),
        ("{{ 1 / 0 }}", None),
        ("nothing of the messages <|im_end|>", None),
        (None, None),
    ],
)
def test_the_turn_closing_token_is_read_off_the_template(
    template: str | None, closing: str | None
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]}
    )
    tokenizer.chat_template = template
    found = ChatTemplate(tokenizer, None).closing_id()
    assert found == (None if closing is None else tokenizer.convert_tokens_to_ids(closing))


def test_padding_beyond_the_other_is_no_mismatch() -> None:
    assert_same_tokenizer(tiny_tokenizer(90), tiny_tokenizer(96))
    assert_same_tokenizer(tiny_tokenizer(96), tiny_tokenizer(90))


def test_the_first_differing_id_and_both_strings_are_named() -> None:
    with pytest.raises(TokenizerMismatchError, match="token 16 is 'A' to the target and 'B' to"):
        assert_same_tokenizer(tiny_tokenizer(first="A"), tiny_tokenizer(first="B"))


def test_added_tokens_are_compared_too(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    settings = json.loads(file.read_text())
    settings["added_tokens"][2]["content"] = "<|eot_id|>"
    settings["model"]["vocab"]["<|eot_id|>"] = settings["model"]["vocab"].pop("<|im_end|>")
    file.write_text(json.dumps(settings))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    with pytest.raises(TokenizerMismatchError, match=r"token 2 is '<\|im_end\|>'"):
        assert_same_tokenizer(tiny_tokenizer(), load_tokenizer(tmp_path))
