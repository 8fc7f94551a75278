"""The process of one system: answers the requests of `process`, a line of JSON each."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from sequoia_core.bench.memory import peak_memory
from sequoia_core.bench.model_factory import ModelFactory, Sources
from sequoia_core.bench.runs import NoSpeedError, System, peer_code
from sequoia_core.bench.systems import build
from sequoia_core.config import SamplingParams
from sequoia_core.errors import SequoiaError
from sequoia_core.files import decode, encode
from sequoia_core.model.malloc_trim import keep_to_one_arena


def main() -> None:
    """Read the sources, then answer requests until the input ends."""
    keep_to_one_arena()  # as the command does
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    built: list[System] = []
    factory = ModelFactory(decode(Sources, json.loads(sys.stdin.readline())))
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"value": _answer(factory, built, json.loads(line))}
        except SequoiaError as error:
            answer = {"error": str(error), "no_speed": isinstance(error, NoSpeedError)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(factory: ModelFactory, built: list[System], request: dict[str, Any]) -> Any:
    if "make" in request:
        with peer_code():
            factory.made(request["make"])
        return None
    if "build" in request:
        built.append(build(factory, request["build"]))
        return None
    if "peak_memory" in request:
        return peak_memory()
    params = decode(SamplingParams, request["params"])
    return encode(built[0].run(request["prompt_ids"], params))


if __name__ == "__main__":
    main()
