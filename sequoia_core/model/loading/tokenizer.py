"""Loading tokenizers, and whether those of a pair agree.

No class is chosen by a file, and no code of a model's folder is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.errors import ModelLoadError, ParameterError, TokenizerMismatchError
from sequoia_core.model.loading.model_files import first_line, read_json
from sequoia_core.model.loading.sentencepiece_bpe import read_sentencepiece
from sequoia_core.text.chat_template import ChatTemplate

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerBase

    from sequoia_core.model.loading.loader import Checkpoint

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")

NAMED_TOKENS = (
    "bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token",
)  # fmt: skip
DEFAULT_TEMPLATE = "default"
TEMPLATE_FOLDERS = ("chat_templates", "additional_chat_templates")  # the second: transformers'


def has_tokenizer(directory: Path) -> bool:
    return any((directory / name).exists() for name in TOKENIZER_FILES)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face directory.

    `tokenizer.json` is taken as it is: the class, `add_bos_token`, `add_prefix_space` and `legacy`
    of `tokenizer_config.json` say how to make one where there is none.
    """
    with one_error(directory):
        settings = _settings(directory)
        tokenizer = _folder_tokenizer(directory, settings)
        _add_tokens(tokenizer.backend_tokenizer, _stated_tokens(directory, settings))
        name_tokens(tokenizer, settings)
        tokenizer.chat_template = choose_template(_folder_templates(directory, settings))
    return tokenizer


@contextmanager
def one_error(origin: object) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the tokenizers library raises bare Exception for a bad file
        raise ModelLoadError(
            f"{origin}: the tokenizer cannot be read ({first_line(error)})"
        ) from None


def stated_eos_ids(*settings: Mapping[str, Any], origin: object = "config") -> frozenset[int]:
    """The `eos_token_id` entries (a number or a list) of configurations."""
    stated = [each["eos_token_id"] for each in settings if each.get("eos_token_id") is not None]
    ids = [index for each in stated for index in (each if isinstance(each, list) else [each])]
    for index in ids:
        if type(index) is not int:  # True is an int, but no token
            raise ModelLoadError(f"{origin}: eos_token_id is {index!r:.80}, which is no token id")
    return frozenset(ids)


def _transformers() -> Any:
    import transformers  # late, since its import takes most of the time here

    # its warnings would go to the screen
    transformers.logging.set_verbosity_error()
    return transformers


def _settings(directory: Path) -> dict[str, Any]:
    """What the folder states about its tokenizer outside `tokenizer.json`."""
    settings, special = (
        read_json(directory / name, missing_ok=True)
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    if settings.get("split_special_tokens"):
        raise ModelLoadError("split_special_tokens is not supported")
    # transformers' order: the newer files list added tokens in the configuration
    newer = "added_tokens_decoder" in settings
    return {**special, **settings} if newer else {**settings, **special}


def _folder_tokenizer(directory: Path, settings: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    serialized = directory / "tokenizer.json"
    if serialized.exists():
        return fast_tokenizer(tokenizer_file=str(serialized))
    pieces = directory / "tokenizer.model"
    if pieces.exists():
        backend = read_sentencepiece(pieces, legacy=settings.get("legacy") is not False)
        tokenizer = fast_tokenizer(tokenizer_object=backend)
        name_tokens(tokenizer, settings)
        begins, ends = settings.get("add_bos_token"), settings.get("add_eos_token")
        mark_ends(tokenizer, begins is not False, ends is True)
        return tokenizer
    # these files leave the rule for splitting text to a class of transformers
    found = _transformers().AutoTokenizer.from_pretrained(
        directory, local_files_only=True, trust_remote_code=False
    )
    return fast_tokenizer(tokenizer_object=found.backend_tokenizer)


def fast_tokenizer(**source: Any) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = _transformers().PreTrainedTokenizerFast(
        clean_up_tokenization_spaces=False,  # spaces before punctuation stay, as the ids state them
        **source,
    )
    return tokenizer


def _stated_tokens(directory: Path, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Added tokens that are listed outside `tokenizer.json`, by id."""
    from tokenizers import AddedToken

    if listed := settings.get("added_tokens_decoder"):
        return {int(token): AddedToken(**entry) for token, entry in listed.items()}
    found = read_json(directory / "added_tokens.json", missing_ok=True)
    return {int(token): AddedToken(text, normalized=False) for text, token in found.items()}


def _add_tokens(backend: Tokenizer, stated: Mapping[int, AddedToken]) -> None:
    """Add the tokens that the backend lacks, each under its stated id."""
    known = {str(token) for token in backend.get_added_tokens_decoder().values()}
    for token, added in sorted(stated.items()):
        if added.content not in known:
            backend.add_tokens([added])
        if (found := backend.token_to_id(added.content)) != token:
            raise ModelLoadError(
                f"{added.content!r} is stated as token {token}, but the vocabulary has {found}"
            )


def name_tokens(tokenizer: PreTrainedTokenizerBase, names: Mapping[str, Any]) -> None:
    """Set the named tokens; a name without a token in the vocabulary is left out.

    A token that is already added keeps its rules for the white space and the words around it.
    """
    backend = tokenizer.backend_tokenizer
    added = {str(token): token for token in backend.get_added_tokens_decoder().values()}
    texts = {name: _text(names[name]) for name in NAMED_TOKENS if names.get(name)}
    more = names.get("additional_special_tokens") or names.get("extra_special_tokens") or []
    listed = [_text(token) for token in (more.values() if isinstance(more, dict) else more)]

    def known(text: str) -> bool:
        return backend.token_to_id(text) is not None

    found = {name: added.get(text, text) for name, text in texts.items() if known(text)}
    special = [added.get(text, text) for text in listed if known(text)]
    tokenizer.add_special_tokens({**found, "additional_special_tokens": special})


def mark_ends(tokenizer: PreTrainedTokenizerBase, begins: bool, ends: bool) -> None:
    from tokenizers import processors

    first = [tokenizer.bos_token] if begins and tokenizer.bos_token else []
    last = [tokenizer.eos_token] if ends and tokenizer.eos_token else []
    marks = [(text, tokenizer.convert_tokens_to_ids(text)) for text in {*first, *last}]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last], special_tokens=marks
    )


def _text(token: Any) -> str:
    """The text of a token, which configurations state as it is or as a dictionary."""
    text = token["content"] if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise ModelLoadError(f"{text!r} was expected to be a token's text")
    return text


def _folder_templates(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; a file has precedence over an entry in a configuration."""
    folders = [directory / name for name in TEMPLATE_FOLDERS]
    files = {file.stem: file for folder in folders for file in sorted(folder.glob("*.jinja"))}
    if (main := directory / "chat_template.jinja").exists():
        files = {DEFAULT_TEMPLATE: main, **files}
    if files:
        return {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    stated = settings.get("chat_template")
    if not stated:
        other = read_json(directory / "chat_template.json", missing_ok=True)
        stated = other.get("chat_template") or {}
    if not isinstance(stated, list):
        return stated if isinstance(stated, dict) else {DEFAULT_TEMPLATE: stated}
    if not all(isinstance(each, dict) and {"name", "template"} <= each.keys() for each in stated):
        raise ModelLoadError("a chat template of a list has no name or no template")
    return {each["name"]: each["template"] for each in stated}


def choose_template(templates: Mapping[str, str]) -> str | None:
    if not templates:
        return None
    chosen = templates.get(DEFAULT_TEMPLATE, next(iter(templates.values())))
    if not isinstance(chosen, str):
        raise ModelLoadError("a chat template was expected to be text")
    return chosen


def pair_tokenizer(target: Checkpoint, draft: Checkpoint | None) -> PreTrainedTokenizerBase:
    """The target's tokenizer, after the draft's was compared with it."""
    if target.tokenizer is None:
        raise ModelLoadError(f"{target.weights.origin}: the target brings no tokenizer")
    tokenizer = target.tokenizer()
    try:
        in_every_chat = set(ChatTemplate(tokenizer, None).whole((), "?"))
    except ParameterError:  # the template fails, which a message reports later
        in_every_chat = set()
    check_embedding_fit(tokenizer, target.config.vocab_size, in_every_chat, target.name)
    if draft is None:
        return tokenizer
    # such drafts bring no tokenizer: they are made for one target
    borrows = draft.config.embeddings_from_target or draft.config.eagle3 is not None
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
            "the target's; put its tokenizer.json next to its weights"
        )
    return tokenizer


def check_embedding_fit(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, needed: Iterable[int], origin: str
) -> None:
    """Refuse a tokenizer whose ordinary text has tokens that the embedding has no row for.

    An embedding with more rows than tokens is padded, which is common. Added tokens may lie past it
    unless they are `needed`: many models name a padding token that they have no row for.
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
    """Compare the token strings of the ids that both have; others are padding."""
    target_tokens = {index: token for token, index in target.get_vocab().items()}
    draft_tokens = {index: token for token, index in draft.get_vocab().items()}
    for index in sorted(target_tokens.keys() & draft_tokens.keys()):
        if target_tokens[index] != draft_tokens[index]:
            raise TokenizerMismatchError(
                f"the draft has another tokenizer: token {index} is {target_tokens[index]!r} to "
                f"the target and {draft_tokens[index]!r} to the draft; take one of the same family"
            )
