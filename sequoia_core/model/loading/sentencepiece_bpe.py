"""A sentencepiece vocabulary of kind BPE as a `tokenizers` backend, without a post-processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gguf import TokenType

from sequoia_core.errors import ModelLoadError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.decoders import Decoder
    from tokenizers.normalizers import Normalizer

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class VocabularyPiece(NamedTuple):
    text: str  # with `SPACE` for spaces
    score: float  # higher ones are merged first
    type: TokenType  # the same numbers in sentencepiece and in GGUF


def added_tokens(pieces: Sequence[VocabularyPiece]) -> list[AddedToken]:
    from tokenizers import AddedToken

    special = {TokenType.USER_DEFINED: False, TokenType.CONTROL: True, TokenType.UNKNOWN: True}
    return [
        AddedToken(piece.text, normalized=False, special=special[piece.type])
        for piece in pieces
        if piece.type in special
    ]


def read_sentencepiece(file: Path, legacy: bool) -> Tokenizer:
    """Read a `tokenizer.model`, which does not state `legacy`; damage may raise anything."""
    from sentencepiece import sentencepiece_model_pb2 as protobuf

    model = protobuf.ModelProto()  # type: ignore[attr-defined]  # made at import
    model.ParseFromString(file.read_bytes())
    training, rules = model.trainer_spec, model.normalizer_spec
    if training.model_type != training.BPE:
        kind = training.ModelType.Name(training.model_type).lower()
        raise ModelLoadError(f"a sentencepiece model of kind {kind}; only bpe is supported")
    if training.treat_whitespace_as_suffix or not rules.escape_whitespaces:
        raise ModelLoadError("white space as suffix or unescaped is not supported")
    return sentencepiece_backend(
        [VocabularyPiece(each.piece, each.score, TokenType(each.type)) for each in model.pieces],
        space_prefix=rules.add_dummy_prefix,
        legacy=legacy,
        squeeze=rules.remove_extra_whitespaces,
        charsmap=rules.precompiled_charsmap,
    )


def sentencepiece_backend(
    pieces: Sequence[VocabularyPiece],  # by token id
    merges: Sequence[tuple[str, str]] | None = None,  # in order; None makes them from the scores
    *,
    space_prefix: bool,  # a space is put before text ...
    legacy: bool = True,  # ... between special tokens; otherwise before the first text only
    squeeze: bool,  # white space at the ends is dropped, and several spaces become one
    charsmap: bytes,  # sentencepiece's compiled table of character replacements
) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {piece.text: token for token, piece in enumerate(pieces)}
    merges = _merges_by_score(pieces) if merges is None else list(merges)
    unknown = (piece.text for piece in pieces if piece.type is TokenType.UNKNOWN)
    backend = Tokenizer(
        models.BPE(vocab, merges, unk_token=next(unknown, None), fuse_unk=True, byte_fallback=True)
    )
    if normalizer := _normalizer(charsmap, squeeze, legacy, space_prefix):
        backend.normalizer = normalizer
    if not legacy:
        scheme = "first" if space_prefix else "never"
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    steps: list[Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(
        [*steps, decoders.Strip(" ", 1, 0)] if space_prefix else steps
    )
    backend.add_tokens(added_tokens(pieces))
    return backend


def _normalizer(
    charsmap: bytes, squeeze: bool, legacy: bool, space_prefix: bool
) -> Normalizer | None:
    from tokenizers import Regex, normalizers

    steps: list[Normalizer] = []
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    if squeeze:
        # spaces alone: sentencepiece keeps tabs and line ends
        squeezed = {r"\A +| +\z": "", " {2,}": " "}
        steps += [normalizers.Replace(Regex(each), by) for each, by in squeezed.items()]
    if legacy:
        steps += [normalizers.Prepend(SPACE)] if space_prefix else []
        steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps) if steps else None


def _merges_by_score(pieces: Sequence[VocabularyPiece]) -> list[tuple[str, str]]:
    """All pairs of pieces that form a piece, highest score first, as sentencepiece merges them."""
    normal = {piece.text: piece.score for piece in pieces if piece.type is TokenType.NORMAL}
    scores: dict[float, str] = {}
    pairs: list[tuple[float, int, str, str]] = []
    for text, score in normal.items():
        splits = [(text[:at], text[at:]) for at in range(1, len(text))]
        splits = [(left, right) for left, right in splits if left in normal and right in normal]
        if splits and scores.setdefault(score, text) != text:
            raise ModelLoadError(
                f"the pieces {scores[score]!r} and {text!r} have the same score, so the order of "
                "merges is not known"
            )
        pairs += [(-score, -len(left), left, right) for left, right in splits]
    return [(left, right) for *_, left, right in sorted(pairs)]
