"""A pair computed by the native library decodes as any other, and without a difference at all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sequoia_core import Conversation, SamplingParams, load_pair
from sequoia_core.config import Kernels, Mode, Offload, WeightFormat
from sequoia_core.errors import ParameterError
from sequoia_core.events import Event, Notice, NoticeKind, Step, TextDelta
from sequoia_core.growmap import find_growmap
from sequoia_core.model.int8_rows import pack_weights
from sequoia_core.model.native import loading
from sequoia_core.pair import Pair
from sequoia_core.protocols import Lookup, TreeChoice
from tests.core.checkpoints import save_model
from tests.core.checkpoints import tiny_tokenizer as tokenizer_of

NATIVE = Kernels(WeightFormat.NATIVE)
PROMPT = "Name three colours, and say of each where it is seen."


def answered(pair: Pair, choice: TreeChoice, prompt: str = PROMPT) -> list[Event]:
    chat = Conversation(pair)
    chat.choose_tree(choice)
    return list(chat.reply(prompt, SamplingParams(temperature=0.0, max_new_tokens=60)))


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.embedded
@pytest.mark.parametrize(
    "choice",
    [
        TreeChoice(Mode.SEQUOIA, find_growmap("smollm2-135m/greedy-16x4")),
        TreeChoice(Mode.GREEDY, find_growmap("smollm2-135m/greedy-8x3"), lookup=Lookup.ON),
        TreeChoice(Mode.SEQUOIA, adaptive=True),
    ],
    ids=["tree", "greedy with look-up", "adaptive"],
)
def test_the_embedded_pair_gives_plain_decodings_text(choice: TreeChoice) -> None:
    pair = load_pair(kernels=NATIVE)
    plain = answered(pair, TreeChoice(Mode.AR))
    drafted = answered(pair, choice)
    assert pair.description.dtype == "native"
    assert text_of(drafted) == text_of(plain)
    kinds = {event.kind for event in drafted if isinstance(event, Notice)}
    assert NoticeKind.PRECISION not in kinds
    steps = [event for event in drafted if isinstance(event, Step)]
    assert sum(len(step.token_ids) for step in steps) / len(steps) > 1.2


def test_a_checkpoint_and_its_draft_are_computed_natively(tmp_path: Path) -> None:
    target, draft = str(tmp_path / "target"), str(tmp_path / "draft")
    save_model(tmp_path / "target", tokenizer_of())
    save_model(tmp_path / "draft", tokenizer_of(), num_hidden_layers=1)
    native = load_pair(target, draft, kernels=NATIVE)
    wanted = load_pair(target, draft, dtype="float32")
    assert native.draft is not None
    assert wanted.draft is not None
    ids = torch.arange(30)
    for ours, theirs in ((native.target, wanted.target), (native.draft, wanted.draft)):
        got = ours.forward(ids, torch.arange(30), None, ours.new_cache())
        expected = theirs.forward(ids, torch.arange(30), None, theirs.new_cache())
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


def test_what_it_does_not_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="one CPU, without offloading"):
        load_pair(kernels=NATIVE, offload=Offload.DISK)
    with pytest.raises(ParameterError, match="one CPU, without offloading"):
        load_pair(kernels=NATIVE, device="cpu,cpu")
    monkeypatch.setattr(loading, "find_library", lambda: None)
    with pytest.raises(ParameterError, match="was not built"):
        load_pair(kernels=NATIVE)


def test_int8_rows_give_nearly_the_float32_logits(tmp_path: Path) -> None:
    target, draft = tmp_path / "target", tmp_path / "draft"
    save_model(target, tokenizer_of())
    save_model(draft, tokenizer_of(), num_hidden_layers=1, hidden_size=40, intermediate_size=72)
    save_file(pack_weights(load_file(draft / "model.safetensors")), draft / "model.safetensors")
    settings = json.loads((draft / "config.json").read_text())
    settings["quantization"] = {"format": "int8-rows"}
    (draft / "config.json").write_text(json.dumps(settings))
    ids = torch.arange(30)
    native = load_pair(str(target), str(draft), kernels=NATIVE).draft
    exact = load_pair(str(target), str(draft), dtype="float32").draft
    assert native is not None
    assert exact is not None
    wanted = exact.forward(ids, ids, None, exact.new_cache())
    logits = native.forward(ids, ids, None, native.new_cache())
    # activations in 8 bits; a scale left out, of the embedding for one, gives an error near one
    assert 0 < (logits - wanted).norm() / wanted.norm() < 2e-2
    cache = native.new_cache()
    rows = [native.forward(ids[at : at + 1], ids[at : at + 1], None, cache) for at in range(30)]
    assert torch.equal(torch.cat(rows), logits)
