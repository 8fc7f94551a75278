"""llama.cpp as a system of the benchmark, through llama-cpp-python, on the target's own GGUF file.

Owns how it is opened and asked for tokens. Imports no library of this engine's models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sequoia_core.bench import names
from sequoia_core.bench.runs import PeerError, Run, StepClock, peer_code
from sequoia_core.config import SamplingParams

CONTEXT = 2048


class LlamaCppSystem:
    """Plain decoding with a GGUF file.

    Args:
        gguf: path of the file.
        threads: for prompts and decoding alike.
    """

    name = names.LLAMA_CPP

    def __init__(self, gguf: str, threads: int) -> None:
        from llama_cpp import Llama

        self._model: Any = Llama(
            gguf, n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt."""
        if len(prompt_ids) + params.max_new_tokens > CONTEXT:
            raise PeerError(f"prompt and answer are longer than {CONTEXT} tokens")
        clock, token_ids = StepClock(), list[int]()
        with peer_code():
            for token in self._generate(prompt_ids, params):
                clock.step(1)
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
