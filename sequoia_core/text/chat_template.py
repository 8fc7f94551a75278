"""A conversation as the token ids that the model reads."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.errors import ParameterError
from sequoia_core.text.detokenizer import SURROGATE
from sequoia_core.text.template_renderer import RENDERER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANCHOR = "\n"
_SENTINEL = "\N{SYMBOL FOR RECORD SEPARATOR}answer\N{SYMBOL FOR RECORD SEPARATOR}"
"""Stands for an answer in a rendered template; no template strips or quotes it."""

_MARKUP = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""A token that looks like this right after an answer ends it, also where nothing marks it so."""

PLAIN_TEMPLATE = Path(__file__).with_name("plain_template.jinja").read_text("utf-8")
"""For targets that ship no template of their own; the roles are Vicuna's."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what the person wrote and what was answered."""

    prompt: str
    answer: str
    # as they were decoded, an end-of-sequence token included; empty where they are not known: then
    # the text is tokenized again
    answer_ids: tuple[int, ...] = ()


class ChatTemplate:
    """Turns a conversation into the token ids of what the model's template renders for it.

    An answer keeps its own ids where it stands in that text as the model wrote it: tokenized again
    it may have others, and then the KV cache would end there. A `system_prompt` of None is left to
    the template; where a template refuses one, it is put before the first message. One of
    `eos_token_ids` at the end of an answer is replaced by the template's closing.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        system_prompt: str | None,
        eos_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self._eos_token_ids = eos_token_ids

    def whole(self, turns: Sequence[Turn], prompt: str) -> list[int]:
        """Ids of a conversation up to where the answer to `prompt` begins.

        Raises ParameterError if the template refuses the conversation, leaves the message or the
        system prompt out, or is faulty, or if a text cannot be tokenized.
        """
        text = self._render([*self._messages(turns), _user(prompt)], True)
        self._check_holds(text, prompt)
        answers, after = self._parts(turns, prompt, text)
        # cut where answers begin and end, as the ids were made turn by turn
        ids: list[int] = []
        for (before, answer), turn in zip(answers, turns, strict=False):
            own, rest = self._own_ids(turn, answer)
            ids += self._ids_after_text(before) if ids else self._ids(before)
            ids += [*own, *self._ids_after_text(rest)]
        return [*ids, *(self._ids_after_text(after) if ids else self._ids(after))]

    def answered(self, turns: Sequence[Turn]) -> list[int]:
        """Ids up to the end of the last answer, its `answer_ids` as they are; raises as `whole`."""
        if not turns:
            return []
        last = turns[-1]
        answer = last.answer_ids or self._ids_after_text(self._spacing + last.answer)
        return [*self.whole(turns[:-1], last.prompt), *answer]

    def open_answer(self, turn: Turn) -> list[int]:
        """Ids of an answer that the model is to go on with: its own as far as they read like it.

        They follow those of `whole`. No closing comes after them, and the rest of the text is
        tokenized. Raises ParameterError if that is not possible.
        """
        # the model may have left the template's blank out
        spaced = (self._own_ids(turn, space + turn.answer) for space in (self._spacing, ""))
        own, rest = max(spaced, key=lambda each: len(each[0]))
        return [*own, *self._ids_after_text(rest)]

    def closing_id(self) -> int | None:
        """The token that the template puts right after an answer, if it puts one.

        None also where the template cannot be rendered, which the first message will report.
        """
        if not self._tokenizer.chat_template:
            return None
        try:
            text = self._render([_user("?"), _assistant(_SENTINEL)], False)
            after = text.partition(_SENTINEL)[2].lstrip()
            ids = self._ids_after_text(after)
        except ParameterError:
            return None
        if ids and ids[0] in self._tokenizer.added_tokens_decoder:
            return ids[0]
        # a model can write such a token also where its tokenizer cuts the text into pieces
        markup = _MARKUP.match(after)
        return self._tokenizer.get_vocab().get(markup[0]) if markup else None

    def _parts(
        self, turns: Sequence[Turn], prompt: str, text: str
    ) -> tuple[list[tuple[str, str]], str]:
        """The rendered text cut at its answers: what is before each and the answer, and the end.

        What surrounds the answers is found by rendering a sentinel in place of each, so a template
        may change an answer, or drop a part of it. Uncut where the surroundings depend on answers.
        """
        hidden = [Turn(turn.prompt, _SENTINEL) for turn in turns]
        shown = self._render([*self._messages(hidden), _user(prompt)], True) if turns else text
        before, *surroundings = shown.split(_SENTINEL)
        if len(surroundings) != len(turns) or not text.startswith(before):
            return [], text
        parts: list[tuple[str, str]] = []
        at = len(before)
        for number, (turn, after) in enumerate(zip(turns, surroundings, strict=True), start=1):
            if number == len(turns):
                end = len(text) - len(after) if text.endswith(after, at) else -1
            else:
                end = _end_of_answer(text, at, turn.answer, after)
            if end < 0:
                return [], text
            space = self._spacing if before.endswith(self._spacing) else ""
            parts.append((before.removesuffix(space), space + text[at:end]))
            before, at = after, end + len(after)
        return parts, before

    def _own_ids(self, turn: Turn, answer: str) -> tuple[list[int], str]:
        """As many of an answer's own ids as read like its rendered text, and the text after."""
        ids = list(turn.answer_ids)
        if ids and ids[-1] in self._eos_token_ids:
            ids.pop()
        if not ids:
            return [], answer
        text = self._text_of(ids)
        if answer.startswith(text):
            return ids, answer[len(text) :]
        # the longest beginning within what the texts share, then back to where a character is whole
        pairs = enumerate(zip(text, answer, strict=False))
        shared = next((at for at, (a, b) in pairs if a != b), len(answer))
        ends = range(1, len(ids) + 1)
        kept = bisect_right(ends, shared, key=lambda end: len(self._text_of(ids[:end])))
        while kept and not answer.startswith(self._text_of(ids[:kept])):
            kept -= 1
        return ids[:kept], answer[len(self._text_of(ids[:kept])) :]

    def _text_of(self, token_ids: Sequence[int]) -> str:
        """Text of ids that go on after other text, special tokens spelt out."""
        anchor = self._anchor_ids
        text = str(self._tokenizer.decode([*anchor, *token_ids]))
        return text[len(str(self._tokenizer.decode(anchor))) :]

    @cached_property
    def _spacing(self) -> str:
        """What the template puts between where an answer begins and its text."""
        messages = [*self._system, _user("?")]
        asked = self._render(messages, True)
        marked = self._render([*messages, _assistant(_SENTINEL)], False)
        answered, mark, _ = marked.partition(_SENTINEL)
        return answered[len(asked) :] if mark and answered.startswith(asked) else ""

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
        messages = list(self._system)
        for turn in turns:
            messages += [_user(turn.prompt), _assistant(turn.answer)]
        return messages

    def _check_holds(self, text: str, prompt: str) -> None:
        """Refuse a rendering in which a message is missing: the model would not see it."""
        for message in [*self._system, _user(prompt)]:
            role, content = message["role"], message["content"]
            if role not in self._shown_roles or content.strip() not in text:
                what = "system prompt" if role == "system" else "message"
                raise ParameterError(
                    f"the model's chat template leaves the {what} out, so the model would not see "
                    "it; the template is not made for plain text in this role"
                )

    @cached_property
    def _shown_roles(self) -> set[str]:
        """Roles whose messages the template shows, up to the first answer.

        A short message may stand in the template's own words where it is left out itself.
        """
        roles = [message["role"] for message in [*self._system, _user("?")]]
        marked = [{"role": role, "content": _SENTINEL + role} for role in roles]
        text = self._render(marked, True)
        return {role for role in roles if _SENTINEL + role in text}

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        if self._system and self._joins_system:
            system, first, *others = messages
            content = f"{system['content']}\n\n{first['content']}"
            messages = [{**first, "content": content}, *others]
        return self._rendered(messages, add_generation_prompt)

    @cached_property
    def _joins_system(self) -> bool:
        """Whether the template has no role for a system prompt, as Gemma's."""
        return not self._renders([*self._system, _user("?")]) and self._renders([_user("?")])

    def _renders(self, messages: list[dict[str, str]]) -> bool:
        try:
            self._rendered(messages, True)
        except ParameterError:
            return False
        return True

    def _rendered(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        tokens: dict[str, Any] = {"bos_token": "", "eos_token": ""}
        for name, token in self._tokenizer.special_tokens_map.items():
            several = isinstance(token, list | tuple)
            tokens[name] = [str(each) for each in token] if several else str(token)
        template = self._tokenizer.chat_template or PLAIN_TEMPLATE
        return RENDERER.render(template, messages, tokens, add_generation_prompt)

    @cached_property
    def _anchor_ids(self) -> list[int]:
        return self._ids(_ANCHOR)

    def _ids(self, text: str) -> list[int]:
        half = SURROGATE.search(text)
        if half is not None:  # input that was not UTF-8, which no tokenizer reads
            raise ParameterError(
                f"the text holds U+{ord(half[0]):04X}, which is half a character; take it out"
            )
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False))
        except Exception as error:  # the tokenizers library raises bare Exception
            reason = " ".join(str(error).split())
            raise ParameterError(f"the model's tokenizer cannot read this text: {reason}") from None

    def _ids_after_text(self, text: str) -> list[int]:
        """Ids of a text that goes on: sentencepiece would put a space before its beginning."""
        if not text:
            return []
        anchor, ids = self._anchor_ids, self._ids(_ANCHOR + text)
        merged = ids[: len(anchor)] != anchor  # then this tokenizer is of the other kind
        return self._ids(text) if merged else ids[len(anchor) :]


def turn_ends(tokenizer: PreTrainedTokenizerBase, stated: frozenset[int]) -> frozenset[int]:
    """Tokens that end an answer: `stated` by the configurations, or shown by the tokenizer."""
    named = {tokenizer.eos_token_id, ChatTemplate(tokenizer, None).closing_id()}
    return stated | {token for token in named if token is not None}


def _end_of_answer(text: str, start: int, answer: str, after: str) -> int:
    """Where an answer that begins at `start` ends and `after` begins; -1 if nowhere."""
    for shown in (answer, answer.strip()):
        if text.startswith(shown + after, start):
            return start + len(shown)
    return text.find(after, start)


def _user(prompt: str) -> dict[str, str]:
    return {"role": "user", "content": prompt}


def _assistant(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}
