"""What a chat template puts around turns, as token ids to build conversations from.

It is what two rendered prompts have in common, so that no conversation is rendered as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from sequoia_core.distill.corpus import AnswerMarks, common_prefix
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.text.chat_template import ChatTemplate, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "question": (
            "What", "What is", "How", "How do I", "How can", "Why", "Why do", "When", "Where",
            "Who", "Which", "Can you", "Could you", "Please", "Is", "Are", "Do", "Does", "Should",
            "I", "I need", "I want to", "I have", "My", "We", "If", "Let", "In", "The", "A",
            "Explain", "Explain how", "Describe", "Tell me about", "Compare", "Define", "Discuss",
            "What are the main causes of", "What is the difference between", "How does",
        ),
        "writing": (
            "Write", "Write a", "Write a short", "Write a poem about", "Write a letter to",
            "Write an email to", "Write a story about", "Write a blog post about", "Compose",
            "Create", "Design", "Imagine", "Act as", "Pretend to be", "You are", "Tell me a story",
            "Describe a scene in which", "Draft a speech", "Give advice to someone who",
        ),
        "code": (
            "Write a Python function that", "Write a function in JavaScript that", "Write a C++",
            "Write a SQL query", "Write a shell script", "Write an HTML page", "Write a class",
            "Explain what this code does:\n\n```python\n", "Find the bug in this code:\n\n```\n",
            "How do I write a program", "Implement", "Write a regular expression", "Write a test",
            "What does this error mean:", "Write a Java method that", "How do I use the",
        ),
        "list": (
            "List", "List five", "List ten", "Give me a list of", "Give me ten", "Name three",
            "Name", "Make a table of", "What are the steps to", "Make a checklist for", "Outline",
            "Plan", "Suggest", "Recommend", "What are some", "Give me step-by-step instructions",
        ),
        "rewriting": (
            "Rewrite this sentence:", "Rewrite the following text:", "Correct the grammar of",
            "Summarize", "Summarize the following text:\n\n", "Make this shorter:", "Translate",
            "Translate this sentence to French:", "Paraphrase", "Convert", "Edit this paragraph:",
            "Turn this into a list:\n\n", "Say this more politely:", "Simplify this text:",
        ),
        "reasoning": (
            "Solve", "Calculate", "Find", "If a train", "A shop sells", "How many", "Is it true",
            "What comes next:", "Classify", "Identify", "Extract the names from this text:\n\n",
            "What is the sum of", "Which of these", "Answer with yes or no:", "Suppose that",
            "Decide whether this review is positive or negative:",
        ),
    }
)  # fmt: skip
"""First words of a user's first turn by kind; the model continues from them."""

FOLLOW_UPS = (
    "Now", "Can you", "Could you", "Why", "How", "What", "What about", "What if", "And", "But",
    "Give an example", "Give me another", "Make it shorter", "Make it longer", "Rewrite it",
    "Explain it", "Explain that in", "Summarize", "List the main points", "Translate",
    "Turn it into", "I don't understand", "Are you sure", "Is there", "Thank you", "Do you",
    "Please", "Rewrite your answer", "Rewrite your last answer", "Tell me more", "Add", "Now write",
)  # fmt: skip
"""First words of a later turn."""

_PROBES = ("a", "2")


@dataclass(frozen=True, slots=True)
class TemplateTokens:
    """Token ids that the template puts around turns.

    Attributes:
        beginning: before the first user's turn.
        header: between a user's turn and its answer.
        between: after the token that closes an answer, up to the next user's turn; None if this
            template does not extend its earlier output.
        closing: tokens of which any ends a turn.
        openings: ids of `OPENINGS`, kind by kind.
        follow_ups: ids of `FOLLOW_UPS`.
        prompts: of the user's own, rendered up to where the answer begins.
    """

    beginning: tuple[int, ...]
    header: tuple[int, ...]
    between: tuple[int, ...] | None
    closing: frozenset[int]
    openings: tuple[tuple[tuple[int, ...], ...], ...]
    follow_ups: tuple[tuple[int, ...], ...]
    prompts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        closing: Iterable[int],
        prompts: Sequence[str],
        longest_prompt: int,
    ) -> TemplateTokens:
        """The tokens of a tokenizer's chat template.

        Prompts that have more than `longest_prompt` tokens, the template's included, are left out.

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
        beginning = common_prefix([template.whole([], probe) for probe in _PROBES])
        rendered = [tuple(template.whole([], prompt)) for prompt in prompts]
        short = tuple(ids for ids in rendered if len(ids) <= longest_prompt)
        if rendered and not short:
            raise ParameterError(
                f"every prompt of the data file is longer than {longest_prompt} tokens, which is "
                "half of what the target can read"
            )

        def turns(words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
            """Ids of a turn for each of these openings."""
            rendered = (template.whole([], word)[len(beginning) :] for word in words)
            found = (tuple(ids[: len(ids) - len(header)]) for ids in rendered)
            return tuple(ids for ids in found if ids)  # "A" may be in the beginning already

        return cls(
            beginning=tuple(beginning),
            header=header,
            between=_between(template, frozenset(closing)),
            closing=frozenset(closing),
            openings=tuple(turns(words) for words in OPENINGS.values()),
            follow_ups=turns(FOLLOW_UPS),
            prompts=short,
        )


def _between(template: ChatTemplate, closing: frozenset[int]) -> tuple[int, ...] | None:
    turns = [Turn("a", "b")]
    said = template.answered(turns)
    asked = [template.whole(turns, probe) for probe in _PROBES]
    found = [ids[len(said) :] for ids in asked if ids[: len(said)] == said]
    shared = common_prefix(found) if len(found) == len(_PROBES) else []
    closed = next((at for at, token in enumerate(shared) if token in closing), None)
    return None if closed is None else tuple(shared[closed + 1 :])
