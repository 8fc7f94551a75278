"""Both caches stay prefixes of the committed ids, whatever is committed or rolled back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.decode import token_cache
from sequoia_core.decode.token_cache import CHUNK, Ledger
from tests.core.models import RowCache, TableModel

IDS = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def rows_of(cache: object) -> list[tuple[int, int]]:
    assert isinstance(cache, RowCache)
    return cache.rows


def check(ledger: Ledger) -> None:
    held = list(zip(ledger.token_ids, range(len(ledger.token_ids)), strict=True))
    for cache in (ledger.target_cache, ledger.draft_cache):
        if cache is not None:
            assert rows_of(cache) == held[: cache.length]


@given(prompts=st.lists(IDS, min_size=1, max_size=5), draft_reads=st.booleans())
@settings(deadline=None)
def test_a_prompt_reuses_exactly_the_common_prefix(
    prompts: list[list[int]], draft_reads: bool
) -> None:
    """All but its last token at most: that one is the root of the first step."""
    ledger = Ledger(TableModel(4, 1), TableModel(4, 2))
    before: list[int] = []
    for prompt in prompts:
        common = 0
        while common < min(len(prompt), len(before)) - 1 and prompt[common] == before[common]:
            common += 1
        assert ledger.start(prompt) == common
        check(ledger)
        assert ledger.unread == len(prompt) - 1 - common
        list(ledger.read_prompt())
        if draft_reads:
            list(ledger.read_draft_prompt(0))
            assert ledger.draft_pending == prompt[-1:]
        check(ledger)
        assert ledger.unread == 0
        assert ledger.target_cache.length == len(prompt) - 1
        before = prompt


@given(length=st.integers(1, 3 * CHUNK), reads=st.integers(0, 4))
@settings(deadline=None, max_examples=30)
def test_reading_can_be_broken_off_and_taken_up_again(length: int, reads: int) -> None:
    ledger = Ledger(TableModel(4, 1), None)
    prompt = [at % 4 for at in range(length)]
    ledger.start(prompt)
    for _, left in zip(range(reads), ledger.read_prompt(), strict=False):
        assert left == ledger.unread
    kept = ledger.target_cache.length
    ledger.roll_back()
    assert ledger.target_cache.length == kept
    assert ledger.start(prompt) == kept
    assert list(ledger.read_prompt()) == list(range(length - 1 - kept, 0, -CHUNK))
    check(ledger)


@given(lag=st.integers(0, 8), most=st.integers(1, 8))
def test_the_draft_reads_apart_only_when_it_lags_by_too_much(lag: int, most: int) -> None:
    ledger = Ledger(TableModel(4, 1), TableModel(4, 2))
    ledger.start([0] * (lag + 1))
    list(ledger.read_draft_prompt(most))
    assert len(ledger.draft_pending) == (1 if lag + 1 > most else lag + 1)


def test_a_ledger_without_a_draft_has_no_cache_for_it() -> None:
    ledger = Ledger(TableModel(4, 1), None)
    ledger.start([1, 2, 3])
    list(ledger.read_prompt())
    ledger.target_cache.rows.append((3, 2))  # type: ignore[attr-defined]  # the root's forward
    ledger.commit([1], [0], [])
    assert ledger.draft_cache is None
    check(ledger)


def test_chunks_are_as_large_as_a_cancel_may_wait() -> None:
    ledger = Ledger(TableModel(4, 1), None)
    ledger.start([0] * (2 * token_cache.CHUNK + 2))
    assert list(ledger.read_prompt()) == [2 * CHUNK + 1, CHUNK + 1, 1]


def test_a_slow_model_is_asked_for_fewer_rows_at_once() -> None:
    target, draft = TableModel(4, 1), TableModel(4, 2)
    target.prompt_rows, draft.prompt_rows = 5, 4
    ledger = Ledger(target, draft)
    ledger.start([0] * 13)
    assert list(ledger.read_prompt()) == [12, 7, 2]
    assert list(ledger.read_draft_prompt(3)) == [12, 8, 4]
    assert list(ledger.read_draft_prompt(0)) == []
    check(ledger)
