"""What a chat template puts around turns, as token ids to build conversations from.

Owns how a conversation is begun, answered and continued without rendering it whole. Knows nothing
of models. What is between turns comes from comparing what the template makes of two prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sequoia_core.chat_template import ChatTemplate, Turn
from sequoia_core.distill.corpus import AnswerMarks
from sequoia_core.errors import ModelLoadError, ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENINGS = (
    "What", "What is", "How", "How do I", "How can", "Why", "Why do", "When", "Where", "Who",
    "Which", "Can you", "Could you", "Please", "Is", "Are", "Do", "Does", "Should", "I", "I need",
    "I want to", "I have", "My", "We", "If", "Let", "Write", "Write a", "Write a short", "Explain",
    "Explain how", "Describe", "List", "Give", "Give me", "Tell me", "Tell me about", "Compare",
    "Summarize", "Translate", "Rewrite", "Correct", "Create", "Design", "Suggest", "Recommend",
    "Imagine", "Act as", "Help me", "Solve", "Calculate", "Find", "Name", "Define", "Discuss",
    "Outline", "Plan", "Compose", "Generate", "Convert", "Classify", "Identify", "In", "The", "A",
)  # fmt: skip
"""First words of a user's turn, from which the model goes on by itself."""

_PROBES = ("a", "2")


@dataclass(frozen=True, slots=True)
class Pieces:
    """Token ids that the template puts around turns.

    Attributes:
        beginning: before the first user's turn.
        header: between a user's turn and its answer.
        between: after the token that closes an answer, up to the next user's turn; None if this
            template does not extend what it rendered before.
        closing: tokens of which any ends a turn.
        openings: ids of `OPENINGS`, the first words of a user's turn.
        prompts: whole conversations up to where the answer begins, to be answered as well.
    """

    beginning: tuple[int, ...]
    header: tuple[int, ...]
    between: tuple[int, ...] | None
    closing: frozenset[int]
    openings: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        closing: Iterable[int],
        prompts: Sequence[str],
        longest_prompt: int,
    ) -> Pieces:
        """The pieces of a tokenizer's chat template.

        Args:
            tokenizer: with a chat template.
            closing: tokens of which any ends a turn.
            prompts: of the person's own; those longer than `longest_prompt` tokens are left out.
            longest_prompt: in tokens, what the template adds included.

        Raises:
            ModelLoadError: there is no chat template.
            ParameterError: the template puts nothing around turns, refuses a plain question, or no
                prompt is short enough.
        """
        if not tokenizer.chat_template:
            raise ModelLoadError(
                "the target brings no chat template, so it cannot write conversations of its own; "
                "take an instruction-tuned model"
            )
        template = ChatTemplate(tokenizer, None)
        header = AnswerMarks.of(tokenizer, closing).header
        beginning = _shared([template.whole([], probe) for probe in _PROBES])
        rendered = [tuple(template.whole([], prompt)) for prompt in prompts]
        short = tuple(ids for ids in rendered if len(ids) <= longest_prompt)
        if rendered and not short:
            raise ParameterError(
                f"every prompt of the data file is longer than {longest_prompt} tokens, which is "
                "half of what the target can read"
            )
        questions = [template.whole([], word)[len(beginning) :] for word in OPENINGS]
        openings = [tuple(ids[: len(ids) - len(header)]) for ids in questions]
        return cls(
            beginning=tuple(beginning),
            header=header,
            between=_between(template, frozenset(closing)),
            closing=frozenset(closing),
            openings=tuple(ids for ids in openings if ids),  # "A" may be in the beginning already
            prompts=short,
        )


def _between(template: ChatTemplate, closing: frozenset[int]) -> tuple[int, ...] | None:
    turns = [Turn("a", "b")]
    continued = [template.continuing(turns, probe) for probe in _PROBES]
    found = [ids for ids in continued if ids is not None]
    shared = _shared(found) if len(found) == len(_PROBES) else []
    closed = next((at for at, token in enumerate(shared) if token in closing), None)
    return None if closed is None else tuple(shared[closed + 1 :])


def _shared(rows: Sequence[Sequence[int]]) -> list[int]:
    """What all rows begin with."""
    count = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return list(rows[0][:count])
