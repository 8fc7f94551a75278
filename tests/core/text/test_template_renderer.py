"""Templates render as transformers renders them; hostile and faulty ones are one line, soon."""

import json
import resource
import threading
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sequoia_core.errors import ParameterError
from sequoia_core.text import template_renderer, template_worker
from sequoia_core.text.template_renderer import LONGEST_REASON, RENDERER, TemplateRenderer
from tests.core.tiny_tokenizers import LLAMA2_TEMPLATE, LLAMA3_TEMPLATE, byte_level

chat_text = RENDERER.render
MESSAGES = [
    {"role": "user", "content": "  hé 東 <b>\n"},
    {"role": "assistant", "content": "it's\t\N{GRINNING FACE}"},
    {"role": "user", "content": "and \ud800?"},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

FEATURES = {
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
    "{{ m.role }}{% endfor %}",
    "tojson": "{{ messages[:2] | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "blocks are trimmed": "a\n  {% if true %}\nb\n  {% endif %}\nc",
    "namespace": "{% set ns = namespace(at=0) %}{% for m in messages %}{% set ns.at = ns.at + 1 %}"
    "{% endfor %}{{ ns.at }}",
    "no tools": "{% if tools is none and not documents %}plain{% endif %}",
    "undefined": "{% if enable_thinking is defined %}x{% endif %}{{ nothing }}y",
    "generation": "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}"
    "{% endfor %}",
    "macros": "{% macro show(m) %}[{{ m.role }}]{% endmacro %}{{ show(messages[0]) }}",
    "strings": "{{ messages[0]['content'].strip().split('>')[-1] | trim | upper }}",
    "generation prompt": "{{ 'yes' if add_generation_prompt else 'no' }}",
    "dictionaries": "{{ dict(a=1) | tojson }}",
    "llama 2": LLAMA2_TEMPLATE,
    "llama 3": LLAMA3_TEMPLATE,
}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("asking", [True, False])
def test_a_template_renders_as_in_transformers(name: str, asking: bool) -> None:
    template, tokenizer = FEATURES[name], byte_level()
    expected = tokenizer.apply_chat_template(
        MESSAGES,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=asking,
        **TOKENS,
    )
    assert chat_text(template, MESSAGES, TOKENS, asking) == expected


def test_the_time_is_now() -> None:
    before = datetime.now().year
    year = int(chat_text("{{ strftime_now('%Y') }}", MESSAGES, {}, True))
    assert before <= year <= datetime.now().year


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**10 }}",
        "{{ 'a' | center(10**10) }}",
        "{{ 'a'.ljust(10**10) }}",
        "{{ '%010000000000d' % 1 }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{% set ns = namespace(x='aaaa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
        "{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
        "{% endfor %}",
        "{{ 'aaaaaaaa' * (3 * 10**6) }}",
        "{{ range(10**9) | list }}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}aaaaaaaa{% endfor %}{% endfor %}",
        "{{ 7 ** (10 ** 9) }}",
        "{{ lipsum(10 ** 7) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages.__init__.__globals__ }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ 1 // 0 }}",
        "{{ tools | length }}",
        "{{ 'x' + 1 }}",
        "{{ int('x') }}",
        "{{ messages[9].content }}",
        "{{ 10.0 ** 400 }}",
        "{% if %}",
        "{% nonsense %}",
    ],
)
def test_a_hostile_or_faulty_template_is_one_line(template: str) -> None:
    with pytest.raises(ParameterError, match="the model's chat template") as caught:
        chat_text(template, MESSAGES, TOKENS, True)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < LONGEST_REASON + 100
    assert chat_text("{{ bos_token }}", MESSAGES, TOKENS, True) == "<s>"


def test_a_reply_that_needs_too_much_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON a text is several times as large."""
    make = json.dumps

    def dumps(fields: dict[str, str]) -> str:
        if "text" in fields:
            raise MemoryError
        return make(fields)

    monkeypatch.setattr(json, "dumps", dumps)
    request = make({"template": "a", "variables": {}})
    assert "needs more than 768 MiB" in json.loads(template_worker._answer(request))["error"]


def test_a_process_that_does_not_answer_in_time_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import os, signal; input(); os.kill(os.getpid(), signal.SIGALRM)")
    monkeypatch.setattr(template_renderer, "_WORKER", worker)
    with pytest.raises(ParameterError, match=r"ended \(no answer\)$"):
        TemplateRenderer().render("a", MESSAGES, TOKENS, True)


def test_what_the_template_itself_refuses_is_in_its_words() -> None:
    with pytest.raises(ParameterError, match=r"refuses this conversation: only one turn$"):
        chat_text("{{ raise_exception('only\n one turn') }}", MESSAGES, TOKENS, True)


def test_a_refusal_of_any_length_is_one_line() -> None:
    with pytest.raises(ParameterError) as caught:
        chat_text("{{ raise_exception('word\n' * 10**5) }}", MESSAGES, TOKENS, True)
    assert len(str(caught.value)) < LONGEST_REASON + 100


def test_threads_get_their_own_texts() -> None:
    """As the decode threads of several windows do."""
    found: dict[int, set[str]] = {}

    def render(number: int) -> None:
        template = "{{ bos_token }}" * (number + 1)
        found[number] = {chat_text(template, MESSAGES, {"bos_token": "x"}, True) for _ in range(20)}

    threads = [threading.Thread(target=render, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: {"x" * (number + 1)} for number in range(4)}


def test_a_process_that_is_gone_is_started_again() -> None:
    assert chat_text("{{ bos_token }}", MESSAGES, TOKENS, True) == "<s>"
    RENDERER.close()
    assert chat_text("{{ eos_token }}", MESSAGES, TOKENS, True) == "</s>"


def test_an_interrupted_rendering_does_not_answer_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a template renders: its text stays unread in the pipe."""
    RENDERER.start()

    class Interrupted:
        def __init__(self, pipe: Any) -> None:
            self.close = pipe.close

        def readline(self) -> bytes:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        process = RENDERER._process
        assert process is not None
        patch.setattr(process, "stdout", Interrupted(process.stdout))
        with pytest.raises(KeyboardInterrupt):
            chat_text("the one before", MESSAGES, TOKENS, True)
    assert chat_text("the next", MESSAGES, TOKENS, True) == "the next"


def test_many_open_files_are_no_hindrance() -> None:
    """As a server with many windows has; `select` takes no descriptor past 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this system allows too few open files")
    RENDERER.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    try:
        with ExitStack() as files:
            for _ in range(1100):
                files.enter_context(open("/dev/null"))  # noqa: PTH123
            assert chat_text("{{ bos_token }}", MESSAGES, TOKENS, True) == "<s>"
    finally:
        RENDERER.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_template_that_was_stopped_renders_what_it_can() -> None:
    loops = (
        "{% for m in messages %}{% for i in range(90000) %}{% for j in range(900) %}{% endfor %}"
    )
    template = loops + "{% endfor %}{% endfor %}done"
    with pytest.raises(ParameterError, match="takes too much time"):
        chat_text(template, MESSAGES[:1], TOKENS, True)
    assert chat_text(template, [], TOKENS, True) == "done"


def test_long_chats_are_rendered() -> None:
    """More than a pipe holds, both ways."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "é" * 50_000}] * 40
    text = chat_text("{{ messages | tojson }}", messages, {}, True)
    assert json.loads(text) == messages
