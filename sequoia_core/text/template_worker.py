"""Renders chat templates; run as a process of its own by `template_renderer`.

A chat template is a program that comes with a model. Jinja's sandbox keeps it from files and from
Python's internals, but not from a loop without end or a string of many gigabytes, and both can be
one operation that no hook interrupts. Here the kernel limits processor time and memory.

Each line on stdin is a request and each line on stdout the reply, both JSON. The environment is the
one that transformers gives its chat templates.
"""

import json
import resource
import signal
import sys
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

CPU_SECONDS = 1.0
"""Processor time for one rendering; an ordinary one takes less than a thousandth of it."""

WALL_SECONDS = 60.0  # time for one rendering, however busy the machine is

MEMORY_BYTES = 768 << 20  # address space of the process

OUTPUT_CHARACTERS = 16 << 20
"""Longest rendered text; a window of a million tokens holds a quarter of it."""


class RefusedError(TemplateError):
    """The template itself refuses the conversation (`raise_exception`)."""


class _GenerationTag(Extension):
    """`{% generation %}`, which marks an answer for training, shows what it holds."""

    tags = {"generation"}  # noqa: RUF012  # declared so by the base class

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _PlainNamespace(Namespace):
    """Takes no names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"the name {name!r} begins with an underscore")
        super().__setitem__(name, value)


def _refuse(message: str) -> None:
    raise RefusedError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None,
    sort_keys: bool = False,
) -> str:  # fmt: skip
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": dict,
        "namespace": _PlainNamespace,
    }
    return environment.from_string(source)


def _answer(line: str) -> bytes:
    """The reply to a request: the text, or what is wrong and whose fault it is."""
    try:
        request = json.loads(line)
        text = _compiled(request["template"]).render(**request["variables"])
        if len(text) > OUTPUT_CHARACTERS:
            return _reply(error=f"its text is longer than {OUTPUT_CHARACTERS} characters")
        return _reply(text=text)  # which may need more memory than the text
    except RefusedError as error:
        return _reply(refusal=str(error))
    except MemoryError:
        return _reply(error=f"it needs more than {MEMORY_BYTES >> 20} MiB of memory")
    except Exception as error:  # a template is a program and may raise anything
        return _reply(error=f"{type(error).__name__}: {error}")


def _reply(**fields: str) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def main() -> None:
    with suppress(ValueError, OSError):  # a system without this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # a parent that ignores it hands that on
    for line in sys.stdin:
        # the signals' default action ends the process, also in the middle of an operation
        _limit_time(CPU_SECONDS, WALL_SECONDS)
        reply = _answer(line)
        _limit_time(0, 0)
        sys.stdout.buffer.write(reply)
        sys.stdout.buffer.flush()


def _limit_time(cpu: float, wall: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, cpu)
    signal.setitimer(signal.ITIMER_REAL, wall)


if __name__ == "__main__":
    main()
