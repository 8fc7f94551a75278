"""Other projects' decoders get the same weights, the same options and the same clock."""

import ctypes
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock
from urllib.request import Request

import gguf
import pytest
import torch
from torch import Tensor

from sequoia_core.bench.hugging_face import hugging_face, rebuilt, rebuilt_draft
from sequoia_core.bench.llama_cpp import (
    CONTEXT,
    LOOKUP_TOKENS,
    llama_cpp_python,
    llama_server,
    requantise,
)
from sequoia_core.bench.openvino import DRAFTED, export_draft, openvino_genai, write_gguf
from sequoia_core.bench.runs import NoSpeedError, PeerError
from sequoia_core.config import SamplingParams
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.fitted_draft import OpenedDraft
from sequoia_core.model.loading.gguf import open_gguf
from sequoia_core.model.rope import RopeScaling
from tests.core.checkpoints import save_gguf
from tests.core.checkpoints import tiny_llama as tiny_checkpoint
from tests.core.models import random_weights, tiny_config, tiny_llama

CPU = torch.device("cpu")
KEPT = torch.tensor([60, 2, 5, 7, 11, 40, 33, 9])
PROMPT = [3, 17, 5, 9, 3, 17]
GREEDY = SamplingParams(temperature=0.0, seed=1, max_new_tokens=24)
SAMPLED = SamplingParams(temperature=0.6, seed=1, max_new_tokens=24)


def trimmed_draft(**changes: Any) -> OpenedDraft:
    """A random draft that knows the tokens `KEPT` only."""
    config = tiny_config(head_vocab_size=len(KEPT), num_layers=1, **changes)
    weights: dict[str, Tensor] = random_weights(config, seed=5)
    return OpenedDraft("tiny", config, weights, KEPT)


@pytest.fixture(scope="module")
def target() -> Any:
    config = tiny_config()
    return rebuilt(config, random_weights(config, seed=0), CPU, torch.float32)


def logits_of(model: Llama, ids: Tensor) -> Tensor:
    return model.forward(ids, torch.arange(len(ids)), None, model.new_cache())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_factor": 4.0},
        {"rope_scaling": RopeScaling(8.0, 1.0, 4.0, 16)},
        {"rope_divisors": (1.0, 2.0, 3.0, 4.0), "rope_magnitude": 1.3},  # as yarn's
    ],
    ids=str,
)
def test_a_rebuilt_model_computes_this_engines_logits(changes: dict[str, Any]) -> None:
    ids, config = torch.tensor(PROMPT), tiny_config(**changes)
    model = rebuilt(config, random_weights(config, seed=0), CPU, torch.float32)
    own = tiny_llama(**changes)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids[None]).logits[0], logits_of(own, ids))


def test_a_model_of_another_family_is_not_rebuilt() -> None:
    config = tiny_config(family="qwen2", qkv_bias=True)
    with pytest.raises(PeerError, match="it gets Llamas only, and a qwen2 model has qkv bias"):
        rebuilt(config, random_weights(config, seed=0), CPU, torch.float32)


def test_a_draft_whose_rotation_is_scaled_is_not_written_for_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino_genai", MagicMock())
    changes: dict[str, Any]
    for changes in ({"rope_factor": 2.0}, {"rope_divisors": (1.0, 2.0, 3.0, 4.0)}):
        with pytest.raises(PeerError, match="rotary embedding is scaled"):
            export_draft(trimmed_draft(**changes), "", tmp_path)


def test_a_trimmed_draft_has_its_own_logits_on_its_tokens_and_no_chance_elsewhere() -> None:
    draft, ids = trimmed_draft(), torch.tensor(PROMPT)
    own = Llama(draft.config, draft.weights, CPU, torch.float32)
    with torch.inference_mode():
        logits = rebuilt_draft(draft, CPU, torch.float32)(ids[None]).logits[0]
    assert logits.shape == (len(ids), draft.config.vocab_size)
    torch.testing.assert_close(logits[:, KEPT], logits_of(own, ids))
    unknown = torch.ones(draft.config.vocab_size, dtype=torch.bool)
    unknown[KEPT] = False
    assert logits[:, unknown].eq(float("-inf")).all()


@pytest.mark.parametrize("kind", ["trimmed draft", "the target itself", "prompt lookup"])
def test_speculation_leaves_the_greedy_text_as_it_is(target: Any, kind: str) -> None:
    speculation: dict[str, Any] = {
        "trimmed draft": {"assistant_model": rebuilt_draft(trimmed_draft(), CPU, torch.float32)},
        "the target itself": {"assistant_model": target},
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
    }[kind]
    plain = hugging_face(target)(PROMPT, GREEDY)
    fast = hugging_face(target, **speculation)(PROMPT, GREEDY)
    assert fast.token_ids == plain.token_ids
    assert len(plain.token_ids) == GREEDY.max_new_tokens
    assert plain.tokens == plain.steps == GREEDY.max_new_tokens - 1
    assert fast.steps <= fast.tokens
    if kind == "the target itself":
        assert fast.steps < plain.steps


def test_sampling_is_repeatable_and_as_long_as_asked(target: Any) -> None:
    assistant = rebuilt_draft(trimmed_draft(), CPU, torch.float32)
    system = hugging_face(target, assistant_model=assistant)
    first, second = (system(PROMPT, SAMPLED) for _ in range(2))
    assert first.token_ids == second.token_ids
    assert len(first.token_ids) == SAMPLED.max_new_tokens


def test_what_breaks_inside_a_peer_is_reported_as_its_own_failure(target: Any) -> None:
    system = hugging_face(target, assistant_model=object())
    with pytest.raises(PeerError, match="Error: "):
        system(PROMPT, GREEDY)


def test_a_draft_survives_the_way_through_a_gguf_file(tmp_path: Path) -> None:
    save_gguf(tmp_path / "target.gguf", tiny_checkpoint())
    config = tiny_config(vocab_size=96, head_vocab_size=96)
    weights = {name: each.half() for name, each in random_weights(config, seed=3).items()}
    draft = OpenedDraft("tiny", config, weights, None)
    write_gguf(draft, str(tmp_path / "target.gguf"), tmp_path / "draft.gguf")
    read = open_gguf(tmp_path / "draft.gguf")
    assert set(read.weights) == set(weights)
    for name, tensor in weights.items():
        torch.testing.assert_close(read.weights[name].float(), tensor.float(), rtol=0, atol=0)
    fields = [
        {name: each.contents() for name, each in gguf.GGUFReader(tmp_path / file).fields.items()}
        for file in ("target.gguf", "draft.gguf")
    ]
    tokenizer = {name for name in fields[0] if name.startswith("tokenizer.")}
    assert "tokenizer.ggml.tokens" in tokenizer
    assert all(fields[1][name] == fields[0][name] for name in tokenizer)


def test_a_trimmed_head_stays_trimmed_in_a_gguf_file(tmp_path: Path) -> None:
    save_gguf(tmp_path / "target.gguf", tiny_checkpoint())
    draft = trimmed_draft(vocab_size=96)
    write_gguf(draft, str(tmp_path / "target.gguf"), tmp_path / "draft.gguf")
    heads = [
        tensor.shape.tolist()
        for tensor in gguf.GGUFReader(tmp_path / "draft.gguf").tensors
        if tensor.name == "output.weight"
    ]
    assert heads == [[draft.config.hidden_size, len(KEPT)]]


class FakeLlama:
    """Counts up from the last token of the prompt, for ever."""

    made: dict[str, Any]
    asked: dict[str, Any]

    def __init__(self, path: str, **options: Any) -> None:
        type(self).made = {"path": path, **options}
        self.calls: list[str] = []

    def reset(self) -> None:
        self.calls.append("reset")

    def set_seed(self, seed: int) -> None:
        self.calls.append(f"seed {seed}")

    def generate(self, tokens: list[int], **options: Any) -> Iterator[int]:
        assert self.calls[-2:] == ["reset", "seed 1"]
        type(self).asked = options
        token = tokens[-1]
        while True:
            token += 1
            yield token


def test_llama_cpp_decodes_exactly_as_many_tokens_unfiltered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=FakeLlama))
    system = llama_cpp_python("some.gguf", 3)
    run = system(PROMPT, SAMPLED)
    assert run.token_ids == tuple(range(18, 18 + SAMPLED.max_new_tokens))
    assert run.tokens == run.steps == SAMPLED.max_new_tokens - 1
    assert FakeLlama.made["path"] == "some.gguf"
    assert FakeLlama.made["n_threads"] == FakeLlama.made["n_threads_batch"] == 3
    assert FakeLlama.asked == {
        "temp": 0.6, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0,
    }  # fmt: skip
    with pytest.raises(PeerError, match="longer"):
        system([1] * CONTEXT, SAMPLED)


class LookupLlama(FakeLlama):
    """Two tokens a forward."""

    def eval(self, tokens: list[int]) -> None:
        assert tokens

    def generate(self, tokens: list[int], **options: Any) -> Iterator[int]:
        for token in super().generate(tokens, **options):
            if token % 2 == 0:
                self.eval([token])
            yield token


def test_steps_of_llama_cpp_with_look_up_are_its_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=LookupLlama))
    speculative = SimpleNamespace(LlamaPromptLookupDecoding=dict)
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_speculative", speculative)
    run = llama_cpp_python("some.gguf", 1, lookup=True)(PROMPT, GREEDY)
    assert LookupLlama.made["draft_model"] == {"num_pred_tokens": LOOKUP_TOKENS}
    assert run.token_ids == tuple(range(18, 18 + GREEDY.max_new_tokens))
    assert (run.tokens, run.steps) == (GREEDY.max_new_tokens - 2, GREEDY.max_new_tokens // 2 - 1)


def test_q4_0_files_are_pure_and_a_refusal_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Params(ctypes.Structure):
        _fields_ = (("nthread", ctypes.c_int), ("ftype", ctypes.c_int),
                    ("allow_requantize", ctypes.c_bool), ("pure", ctypes.c_bool))  # fmt: skip

    params, asked = Params(), list[Any]()

    def quantize(source: bytes, file: bytes, _params: object) -> int:
        asked.append((source, file, params.nthread, params.ftype))
        return len(asked) - 1

    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(
        llama_model_quantize_default_params=lambda: params,
        llama_model_quantize=quantize, LLAMA_FTYPE_MOSTLY_Q4_0=2,
    ))  # fmt: skip
    requantise("some.gguf", Path("q4_0.gguf"), 3)
    assert asked == [(b"some.gguf", b"q4_0.gguf", 3, 2)]
    assert params.allow_requantize
    assert params.pure
    with pytest.raises(PeerError, match=r"to Q4_0 \(status 1\)"):
        requantise("some.gguf", Path("q4_0.gguf"), 3)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for xllamacpp, whose server answers at once."""
    library = MagicMock()
    timings = {"predicted_n": 24, "predicted_ms": 500.0, "prompt_ms": 80.0}
    made = SimpleNamespace(
        library=library, params=library.CommonParams(), asked=[], timings=timings
    )

    def urlopen(request: Request) -> io.BytesIO:
        assert isinstance(request.data, bytes)
        made.asked.append(json.loads(request.data))
        return io.BytesIO(json.dumps({"tokens": [*range(24)], "timings": timings}).encode())

    library.Server.return_value.listening_address = "http://127.0.0.1:1"
    monkeypatch.setitem(sys.modules, "xllamacpp", library)
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return made


def test_llama_cpps_server_is_timed_by_its_own_clock_unfiltered(server: SimpleNamespace) -> None:
    run = llama_server("some.gguf", 3)(PROMPT, SAMPLED)
    params, (asked,) = server.params, server.asked
    assert params.model.path == "some.gguf"
    assert params.cpuparams.n_threads == params.cpuparams_batch.n_threads == 3
    assert not params.cache_prompt
    assert asked["prompt"] == PROMPT
    assert (asked["samplers"], asked["temperature"]) == (["temperature"], 0.6)
    assert asked["ignore_eos"]
    assert run.token_ids == tuple(range(24))
    assert (run.tokens, run.steps, run.seconds, run.first_seconds) == (23, 23, 0.5, 0.08)


def test_what_llama_cpps_server_drafts_takes_no_steps(server: SimpleNamespace) -> None:
    system = llama_server("some.gguf", 1, "draft_simple", Path("draft.gguf"))
    kinds, own = server.library.common_speculative_type, server.params.speculative
    assert own.types == [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    assert own.draft.mparams.path == "draft.gguf"
    server.timings["draft_n_accepted"] = 13
    assert system(PROMPT, GREEDY).steps == 10
    server.timings["draft_n_accepted"] = 23
    with pytest.raises(NoSpeedError, match="only one step"):
        system(PROMPT, GREEDY)


class FakePipeline:
    """Emits tokens one by one, or `num_assistant_tokens` and one at a time."""

    made: dict[str, Any]
    config: Any

    def __init__(self, path: str, device: str, **options: Any) -> None:
        type(self).made = {"path": path, "device": device, **options}

    def generate(self, ids: Any, config: Any, streamer: Any) -> Any:
        type(self).config = config
        tokens = list(range(config.max_new_tokens))
        each = getattr(config, "num_assistant_tokens", 0) + 1
        for at in range(0, len(tokens), each):
            streamer.write(tokens[at] if each == 1 else tokens[at : at + each])
        streamer.end()
        return SimpleNamespace(tokens=[tokens])


def test_a_llama_cpp_that_cannot_decode_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    library = MagicMock()
    library.Llama.return_value.generate.side_effect = ValueError("llama_decode returned 1")
    monkeypatch.setitem(sys.modules, "llama_cpp", library)
    system = llama_cpp_python("some.gguf", 1)
    with pytest.raises(PeerError, match=r"^ValueError: llama_decode returned 1$"):
        system(PROMPT, GREEDY)


@pytest.fixture
def genai(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for OpenVINO GenAI."""
    library = SimpleNamespace(
        LLMPipeline=FakePipeline,
        GenerationConfig=SimpleNamespace,
        StreamerBase=object,
        StreamingStatus=SimpleNamespace(RUNNING=0),
        SchedulerConfig=lambda: "keeps nothing",
        draft_model=lambda path, device, **options: (path, device, options),
    )
    monkeypatch.setitem(sys.modules, "openvino_genai", library)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Tensor=lambda array: array))


@pytest.mark.usefixtures("genai")
def test_openvino_decodes_with_and_without_a_draft() -> None:
    plain = openvino_genai("some.gguf", 3)(PROMPT, GREEDY)
    assert FakePipeline.made == {
        "path": "some.gguf", "device": "CPU", "INFERENCE_NUM_THREADS": 3,
        "scheduler_config": "keeps nothing",
    }  # fmt: skip
    speculative = openvino_genai("some.gguf", 3, Path("draft"))
    run = speculative(PROMPT, SAMPLED)
    assert FakePipeline.made["draft_model"] == ("draft", "CPU", {"INFERENCE_NUM_THREADS": 3})
    assert plain.token_ids == run.token_ids == tuple(range(24))
    assert (plain.tokens, plain.steps) == (23, 23)
    assert (run.tokens, run.steps) == (24 - DRAFTED - 1, 24 // (DRAFTED + 1) - 1)


@pytest.mark.usefixtures("genai")
def test_openvino_is_asked_not_to_stop_and_not_to_filter() -> None:
    system = openvino_genai("some.gguf", 1)
    system(PROMPT, GREEDY)
    greedy = FakePipeline.config
    assert (greedy.ignore_eos, greedy.do_sample, greedy.max_new_tokens) == (True, False, 24)
    system(PROMPT, SAMPLED)
    sampled = FakePipeline.config
    assert (sampled.do_sample, sampled.temperature, sampled.top_p) == (True, 0.6, 1.0)
    assert sampled.top_k > 10**6
