"""Both caches stay prefixes of the committed ids, whatever is committed or rolled back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.decode.token_cache import TokenCache
from tests.core.models import RowCache, TableModel

ROWS = TableModel.prompt_rows
IDS = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def rows_of(cache: object) -> list[tuple[int, int]]:
    assert isinstance(cache, RowCache)
    return cache.rows


def check(tokens: TokenCache) -> None:
    held = list(zip(tokens.token_ids, range(len(tokens.token_ids)), strict=True))
    for cache in (tokens.target_cache, tokens.draft_cache):
        if cache is not None:
            assert rows_of(cache) == held[: cache.length]


@given(prompts=st.lists(IDS, min_size=1, max_size=5), draft_reads=st.booleans())
@settings(deadline=None)
def test_a_prompt_reuses_exactly_the_common_prefix(
    prompts: list[list[int]], draft_reads: bool
) -> None:
    """All but its last token at most: that one is the root of the first step."""
    tokens = TokenCache(TableModel(4, 1), TableModel(4, 2))
    before: list[int] = []
    for prompt in prompts:
        common = 0
        while common < min(len(prompt), len(before)) - 1 and prompt[common] == before[common]:
            common += 1
        assert tokens.start(prompt) == common
        check(tokens)
        assert tokens.unread == len(prompt) - 1 - common
        list(tokens.read_prompt())
        if draft_reads:
            list(tokens.read_draft_prompt(0))
            assert tokens.draft_pending == prompt[-1:]
        check(tokens)
        assert tokens.unread == 0
        assert tokens.target_cache.length == len(prompt) - 1
        before = prompt


@given(length=st.integers(1, 3 * ROWS), reads=st.integers(0, 4))
@settings(deadline=None, max_examples=30)
def test_reading_can_be_broken_off_and_taken_up_again(length: int, reads: int) -> None:
    tokens = TokenCache(TableModel(4, 1), None)
    prompt = [at % 4 for at in range(length)]
    tokens.start(prompt)
    for _, left in zip(range(reads), tokens.read_prompt(), strict=False):
        assert left == tokens.unread
    kept = tokens.target_cache.length
    tokens.roll_back()
    assert tokens.target_cache.length == kept
    assert tokens.start(prompt) == kept
    assert list(tokens.read_prompt()) == list(range(length - 1 - kept, 0, -ROWS))
    check(tokens)


@given(lag=st.integers(0, 8), most=st.integers(1, 8))
def test_the_draft_reads_apart_only_when_it_lags_by_too_much(lag: int, most: int) -> None:
    tokens = TokenCache(TableModel(4, 1), TableModel(4, 2))
    tokens.start([0] * (lag + 1))
    list(tokens.read_draft_prompt(most))
    assert len(tokens.draft_pending) == (1 if lag + 1 > most else lag + 1)


def test_a_token_cache_without_a_draft_has_no_cache_for_it() -> None:
    tokens = TokenCache(TableModel(4, 1), None)
    tokens.start([1, 2, 3])
    list(tokens.read_prompt())
    tokens.target_cache.rows.append((3, 2))  # type: ignore[attr-defined]  # the root's forward
    tokens.commit([1], [0], [])
    assert tokens.draft_cache is None
    check(tokens)


def test_a_prompt_is_read_in_as_many_rows_as_its_model_wants() -> None:
    target, draft = TableModel(4, 1), TableModel(4, 2)
    target.prompt_rows, draft.prompt_rows = 5, 4
    tokens = TokenCache(target, draft)
    tokens.start([0] * 13)
    assert list(tokens.read_prompt()) == [12, 7, 2]
    assert list(tokens.read_draft_prompt(3)) == [12, 8, 4]
    assert list(tokens.read_draft_prompt(0)) == []
    check(tokens)
