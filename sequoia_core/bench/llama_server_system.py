"""llama.cpp's server as systems of the benchmark, through xllamacpp, on the target's own GGUF file.

Owns how it is started and asked. Times are the server's own, which count no transport: they begin
with the first token and end with the last, as for all systems.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from sequoia_core.bench.llama_cpp_system import CONTEXT, check_context
from sequoia_core.bench.runs import NoSpeedError, Run, peer_code
from sequoia_core.config import SamplingParams

_QUIET = -1


class LlamaServerSystem:
    """Decoding with a GGUF file.

    Args:
        gguf: path of the file.
        threads: for prompts and decoding alike.
        name: for the report.
        speculation: one of its `common_speculative_type`, lower case; "" decodes plainly.
        draft: a GGUF file for the speculation that needs one.
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
        check_context(len(prompt_ids) + params.max_new_tokens)
        asked = {
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
            return _run_of(self._ask(asked))

    def _ask(self, values: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(values).encode()
        request = Request(
            f"{self._server.listening_address}/completion",
            body,
            {"Content-Type": "application/json"},
        )
        with urlopen(request) as response:  # on this machine
            answer: dict[str, Any] = json.load(response)
        return answer


def _run_of(answer: dict[str, Any]) -> Run:
    """A run out of the server's own figures."""
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
