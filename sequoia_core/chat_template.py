"""A chat template cut into pieces, so that a conversation's token ledger only ever grows.

Owns how turns become token ids. Re-rendering a whole chat could tokenize old answers differently
from how they were generated; here a new turn is rendered as what the template adds to the turns
before. Knows nothing of models or caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sequoia_core.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANCHOR = "\n"
_SENTINEL = "\N{SYMBOL FOR RECORD SEPARATOR}answer\N{SYMBOL FOR RECORD SEPARATOR}"

PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + '\n' }}"
    "{% else %}{{ 'ASSISTANT: ' + message['content'] + eos_token + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""For targets that ship no template of their own; the roles are Vicuna's."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what the person wrote and what was answered.

    Attributes:
        prompt: what the person wrote.
        answer: the text of the answer.
        answer_ids: the answer's tokens as they were decoded, an end-of-sequence token included;
            empty where they are not known, then the text is tokenized again.
    """

    prompt: str
    answer: str
    answer_ids: tuple[int, ...] = ()


class ChatTemplate:
    """Turns a conversation into token ids piece by piece.

    Args:
        tokenizer: with its chat template, if it has one.
        system_prompt: None leaves it to the template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> None:
        self._tokenizer = tokenizer
        self._template = None if tokenizer.chat_template else PLAIN_TEMPLATE
        self._system = [{"role": "system", "content": system_prompt}] if system_prompt else []

    def whole(self, turns: Sequence[Turn], prompt: str) -> list[int]:
        """Ids of a conversation rendered from scratch, up to where the answer begins.

        Raises:
            ParameterError: the template refuses the conversation.
        """
        return self._ids(self._render([*self._messages(turns), _user(prompt)], True))

    def continuing(self, turns: Sequence[Turn], prompt: str) -> list[int] | None:
        """Ids from the end of the last answer, its closing token first, to where the next begins.

        None if this template does not extend what it rendered before; then render it whole.

        Raises:
            ParameterError: the template refuses the conversation.
        """
        messages = self._messages(turns)
        before = self._render(messages, False)
        after = self._render([*messages, _user(prompt)], True)
        closing = self._closing(turns)
        if after.startswith(before) and before.endswith(closing):
            return self._ids_after_text(closing + after[len(before) :])
        return None

    def ledger(self, turns: Sequence[Turn], eos_token_ids: frozenset[int]) -> list[int]:
        """Ids up to the end of the last answer, as they would have grown turn by turn.

        Args:
            turns: their `answer_ids` are taken as they are; without them the text is tokenized.
            eos_token_ids: such an id at the end of an answer gives way to the template's closing.

        Raises:
            ParameterError: the template refuses the conversation.
        """
        if not turns:
            return []
        spacing = self._spacing(turns[0].prompt)
        texts = self._texts_before(turns, spacing)
        if texts is None:  # then the past is rendered anew for each answer
            last = turns[-1]
            return [*self.whole(turns[:-1], last.prompt), *self._answer_ids(last, spacing)]
        ids: list[int] = []
        for text, turn in zip(texts, turns, strict=True):
            if ids and ids[-1] in eos_token_ids:
                ids.pop()
            ids += self._ids_after_text(text) if ids else self._ids(text)
            ids += self._answer_ids(turn, spacing)
        return ids

    def _answer_ids(self, turn: Turn, spacing: str) -> Sequence[int]:
        return turn.answer_ids or self._ids_after_text(spacing + turn.answer)

    def _spacing(self, prompt: str) -> str:
        """What the template puts between where an answer begins and its text."""
        messages = [*self._system, _user(prompt)]
        asked = self._render(messages, True)
        answered = self._render([*messages, _assistant(_SENTINEL)], False).partition(_SENTINEL)[0]
        return answered[len(asked) :] if answered.startswith(asked) else ""

    def _texts_before(self, turns: Sequence[Turn], spacing: str) -> list[str] | None:
        """The text before each answer, from the end of the one before; None if it is not fixed.

        One rendering for all turns: extending turn by turn takes time that grows with the square.
        """
        hidden = [Turn(turn.prompt, _SENTINEL) for turn in turns]
        *texts, _ = self._render(self._messages(hidden), False).split(_SENTINEL)
        last = self._render([*self._messages(hidden[:-1]), _user(turns[-1].prompt)], True)
        whole = _SENTINEL.join(texts)
        if len(texts) != len(turns) or whole != last + spacing:
            return None
        return [text.removesuffix(spacing) for text in texts]

    def _closing(self, turns: Sequence[Turn]) -> str:
        """What the template puts after an answer."""
        messages = [*self._messages(turns[:-1]), _user(turns[-1].prompt)]
        text = self._render([*messages, _assistant(_SENTINEL)], False)
        return text.rpartition(_SENTINEL)[2]

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
        messages = list(self._system)
        for turn in turns:
            messages += [_user(turn.prompt), _assistant(turn.answer)]
        return messages

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        from jinja2.exceptions import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except TemplateError as error:
            raise ParameterError(f"the chat template refuses this conversation: {error}") from None
        return str(text)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _ids_after_text(self, text: str) -> list[int]:
        """Ids of a text that goes on: sentencepiece would put a space before its beginning."""
        anchor, ids = self._ids(_ANCHOR), self._ids(_ANCHOR + text)
        merged = ids[: len(anchor)] != anchor  # then this tokenizer is of the other kind
        return self._ids(text) if merged else ids[len(anchor) :]


def _user(prompt: str) -> dict[str, str]:
    return {"role": "user", "content": prompt}


def _assistant(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}
