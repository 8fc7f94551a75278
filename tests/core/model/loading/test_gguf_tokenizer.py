"""A GGUF file's tokenizer gives the ids of the tokenizer that the file was made from."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as protobuf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.gguf_tokenizer import SPLIT_RULES, gguf_tokenizer
from sequoia_core.model.loading.loader import open_checkpoint
from tests.core.checkpoints import save_gguf, tiny_llama, tiny_tokenizer
from tests.core.tiny_tokenizers import train_sentencepiece

CONTROL, USER_DEFINED, NORMAL = 3, 4, 1
SPECIALS = (
    "<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]",
    "<｜begin▁of▁sentence｜>", "<｜User｜>", "<start_of_turn>", "<|user|>",
)  # fmt: skip
BITS = (
    *SPECIALS, "<|endoftext|>", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "7", "42", "123",
    "123456", " 8", "Don't", "WE'LL", "I'm", "The", " the", "hello", "camelCase", "größe", "naïve",
    "e\u0301", "\u0301", "Việt", "東京", "日本語", "한국어", "привет", "नमस्ते", "ไทย", "العربية",
    "👍", "👨\u200d👩\u200d👧", "\u00a0", "\u3000", "\u2028", "\ufeff", "½", "Ⅷ", "२३", "①", "ß",
    "İ", "!?", "...", "#//", "_x_", "(a+b)=c", "$5", "https://a.b/c?d=1", "\x00", "\x7f", "▁", "Ġ",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(BITS) | st.text(max_size=3), max_size=9).map("".join)
READ_ABOUT = (
    "The red kettle sang in 2024 while 12345 ships sailed, and 678 did not.",
    "def area(w, h):\n    return w * h\n\n\nprint(area(3, 14))",
    "Don't we'll I'M they've  HELLO hello the the the größe naïve Việt Nam",
    "東京 日本語 привет नमस्ते ไทย العربية 한국어 e\u0301 ... !!! $5 (a+b)=c 👍👍",
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def split(*patterns: str, digits: bool = False) -> list[Any]:
    """What a `tokenizer.json` with regular expressions of its own has."""
    return [
        *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
        *([pre_tokenizers.Digits(individual_digits=True)] if digits else []),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


DIGITS_FIRST = [pre_tokenizers.Digits(individual_digits=True), byte_level()]
ORIGINALS: dict[str, tuple[list[Any], bool]] = {
    "gpt-2": ([byte_level()], False),
    "smollm": (DIGITS_FIRST, False),
    "starcoder": (DIGITS_FIRST, False),
    "command-r": (DIGITS_FIRST, True),
    "olmo": ([byte_level()], True),
    "llama-bpe": (split(LLAMA3), False),
    "smaug-bpe": (split(LLAMA3), False),
    "qwen2": (split(QWEN2), True),
    "tekken": (split(TEKKEN), False),
    "deepseek-coder": (
        split("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", digits=True),
        False,
    ),
    "deepseek-v3": (split(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3), False),
}
"""Pre-tokenizers as the models' own files have them, and whether text is composed first."""


@lru_cache
def original(pre: str) -> Tokenizer:
    """A small tokenizer that is trained with a model's own pre-tokenizer."""
    steps, composed = ORIGINALS[pre]
    backend = Tokenizer(models.BPE(ignore_merges=SPLIT_RULES[pre].get("whole_words", False)))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if composed:
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=700,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(READ_ABOUT * 3, trainer)
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIALS[:-1]])
    backend.add_tokens([AddedToken(SPECIALS[-1], normalized=False)])
    return backend


def entries_of(backend: Tokenizer, pre: str | None, **changes: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes of a byte-level tokenizer."""
    added = backend.get_added_tokens_decoder()
    vocab = backend.get_vocab()
    kinds = {str(token): CONTROL if token.special else USER_DEFINED for token in added.values()}
    tokens = sorted(vocab, key=lambda token: vocab[token])
    entries: dict[str, Any] = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [kinds.get(token, NORMAL) for token in tokens],
        "merges": merges_of(backend),
        "bos_token_id": vocab["<s>"],
        "eos_token_id": vocab["</s>"],
        **changes,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in entries.items() if value is not None}


def merges_of(backend: Tokenizer) -> list[str]:
    merges = json.loads(backend.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def read(entries: dict[str, Any]) -> Any:
    return gguf_tokenizer(entries, "model.gguf")


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


@lru_cache
def byte_level_pair(pre: str) -> tuple[Tokenizer, Any]:
    backend = original(pre)
    return backend, read(entries_of(backend, pre))


@pytest.mark.parametrize("pre", ORIGINALS)
@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_ids_are_the_originals_under_every_rule(pre: str, text: str) -> None:
    backend, tokenizer = byte_level_pair(pre)
    ids = ids_of(tokenizer, text)
    assert ids == backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == backend.decode(ids, skip_special_tokens=False)
    assert all(token < backend.get_vocab_size() for token in ids)


@pytest.mark.parametrize("pre", sorted(SPLIT_RULES))
def test_every_rule_builds_and_loses_no_text(pre: str) -> None:
    backend = original("gpt-2")
    tokenizer = read(entries_of(backend, pre))
    text = "Don't  count 12345\n\n東京 größe\t!?"
    assert tokenizer.decode(ids_of(tokenizer, text)) == text
    assert len(tokenizer) == backend.get_vocab_size()


@pytest.mark.parametrize("text", SPECIALS)
def test_special_tokens_of_every_spelling_are_single_ids(text: str) -> None:
    backend, tokenizer = byte_level_pair("llama-bpe")
    assert ids_of(tokenizer, f"a{text}b")[1:-1] == [backend.token_to_id(text)]


def test_what_is_no_token_of_the_file_is_text_and_adds_nothing() -> None:
    backend, tokenizer = byte_level_pair("llama-bpe")
    assert "<|endoftext|>" not in tokenizer.get_vocab()
    assert max(tokenizer.get_vocab().values()) == backend.get_vocab_size() - 1
    assert tokenizer.decode(ids_of(tokenizer, "<|endoftext|>")) == "<|endoftext|>"


def test_a_whole_word_is_taken_before_its_merges_where_the_model_does_so() -> None:
    """Llama 3 looks words up; a vocabulary may hold words that no merges lead to."""
    for pre, whole in (("llama-bpe", True), ("tekken", True), ("smaug-bpe", False)):
        entries = entries_of(original(pre), pre)
        entries["tokenizer.ggml.tokens"] = [*entries["tokenizer.ggml.tokens"], "ĠQuartz"]
        entries["tokenizer.ggml.token_type"] = [*entries["tokenizer.ggml.token_type"], NORMAL]
        tokenizer = read(entries)
        assert (tokenizer.tokenize(" Quartz") == ["ĠQuartz"]) == whole


@pytest.mark.parametrize("kind", ["eos", "eot", "eom", "bos"])
def test_an_end_that_is_stated_is_special_whatever_its_type(kind: str) -> None:
    backend = original("llama-bpe")
    types = [NORMAL] * backend.get_vocab_size()
    token = backend.token_to_id("<|im_end|>")
    changes = {"token_type": types, f"{kind}_token_id": token}
    tokenizer = read(entries_of(backend, "llama-bpe", **changes))
    assert ids_of(tokenizer, "<|im_end|>") == [token]
    assert tokenizer.decode([token], skip_special_tokens=True) == ""


@pytest.mark.parametrize("scored", [True, False], ids=["sentencepiece", "byte-level"])
def test_an_end_of_turn_of_ordinary_type_is_one_token(scored: bool) -> None:
    """As llama.cpp takes it, whatever the file's keys say; its neighbours stay ordinary."""
    texts = ["<|im_start|>", "<|im_end|>"]
    if scored:
        _, model = pieces()
        known = [(each.piece, each.score, each.type) for each in model.pieces]
        tokens, scores, types = zip(*known, *((text, -1e3, NORMAL) for text in texts), strict=True)
        entries = scored_entries(
            model, tokens=list(tokens), scores=list(scores), token_type=list(types)
        )
    else:
        entries = entries_of(original("llama-bpe"), "llama-bpe")
        tokens = entries["tokenizer.ggml.tokens"]
        entries["tokenizer.ggml.token_type"] = [NORMAL] * len(tokens)
    tokenizer = read(entries)
    start, end = map(tokens.index, texts)
    ids = ids_of(tokenizer, "the<|im_end|>\n<|im_start|>")
    assert end in ids
    assert start not in ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "no-such-rule"}, r"tokenizer\.ggml\.pre is 'no-such-rule'.*llama-bpe"),
        ({"pre": "default"}, r"tokenizer\.ggml\.pre is 'default'"),
        ({"pre": None}, r"tokenizer\.ggml\.pre is None"),
        ({"model": "bert"}, r"tokenizer\.ggml\.model is 'bert'"),
        ({"model": "t5"}, r"tokenizer\.ggml\.model is 't5'"),
        ({"model": "rwkv"}, r"tokenizer\.ggml\.model is 'rwkv'"),
        ({"model": None}, r"tokenizer\.ggml\.model is None"),
        ({"merges": None}, r"tokenizer\.ggml\.merges is missing"),
        ({"token_type": None}, r"tokenizer\.ggml\.token_type is missing"),
        ({"tokens": None}, r"tokenizer\.ggml\.tokens is missing"),
        ({"add_sep_token": True}, r"add_sep_token is not supported"),
        ({"add_space_prefix": True}, r"add_space_prefix is not supported"),
        ({"remove_extra_whitespaces": True}, r"remove_extra_whitespaces is not supported"),
        ({"suppress_tokens": [1]}, r"tokenizer\.ggml\.suppress_tokens is not supported"),
        ({"merges": ["x"]}, "cannot be read"),
        ({"merges": ["no such"]}, "cannot be read"),
        ({"token_type": [9] * 9}, "cannot be read"),
        ({"eos_token_id": 10**6}, r"tokenizer\.ggml\.eos_token_id is 1000000, but there are"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_its_name(
    changes: dict[str, Any], message: str
) -> None:
    entries = entries_of(original("llama-bpe"), "llama-bpe") | entries_of(
        original("llama-bpe"), **{"pre": "llama-bpe", **changes}
    )
    for name, value in changes.items():
        if value is None:
            entries.pop(f"tokenizer.ggml.{name}", None)
    with pytest.raises(ModelLoadError, match=message) as caught:
        read(entries)
    assert str(caught.value).startswith("model.gguf: ")
    assert "\n" not in str(caught.value)


def test_a_token_that_is_there_twice_is_refused() -> None:
    entries = entries_of(original("gpt-2"), "gpt-2")
    tokens = list(entries["tokenizer.ggml.tokens"])
    tokens[300] = tokens[40]
    with pytest.raises(ModelLoadError, match="the tokens 40 and 300 are both"):
        read(entries | {"tokenizer.ggml.tokens": tokens})


@pytest.mark.parametrize(
    ("pre", "stated", "marked"),
    [
        ("llama-bpe", {}, ["<s>"]),
        ("llama-bpe", {"add_bos_token": False}, []),
        ("gpt-2", {}, []),
        ("gpt-2", {"add_bos_token": True, "add_eos_token": True}, ["<s>", "</s>"]),
    ],
)
def test_a_whole_text_is_marked_as_the_file_says(
    pre: str, stated: dict[str, Any], marked: list[str]
) -> None:
    tokenizer = read(entries_of(original(pre), pre, **stated))
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("a"))
    assert [token for token in tokens if token != "a"] == marked


def test_a_padding_token_that_is_not_there_is_left_out() -> None:
    entries = entries_of(original("gpt-2"), "gpt-2", padding_token_id=10**6)
    assert read(entries).pad_token is None


def test_the_default_template_is_taken_else_the_first() -> None:
    entries = entries_of(original("gpt-2"), "gpt-2")
    named = {"tokenizer.chat_template.rag": "R", "tokenizer.chat_template.tool_use": "T"}
    assert read(entries).chat_template is None
    assert read({**entries, **named}).chat_template == "R"
    assert read({**entries, **named, "tokenizer.chat_template": "D"}).chat_template == "D"


@lru_cache
def pieces(**options: Any) -> tuple[sentencepiece.SentencePieceProcessor, Any]:
    """A trained sentencepiece model of kind BPE, and its pieces."""
    words = [*READ_ABOUT, "aaaa aaaaaaa ==== ======   x    y", "[INST] hello [/INST] the the"]
    kind = {
        "vocab_size": 420,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    }
    trained = train_sentencepiece(words, **{**kind, **options})
    model = protobuf.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(trained)
    return sentencepiece.SentencePieceProcessor(model_proto=trained), model


def scored_entries(model: Any, **changes: Any) -> dict[str, Any]:
    entries = {
        "model": "llama",
        "pre": "default",
        "tokens": [piece.piece for piece in model.pieces],
        "scores": [piece.score for piece in model.pieces],
        "token_type": [piece.type for piece in model.pieces],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **changes,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in entries.items() if value is not None}


@lru_cache
def scored_pair(prefix: bool) -> tuple[Any, Any]:
    processor, model = pieces(add_dummy_prefix=prefix)
    return processor, read(scored_entries(model, add_space_prefix=prefix))


@pytest.mark.parametrize("prefix", [True, False])
@given(text=st.lists(st.sampled_from(BITS) | st.text("a= \n", max_size=9), max_size=9).map("".join))
@settings(max_examples=150, deadline=None)
def test_ids_are_sentencepieces_own(prefix: bool, text: str) -> None:
    """Its control tokens are matched in text here, where it would read them as characters."""
    processor, tokenizer = scored_pair(prefix)
    if "<s>" not in text and "</s>" not in text:
        assert ids_of(tokenizer, text) == processor.encode(text)


@given(
    parts=st.lists(st.sampled_from(["the", " the", "\nhello", "[INST] hello", "東京"]), min_size=1)
)
@settings(max_examples=30, deadline=None)
def test_text_after_a_special_token_begins_with_a_space_as_at_the_start(
    parts: Sequence[str],
) -> None:
    """As Llama 2, TinyLlama and Vicuna were trained."""
    processor, tokenizer = scored_pair(True)
    expected = [token for part in parts for token in (1, *processor.encode(part), 2)]
    assert ids_of(tokenizer, "".join(f"<s>{part}</s>" for part in parts)) == expected


@pytest.mark.parametrize(
    "text", ["  hello  the ", "\t 12", "a\n  b  \n c", " the\t x ", "x  \n", "   ", "\n"]
)
def test_only_spaces_are_extra_white_space(text: str) -> None:
    processor, model = pieces(remove_extra_whitespaces=True)
    tokenizer = read(scored_entries(model, remove_extra_whitespaces=True))
    assert ids_of(tokenizer, text) == processor.encode(text)


def test_merges_that_the_file_lists_are_used() -> None:
    _, model = pieces()
    assert read(scored_entries(model)).tokenize("hello") == ["▁hello"]
    assert read(scored_entries(model, scores=None, merges=[])).tokenize("hello") == [*"▁hello"]
    assert read(scored_entries(model, merges=[])).tokenize("hello") == ["▁hello"]


def test_scores_that_do_not_order_the_merges_are_refused() -> None:
    _, model = pieces()
    same = [-1000.0] * len(model.pieces)
    with pytest.raises(ModelLoadError, match="have the same score"):
        read(scored_entries(model, scores=same))
    with pytest.raises(ModelLoadError, match=r"tokenizer\.ggml\.scores is missing"):
        read(scored_entries(model, scores=None))


def test_other_files_in_the_folder_of_a_gguf_file_do_not_count(tmp_path: Path) -> None:
    save_gguf(tmp_path / "model.gguf", tiny_llama())
    tiny_tokenizer(first="B").save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path / "model.gguf"))
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer().get_vocab() == tiny_tokenizer(first="A").get_vocab()
