"""Whether a tokenizer fits an embedding, and whether the tokenizers of a pair agree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sequoia_core.errors import ModelLoadError, ParameterError, TokenizerMismatchError
from sequoia_core.text.chat_template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sequoia_core.model.loading.loader import Checkpoint


def pair_tokenizer(target: Checkpoint, draft: Checkpoint | None) -> PreTrainedTokenizerBase:
    """The target's tokenizer, after the draft's was compared with it.

    Raises:
        ModelLoadError: the target has none, or one does not fit its model.
        TokenizerMismatchError: the draft's tokens are not the target's, or cannot be compared.
    """
    if target.tokenizer is None:
        raise ModelLoadError(f"{target.weights.origin}: the target brings no tokenizer")
    tokenizer = target.tokenizer()
    check_embedding_fit(tokenizer, target.config.vocab_size, _chat_tokens(tokenizer), target.name)
    if draft is None:
        return tokenizer
    borrows = draft.config.embeddings_from_target
    if borrows and draft.config.vocab_size != target.config.vocab_size:
        raise TokenizerMismatchError(
            f"{draft.name}: the draft was made for a vocabulary of {draft.config.vocab_size} "
            f"tokens, the target has {target.config.vocab_size}"
        )
    if draft.tokenizer is not None:
        own = draft.tokenizer()
        check_embedding_fit(own, draft.config.vocab_size, (), draft.name)
        assert_same_tokenizer(tokenizer, own)
    elif not borrows:
        raise TokenizerMismatchError(
            f"{draft.name}: the draft brings no tokenizer, so its tokens cannot be compared with "
            "the target's; put its tokenizer.json beside its weights"
        )
    return tokenizer


def _chat_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that every chat has; none where the template fails, which a message reports later."""
    try:
        return set(ChatTemplate(tokenizer, None).whole((), "?"))
    except ParameterError:
        return set()


def check_embedding_fit(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, needed: Iterable[int], origin: str
) -> None:
    """Refuse a tokenizer whose ordinary text has tokens that the embedding has no row for.

    An embedding with more rows than tokens is padded, which is common. Added tokens may lie past it
    unless they are `needed`: many models name a padding token that they have no row for.

    Raises:
        ModelLoadError: names the first such token.
    """
    backend = tokenizer.backend_tokenizer
    ordinary = set(backend.get_vocab(with_added_tokens=False).values())
    # an added token may be listed in the vocabulary as well
    ids = (ordinary - backend.get_added_tokens_decoder().keys()) | set(needed)
    if past := sorted(token for token in ids if token >= vocab_size):
        raise ModelLoadError(
            f"{origin}: the tokenizer has token {past[0]} ({backend.id_to_token(past[0])!r}), but "
            f"the embedding has {vocab_size} rows; take the tokenizer that belongs to the weights"
        )


def assert_same_tokenizer(target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase) -> None:
    """Compare the token strings of two tokenizers, id by id.

    Ids that only one of them has are padding and do no harm.

    Raises:
        TokenizerMismatchError: an id means different strings; names the first one.
    """
    target_tokens = {index: token for token, index in target.get_vocab().items()}
    draft_tokens = {index: token for token, index in draft.get_vocab().items()}
    for index in sorted(target_tokens.keys() & draft_tokens.keys()):
        if target_tokens[index] != draft_tokens[index]:
            raise TokenizerMismatchError(
                f"the draft has another tokenizer: token {index} is {target_tokens[index]!r} to "
                f"the target and {draft_tokens[index]!r} to the draft; take one of the same family"
            )
