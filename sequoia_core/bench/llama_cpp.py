"""llama.cpp as systems of the benchmark: llama-cpp-python and xllamacpp's newer server."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sequoia_core.bench.runs import Decode, NoSpeedError, PeerError, Run, RunClock, peer_code
from sequoia_core.config import SamplingParams

CONTEXT = 2048
LOOKUP_TOKENS = 2
"""Tokens that prompt look-up proposes; what the library's documentation advises for CPUs."""


def llama_cpp_python(gguf: str, threads: int, *, lookup: bool = False) -> Decode:
    """llama-cpp-python; with `lookup` it speculates with continuations found in the text itself."""
    from llama_cpp import Llama

    options: dict[str, Any] = {}
    if lookup:
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        options["draft_model"] = LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP_TOKENS)
    model: Any = Llama(
        gguf, n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False, **options
    )
    forwards = 0
    if lookup:
        forward = model.eval

        def counted(tokens: Sequence[int]) -> None:
            nonlocal forwards
            forwards += 1
            forward(tokens)

        model.eval = counted

    def decode(prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        _check_context(prompt_ids, params)
        clock, token_ids = RunClock(), list[int]()
        seen = forwards
        with peer_code():
            model.reset()
            model.set_seed(params.seed or 0)
            tokens = model.generate(
                list(prompt_ids),
                temp=params.temperature,
                top_k=0,
                top_p=1.0,
                min_p=0.0,
                repeat_penalty=1.0,
            )
            for token in tokens:  # without end
                clock.step(1, same=lookup and forwards == seen)
                seen = forwards
                token_ids.append(token)
                if len(token_ids) == params.max_new_tokens:
                    break
        return clock.run(token_ids)

    return decode


def llama_server(
    gguf: str, threads: int, speculation: str = "", draft: Path | None = None
) -> Decode:
    """The server of xllamacpp.

    Times are the server's own, which count no transport: they begin with the first token and end
    with the last, as for all systems. `speculation` is one of its `common_speculative_type` in
    lower case, or "" for plain decoding; `draft` is a GGUF file for those that need one.
    """
    from urllib.request import Request, urlopen

    import xllamacpp

    setup = xllamacpp.CommonParams()
    setup.model.path = gguf
    setup.n_ctx, setup.n_parallel = CONTEXT, 1
    setup.cpuparams.n_threads = setup.cpuparams_batch.n_threads = threads
    setup.cache_prompt, setup.cache_ram_mib = False, 0
    setup.verbosity = -1
    if speculation:
        kind = f"COMMON_SPECULATIVE_TYPE_{speculation.upper()}"
        setup.speculative.types = [getattr(xllamacpp.common_speculative_type, kind)]
    if draft is not None:
        own = setup.speculative.draft
        own.mparams.path = str(draft)
        own.cpuparams.n_threads = own.cpuparams_batch.n_threads = threads
    server: Any = xllamacpp.Server(setup)

    def decode(prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        _check_context(prompt_ids, params)
        values = {
            "prompt": list(prompt_ids),
            "n_predict": params.max_new_tokens,
            "temperature": params.temperature,
            "samplers": ["temperature"],
            "seed": params.seed or 0,
            "ignore_eos": True,
            "return_tokens": True,
            "cache_prompt": False,
        }
        request = Request(
            f"{server.listening_address}/completion",  # on this machine
            json.dumps(values).encode(),
            {"Content-Type": "application/json"},
        )
        with peer_code(), urlopen(request) as response:
            answer = json.load(response)
            times = answer["timings"]
            tokens = times["predicted_n"] - 1
            steps = tokens - times.get("draft_n_accepted", 0)
            if steps < 1:
                raise NoSpeedError("only one step was taken; decode more tokens")
            return Run(
                token_ids=tuple(answer["tokens"]),
                tokens=tokens,
                seconds=times["predicted_ms"] / 1e3,
                steps=steps,
                first_seconds=times["prompt_ms"] / 1e3,
            )

    return decode


def _check_context(prompt_ids: Sequence[int], params: SamplingParams) -> None:
    if len(prompt_ids) + params.max_new_tokens > CONTEXT:
        raise PeerError(f"prompt and answer are longer than {CONTEXT} tokens")


def requantise(source: str, file: Path, threads: int) -> None:
    """Convert a GGUF file to Q4_0 matrices, the format that llama.cpp computes fastest.

    Raises PeerError if the library refuses.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    params.allow_requantize = params.pure = True
    status = llama_cpp.llama_model_quantize(
        source.encode(), str(file).encode(), ctypes.byref(params)
    )
    if status:
        raise PeerError(f"it cannot requantise the target to Q4_0 (status {status})")
