"""Products by tiles give the bytes of products by vectors, for any number of rows.

On processors without AMX the library's own machine code runs, its tile instructions emulated.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from ctypes import c_int64
from functools import partial
from pathlib import Path

import pytest
import torch

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.native.library import UNPROVEN, Pool, instruction_sets, load_library
from sequoia_core.model.native.llama import NativeLlama
from tests.core.model.native.gguf_blocks import QUANTIZED
from tests.core.model.native.test_products import blocks_model
from tests.core.models import fresh_logits

ROOT = Path(__file__).parents[4]
TILES, VECTORS = UNPROVEN, "avx512_bf16"
FEWEST_TILED_ROWS = 8

needs_tiles = pytest.mark.skipif(TILES not in instruction_sets(), reason="no AMX here")


NARROW = {"hidden_size": 96, "intermediate_size": 32, "head_dim": 24}
"""An odd number of groups, and one."""
MODELS: dict[str, Callable[[], tuple[ModelConfig, Weights]]] = {
    **{name: partial(blocks_model, name) for name in QUANTIZED},
    **{
        f"narrow {name}": partial(blocks_model, name, **NARROW)
        for name in QUANTIZED
        if not name.endswith("_K")
    },
}


@needs_tiles
@pytest.mark.parametrize("which", MODELS)
def test_tiles_give_the_bytes_of_vectors(which: str) -> None:
    config, weights = MODELS[which]()
    pool = Pool(2)
    tiles, vectors = (
        NativeLlama(config, weights, pool, instruction_set=name) for name in (TILES, VECTORS)
    )
    for rows in range(1, 34):
        ids = torch.arange(rows) % config.vocab_size
        logits = fresh_logits(tiles, ids)
        assert logits.isfinite().all()
        assert torch.equal(logits, fresh_logits(vectors, ids)), f"{rows} rows"


@needs_tiles
def test_tiles_are_asked_for_and_taken_by_name_for_many_rows_and_given_back() -> None:
    library = load_library()
    if not hasattr(library, "sequoia_tile_products"):
        pytest.skip("only the emulation counts")
    library.sequoia_tile_products.restype = c_int64
    config, weights = blocks_model("Q4_0")
    products, requests = [library.sequoia_tile_products()], [library.sequoia_tile_requests()]
    assert TILES in instruction_sets()  # which asks for nothing
    for name, rows in [(None, 16), (TILES, FEWEST_TILED_ROWS - 1), (TILES, FEWEST_TILED_ROWS)]:
        model = NativeLlama(config, weights, Pool(2), instruction_set=name)
        fresh_logits(model, torch.arange(rows))
        products.append(library.sequoia_tile_products())
        requests.append(library.sequoia_tile_requests())
    assert requests[0] == requests[1] < requests[2]
    assert products[0] == products[1] == products[2] < products[3]
    deadline = time.monotonic() + 60
    while library.sequoia_threads_with_tiles() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert library.sequoia_threads_with_tiles() == 0


@needs_tiles
def test_tiles_that_the_system_refuses_are_an_error() -> None:
    library = load_library()
    if not hasattr(library, "sequoia_refuse_tiles"):
        pytest.skip("only the emulation refuses")
    config, weights = blocks_model("Q4_0")
    library.sequoia_refuse_tiles(1)
    try:
        with pytest.raises(ModelLoadError, match="or the system refuses them"):
            NativeLlama(config, weights, Pool(1), instruction_set=TILES)
    finally:
        library.sequoia_refuse_tiles(0)
    NativeLlama(config, weights, Pool(1), instruction_set=TILES)


def emulated_library() -> Path:
    """The library's objects, linked with an emulation of tiles."""
    if TILES in instruction_sets():
        pytest.skip("this processor needs no emulation")
    if VECTORS not in instruction_sets():
        pytest.skip(f"this processor has no {VECTORS}")
    caches = sorted((ROOT / "build/native").glob("*/CMakeCache.txt"), key=os.path.getmtime)
    if not caches:
        pytest.skip("the library was not compiled here")
    settings = dict(re.findall(r"^(\w+):\w+=(.*)$", caches[-1].read_text(), re.MULTILINE))
    if not settings.get("SEQUOIA_AMX"):
        pytest.skip("the compiler does not know AMX")
    build = [settings["CMAKE_COMMAND"], "--build", caches[-1].parent]
    subprocess.run([*build, "--target", "sequoia_emulated"], check=True, capture_output=True)
    return caches[-1].parent / "libsequoia_emulated.so"


def test_the_librarys_own_code_passes_where_tiles_are_emulated() -> None:
    tests = (
        test_tiles_give_the_bytes_of_vectors,
        test_tiles_are_asked_for_and_taken_by_name_for_many_rows_and_given_back,
        test_tiles_that_the_system_refuses_are_an_error,
    )
    done = subprocess.run(
        # faulthandler would take the signal that the emulation lives on
        [sys.executable, "-m", "pytest", "-q", "-p", "no:faulthandler", "-p", "no:cacheprovider",
         *(f"{__file__}::{test.__name__}" for test in tests)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"SEQUOIA_NATIVE_LIBRARY": str(emulated_library())},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(rf"^{len(MODELS) + len(tests) - 1} passed in", done.stdout, re.MULTILINE), (
        done.stdout
    )
