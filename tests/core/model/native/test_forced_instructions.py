"""The instruction set that the environment names is the one that computes."""

import pytest
import torch

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.native.library import (
    INSTRUCTION_SET_VARIABLE,
    Pool,
    forced_instruction_set,
    load_library,
)
from sequoia_core.model.native.llama import NativeLlama
from tests.core.models import fresh_logits, random_weights, tiny_config


def made_with(monkeypatch: pytest.MonkeyPatch, forced: str, **options: str) -> list[bytes | None]:
    """Names of instruction sets that models are asked of the library with."""
    asked: list[bytes | None] = []
    library = load_library()
    original = library.sequoia_model_new

    def model_new(shape: object, pool: object, name: bytes | None, lender: object) -> object:
        asked.append(name)
        return original(shape, pool, name, lender)

    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, forced)
    monkeypatch.setattr(library, "sequoia_model_new", model_new)
    config = tiny_config(num_layers=1)
    model = NativeLlama(config, random_weights(config, seed=0), Pool(1), **options)  # type: ignore[arg-type]
    assert fresh_logits(model, torch.tensor([1])).isfinite().all()
    return asked


def test_a_model_is_computed_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str
) -> None:
    assert made_with(monkeypatch, instruction_set) == [instruction_set.encode()]


def test_an_argument_overrides_the_environment(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str
) -> None:
    assert made_with(monkeypatch, "unheard of", instruction_set=instruction_set) == [
        instruction_set.encode()
    ]


@pytest.mark.parametrize("forced", [None, ""])
def test_without_a_name_the_processors_best_is_taken(
    monkeypatch: pytest.MonkeyPatch, forced: str | None
) -> None:
    if forced is None:
        monkeypatch.delenv(INSTRUCTION_SET_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, forced)
    assert forced_instruction_set() is None


def test_a_name_that_the_processor_does_not_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, instruction_set: str
) -> None:
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, "mmx")
    with pytest.raises(
        ModelLoadError, match=f"is 'mmx', which .* give one of: .*{instruction_set}"
    ):
        forced_instruction_set()
