"""What a pair takes of the memory is counted: the tokens of the chat, what is reserved, graphs."""

import pytest
import torch

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.model.graphs import Graphs
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.memory_plan import kv_token_bytes
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.model.memory_use import memory_use
from sequoia_core.model.native.llama import NativeCache, NativeLlama
from sequoia_core.model.recorded import record_forwards
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from tests.core.engines import make_engine
from tests.core.models import TableModel, random_weights, tiny_config
from tests.tape_runner import TapeRunner

CPU = torch.device("cpu")
CONFIG = tiny_config(context_window=1024)


def llama() -> Llama:
    return Llama(CONFIG, random_weights(CONFIG, 0), CPU, torch.float32)


def test_tokens_and_what_is_reserved_for_them() -> None:
    token = kv_token_bytes(CONFIG, 4)
    cache, draft = (LayeredKVCache(CONFIG, CPU, torch.float32) for _ in range(2))
    (empty,) = memory_use({CPU: 7}, [cache], None).devices
    assert (empty.device, empty.weights, empty.cache_used) == ("cpu", 7, 0)
    assert empty.cache_reserved == 257 * token, "with the scratch row"
    for each, length in ((cache, 300), (draft, 100)):
        each.reserve(length)
        each.advance(length)
    (held,) = memory_use({CPU: 7}, [cache, draft], None).devices
    assert held.cache_used == 400 * token
    assert held.cache_reserved == (513 + 257) * token
    assert held.peak > 0
    assert held.free > 0
    cache.truncate(0)
    cache.release()
    (cleared,) = memory_use({CPU: 7}, [cache, draft], None).devices
    assert cleared.cache_reserved == 2 * 257 * token


def test_recordings_are_counted_once_where_they_are() -> None:
    graphs, model = Graphs(TapeRunner(), CPU), llama()
    record_forwards(graphs, model)
    engine = make_engine(model, None, mode=Mode.AR)
    list(engine.generate([1, 2, 3], SamplingParams(0.0, max_new_tokens=4)))
    assert graphs.nbytes > 0
    first, second = memory_use({CPU: 0, torch.device("cpu", 0): 0}, [], graphs).devices
    assert (first.recordings, second.recordings) == (graphs.nbytes, 0)


def test_caches_of_unknown_size_count_nothing() -> None:
    engine = make_engine(TableModel(9, 1), TableModel(9, 2))
    (found,) = engine.memory_use({CPU: 1}).devices
    assert (found.weights, found.cache_reserved) == (1, 0)


@pytest.mark.embedded
def test_the_embedded_pair() -> None:
    pair = load_pair()
    engine = Engine.of(pair, BundledAdvisor({}))
    (before,) = engine.memory_use(pair.weight_bytes).devices
    assert pair.draft is not None
    list(engine.generate(list(range(1, 200)), SamplingParams(0.0, max_new_tokens=4)))
    (after,) = engine.memory_use(pair.weight_bytes).devices
    cache = engine._cache.target_cache
    assert isinstance(cache, NativeCache), "the library is compiled"
    assert cache.nbytes <= after.cache_used == after.cache_reserved
    assert before.cache_used < after.cache_used
    assert after.weights <= after.peak
    assert isinstance(pair.target, NativeLlama)
    assert isinstance(pair.draft, NativeLlama)
    assert after.weights == pair.target.weight_bytes + pair.draft.weight_bytes
