"""A sentencepiece vocabulary of kind BPE as a `tokenizers` backend.

A GGUF file and a `tokenizer.model` hold the same: pieces, each with a score and a type, and a few
rules for spaces. Sentencepiece merges the pair whose piece has the highest score; the `tokenizers`
library wants a list of merges, which is made from the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.errors import ModelLoadError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.decoders import Decoder
    from tokenizers.normalizers import Normalizer

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class PieceType(IntEnum):
    """Types of a token, the same numbers in sentencepiece and in GGUF."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class VocabularyPiece:
    """One token; its text has `SPACE` for spaces, and a higher score is merged first."""

    text: str
    score: float
    type: PieceType

    def added(self) -> AddedToken | None:
        """The piece as a token that is matched before merging; None if it is not one."""
        from tokenizers import AddedToken

        if self.type is PieceType.USER_DEFINED:
            return AddedToken(self.text, normalized=False, special=False)
        if self.type in {PieceType.CONTROL, PieceType.UNKNOWN}:
            return AddedToken(self.text, normalized=False, special=True)
        return None


@dataclass(frozen=True, slots=True)
class SentencePieces:
    """A vocabulary and its rules for white space.

    Attributes:
        pieces: by token id.
        merges: pairs in the order in which they are merged; None makes them from the scores.
        space_prefix: a space is put before text.
        legacy: before every text between special tokens; otherwise before the first only.
        squeeze: white space at the ends is dropped, and several spaces become one.
        charsmap: sentencepiece's compiled table of character replacements.
    """

    pieces: Sequence[VocabularyPiece]
    merges: Sequence[tuple[str, str]] | None = None
    space_prefix: bool = True
    legacy: bool = True
    squeeze: bool = False
    charsmap: bytes = b""

    @classmethod
    def read(cls, file: Path, legacy: bool) -> SentencePieces:
        """Read a `tokenizer.model`, a protobuf message `ModelProto`; it does not state `legacy`.

        Raises:
            ModelLoadError: its kind or one of its rules is not supported.
            Exception: the file is damaged.
        """
        from sentencepiece import sentencepiece_model_pb2 as protobuf

        model = protobuf.ModelProto()  # type: ignore[attr-defined]  # made at import
        model.ParseFromString(file.read_bytes())
        training, rules = model.trainer_spec, model.normalizer_spec
        if training.model_type != training.BPE:
            kind = training.ModelType.Name(training.model_type).lower()
            raise ModelLoadError(f"a sentencepiece model of kind {kind}; only bpe is supported")
        if training.treat_whitespace_as_suffix or not rules.escape_whitespaces:
            raise ModelLoadError("white space as suffix or unescaped is not supported")
        pieces = [
            VocabularyPiece(each.piece, each.score, PieceType(each.type)) for each in model.pieces
        ]
        return cls(
            pieces,
            space_prefix=rules.add_dummy_prefix,
            legacy=legacy,
            squeeze=rules.remove_extra_whitespaces,
            charsmap=rules.precompiled_charsmap,
        )

    def backend(self) -> Tokenizer:
        """The tokenizer, without a post-processor.

        Raises:
            ModelLoadError: the pieces do not say in which order they are merged.
        """
        from tokenizers import Tokenizer, models, pre_tokenizers

        vocab = {piece.text: token for token, piece in enumerate(self.pieces)}
        merges = self._merges_by_score() if self.merges is None else list(self.merges)
        unknown = [piece.text for piece in self.pieces if piece.type is PieceType.UNKNOWN]
        backend = Tokenizer(
            models.BPE(
                vocab,
                merges,
                unk_token=unknown[0] if unknown else None,
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        if normalizer := self._normalizer():
            backend.normalizer = normalizer
        if not self.legacy:
            scheme = "first" if self.space_prefix else "never"
            backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
        backend.decoder = self._decoder()
        backend.add_tokens([each for piece in self.pieces if (each := piece.added())])
        return backend

    def _normalizer(self) -> Normalizer | None:
        from tokenizers import Regex, normalizers

        steps: list[Normalizer] = []
        if self.charsmap:
            steps.append(normalizers.Precompiled(self.charsmap))
        if self.squeeze:
            # spaces alone: sentencepiece keeps tabs and line ends
            squeezed = {r"\A +| +\z": "", " {2,}": " "}
            steps += [normalizers.Replace(Regex(each), by) for each, by in squeezed.items()]
        if self.legacy:
            steps += [normalizers.Prepend(SPACE)] if self.space_prefix else []
            steps.append(normalizers.Replace(" ", SPACE))
        return normalizers.Sequence(steps) if steps else None

    def _decoder(self) -> Decoder:
        from tokenizers import decoders

        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        return decoders.Sequence(
            [*steps, decoders.Strip(" ", 1, 0)] if self.space_prefix else steps
        )

    def _merges_by_score(self) -> list[tuple[str, str]]:
        """All pairs of pieces that form a piece, highest score first."""
        merged = {piece.text for piece in self.pieces if piece.type is PieceType.NORMAL}
        scores: dict[float, str] = {}
        pairs: list[tuple[float, int, str, str]] = []
        for piece in self.pieces:
            if piece.text not in merged:
                continue
            text = piece.text
            splits = [
                (text[:at], text[at:])
                for at in range(1, len(text))
                if text[:at] in merged and text[at:] in merged
            ]
            if splits and scores.setdefault(piece.score, text) != text:
                raise ModelLoadError(
                    f"the pieces {scores[piece.score]!r} and {text!r} have the same score, so the "
                    "order of merges is not known"
                )
            pairs += [(-piece.score, -len(left), left, right) for left, right in splits]
        return [(left, right) for *_, left, right in sorted(pairs)]
