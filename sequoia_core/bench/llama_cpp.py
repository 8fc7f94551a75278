"""llama.cpp as systems of the benchmark, on the target's own GGUF file.

Both bindings are timed: llama-cpp-python, compiled here, and xllamacpp's server, a newer release.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from sequoia_core.bench.runs import NoSpeedError, PeerError, Run, RunClock, peer_code
from sequoia_core.config import SamplingParams

CONTEXT = 2048
LOOKUP_TOKENS = 2
"""Tokens that prompt look-up proposes; what the library's documentation advises for CPUs."""
_QUIET = -1


class LlamaCppSystem:
    """llama-cpp-python; with `lookup` it speculates with continuations found in the text itself."""

    def __init__(self, gguf: str, threads: int, name: str, *, lookup: bool = False) -> None:
        from llama_cpp import Llama

        options: dict[str, Any] = {}
        if lookup:
            from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

            options["draft_model"] = LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP_TOKENS)
        self.name = name
        self._model: Any = Llama(
            gguf, n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False,
            **options,
        )  # fmt: skip
        self._forwards = 0
        if lookup:
            self._model.eval = self._counting(self._model.eval)
        self._speculates = lookup

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt."""
        _check_context(prompt_ids, params)
        clock, token_ids = RunClock(), list[int]()
        seen = self._forwards
        with peer_code():
            for token in self._generate(prompt_ids, params):
                clock.step(1, same=self._speculates and self._forwards == seen)
                seen = self._forwards
                token_ids.append(token)
                if len(token_ids) == params.max_new_tokens:
                    break
        return clock.run(token_ids)

    def _generate(self, prompt_ids: Sequence[int], params: SamplingParams) -> Iterator[int]:
        """Tokens without end."""
        self._model.reset()
        self._model.set_seed(params.seed or 0)
        # every filter of the library that changes the distribution is off
        yield from self._model.generate(
            list(prompt_ids),
            temp=params.temperature,
            top_k=0,
            top_p=1.0,
            min_p=0.0,
            repeat_penalty=1.0,
        )

    def _counting(self, forward: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            self._forwards += 1
            return forward(*arguments, **options)

        return counted


class LlamaServerSystem:
    """xllamacpp's server.

    Times are the server's own, which count no transport: they begin with the first token and end
    with the last, as for all systems. `speculation` is one of its `common_speculative_type` in
    lower case, or "" for plain decoding; `draft` is a GGUF file for those that need one.
    """

    def __init__(
        self, gguf: str, threads: int, name: str, speculation: str = "", draft: Path | None = None
    ) -> None:
        import xllamacpp

        self.name = name
        params = xllamacpp.CommonParams()
        params.model.path = gguf
        params.n_ctx, params.n_parallel = CONTEXT, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_prompt, params.cache_ram_mib = False, 0
        params.verbosity = _QUIET
        if speculation:
            kind = f"COMMON_SPECULATIVE_TYPE_{speculation.upper()}"
            params.speculative.types = [getattr(xllamacpp.common_speculative_type, kind)]
        if draft is not None:
            params.speculative.draft.mparams.path = str(draft)
            own = params.speculative.draft
            own.cpuparams.n_threads = own.cpuparams_batch.n_threads = threads
        self._server: Any = xllamacpp.Server(params)

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt."""
        _check_context(prompt_ids, params)
        request = {
            "prompt": list(prompt_ids),
            "n_predict": params.max_new_tokens,
            "temperature": params.temperature,
            "samplers": ["temperature"],  # no filter that changes the distribution
            "seed": params.seed or 0,
            "ignore_eos": True,
            "return_tokens": True,
            "cache_prompt": False,
        }
        with peer_code():
            return _server_run(self._ask(request))

    def _ask(self, values: dict[str, Any]) -> dict[str, Any]:
        request = Request(
            f"{self._server.listening_address}/completion",
            json.dumps(values).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request) as response:  # on this machine
            answer: dict[str, Any] = json.load(response)
        return answer


def _server_run(answer: dict[str, Any]) -> Run:
    times = answer["timings"]
    tokens = times["predicted_n"] - 1
    steps = tokens - times.get("draft_n_accepted", 0)
    if tokens < 1 or steps < 1:
        raise NoSpeedError("only one step was taken; decode more tokens")
    return Run(
        token_ids=tuple(answer["tokens"]),
        tokens=tokens,
        seconds=times["predicted_ms"] / 1e3,
        steps=steps,
        first_seconds=times["prompt_ms"] / 1e3,
    )


def _check_context(prompt_ids: Sequence[int], params: SamplingParams) -> None:
    if len(prompt_ids) + params.max_new_tokens > CONTEXT:
        raise PeerError(f"prompt and answer are longer than {CONTEXT} tokens")


def requantise(source: str, file: Path, threads: int) -> None:
    """Convert a GGUF file to Q4_0 matrices, the format that llama.cpp computes fastest.

    Raises:
        PeerError: the library refuses.
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
