"""llama.cpp as systems of the benchmark, through llama-cpp-python, on the target's own GGUF file.

Owns how it is opened and asked for tokens, and the file requantised by it. Imports no library of
this engine's models.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sequoia_core.bench.runs import PeerError, Run, StepClock, peer_code
from sequoia_core.config import SamplingParams

CONTEXT = 2048
LOOKUP_TOKENS = 2
"""Tokens that prompt look-up proposes; what the library's documentation advises for CPUs."""


class LlamaCppSystem:
    """Decoding with a GGUF file.

    Args:
        gguf: path of the file.
        threads: for prompts and decoding alike.
        name: for the report.
        lookup: speculate with continuations found in the text itself.
    """

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
        check_context(len(prompt_ids) + params.max_new_tokens)
        clock, token_ids = StepClock(), list[int]()
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


def check_context(tokens: int) -> None:
    """Refuse what the context that it is opened with does not hold.

    Raises:
        PeerError: there are more tokens.
    """
    if tokens > CONTEXT:
        raise PeerError(f"prompt and answer are longer than {CONTEXT} tokens")


def requantise(source: str, file: Path, threads: int) -> None:
    """Write a GGUF file with all matrices in Q4_0, the format that llama.cpp computes fastest.

    Args:
        source: a GGUF file of another format.
        file: to be written.
        threads: to compute with.

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
