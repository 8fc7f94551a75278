"""OpenVINO GenAI as systems of the benchmark, on the target's own GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sequoia_core.bench.runs import Run, RunClock, peer_code
from sequoia_core.config import SamplingParams

DRAFTED = 3
"""Tokens drafted a step."""

_ALL_TOKENS = 2**31 - 1
"""Its `top_k` has no 0 for off."""


class OpenVinoSystem:
    """Plain decoding, or speculative with a draft from a directory of `openvino_draft`."""

    def __init__(self, name: str, gguf: str, threads: int, draft: str | None = None) -> None:
        import openvino_genai as genai

        self.name = name
        self._drafted = 0 if draft is None else DRAFTED
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
        # by default it keeps earlier prompts, and then sampling with a draft fails (2026.4)
        options: dict[str, Any] = {"scheduler_config": genai.SchedulerConfig(), **properties}
        if draft is not None:
            options["draft_model"] = genai.draft_model(draft, "CPU", **properties)
        self._pipeline: Any = genai.LLMPipeline(gguf, "CPU", **options)

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt."""
        import numpy as np
        import openvino as ov

        ids = ov.Tensor(np.array([list(prompt_ids)], dtype=np.int64))
        clock = RunClock()
        with peer_code():
            result = self._pipeline.generate(ids, self._config(params), _streamer(clock))
        return clock.run(result.tokens[0])

    def _config(self, params: SamplingParams) -> Any:
        import openvino_genai as genai

        config = genai.GenerationConfig()
        config.max_new_tokens = params.max_new_tokens
        config.ignore_eos = True
        config.do_sample = params.temperature > 0
        if params.temperature:
            config.temperature = params.temperature
            config.top_k, config.top_p = _ALL_TOKENS, 1.0
            config.rng_seed = params.seed or 0
        if self._drafted:
            config.num_assistant_tokens = self._drafted
        return config


def _streamer(clock: RunClock) -> Any:
    """Receives each step's tokens."""
    import openvino_genai as genai

    class Watch(genai.StreamerBase):  # type: ignore[misc]  # the library has no types
        def write(self, tokens: int | list[int]) -> Any:
            """Receive one token, or those of a speculative step."""
            clock.step(1 if isinstance(tokens, int) else len(tokens))
            return genai.StreamingStatus.RUNNING

        def end(self) -> None:
            """The answer is complete."""

    return Watch()
