"""A draft may be of another family than its target, with other padding, if its tokens agree."""

from pathlib import Path

import pytest

from sequoia_core.config import SamplingParams, WeightFormat
from sequoia_core.errors import TokenizerMismatchError
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import reference_text, tiny_tokenizer
from tests.core.engines import make_engine, tokens_of
from tests.core.families import save_family

PROMPT = [7, 31, 12, 90, 44, 8]


@pytest.mark.parametrize(
    ("target", "rows", "draft", "draft_rows"),
    [
        ("qwen2", 104, "qwen2", 96),  # as Qwen2.5 7B and 0.5B
        ("qwen3 with a window", 96, "qwen2", 120),
        ("gemma3", 104, "gemma2", 96),
        ("phi3", 96, "mistral", 96),
    ],
)
def test_decoding_is_the_targets_own(
    target: str, rows: int, draft: str, draft_rows: int, tmp_path: Path
) -> None:
    theirs = save_family(tmp_path / "target", target, vocab_size=rows)
    save_family(tmp_path / "draft", draft, seed=1, vocab_size=draft_rows)
    for each in ("target", "draft"):
        tiny_tokenizer().save_pretrained(tmp_path / each)
    pair = load_pair(str(tmp_path / "target"), str(tmp_path / "draft"), dtype="float32")
    assert pair.draft is not None
    engine = make_engine(
        pair.target, DraftModel(pair.draft, pair.draft_vocab_ids), GrowMap.k_ary([3, 2])
    )
    expected = reference_text(theirs, PROMPT, 20)
    params = SamplingParams(temperature=0.0, max_new_tokens=20)
    assert PROMPT + tokens_of(list(engine.generate(PROMPT, params))) == expected


def test_other_tokens_are_refused_across_families(tmp_path: Path) -> None:
    save_family(tmp_path / "target", "qwen3")
    tiny_tokenizer().save_pretrained(tmp_path / "target")
    save_family(tmp_path / "draft", "gemma2")
    tiny_tokenizer(first="B").save_pretrained(tmp_path / "draft")
    with pytest.raises(TokenizerMismatchError, match="the draft has another tokenizer"):
        load_pair(str(tmp_path / "target"), str(tmp_path / "draft"))


@pytest.mark.parametrize(
    ("variant", "dtype", "overflows"),
    [
        ("gemma2", "float16", True), ("gemma3", "float16", True), ("gemma2", "bfloat16", False),
        ("granite", "float16", False), ("llama", "float16", False),
    ],
)  # fmt: skip
def test_a_family_that_can_overflow_in_float16_is_named(
    variant: str, dtype: str, overflows: bool, tmp_path: Path
) -> None:
    save_family(tmp_path, variant)
    tiny_tokenizer().save_pretrained(tmp_path)
    pair = load_pair(str(tmp_path), dtype=dtype, device="cpu", weights=WeightFormat.TORCH)
    line = "can overflow in float16; give --dtype bfloat16 or float32"
    assert (line in pair.description.remark) == overflows
