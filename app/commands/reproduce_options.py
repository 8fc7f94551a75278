"""The published release's flags under their own names, each declared once.

Owns names, long aliases and help texts of what the commands that reproduce it share. `--model` is
the draft there, so these commands take it as another name of `--draft`.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import MODEL_OPTIONS, with_only

SEED = 17
"""The release's."""
TEMPERATURE = 0.6
TOP_P = 0.9
"""The release's; its README passes 1."""
DRAFT_TOP_P = 1.0
"""The release's testbeds draw children from the whole of the draft's distribution."""

_MODELS = "Models"
_DATA = "Data"
_SAMPLING = "Sampling"
_TREE = "Tree"
_RESULTS = "Results"


def _flag(names: str, text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(
        *names.split(), help=text, rich_help_panel=panel, show_default=False, metavar=metavar
    )


Draft = Annotated[
    str | None,
    _flag("--model --draft", "The draft: hub id or directory.", _MODELS, "MODEL"),
]
Offloading = Annotated[
    bool,
    _flag("--offloading", "As --offload cpu; as --offload disk where there is no GPU.", _MODELS),
]
Dataset = Annotated[
    str | None,
    _flag(
        "--dataset",
        "cnn, openwebtext, c4, wiki, mt-bench; a .jsonl or .txt file or `datasets` folder; "
        "default: built-in prompts.",
        _DATA,
        "NAME|PATH",
    ),
]
Start = Annotated[int, _flag("--start", "First row of the data; default 0.", _DATA)]
End = Annotated[int, _flag("--end", "Row after the last; default 200.", _DATA)]
Temperature = Annotated[
    float, _flag("--T --temperature", "0 is greedy; default 0.6.", _SAMPLING, "NUMBER")
]
TopP = Annotated[
    float,
    _flag("--P --top-p", "Nucleus mass, above 0 and at most 1; default 0.9.", _SAMPLING, "NUMBER"),
]
DraftTopP = Annotated[
    float,
    _flag(
        "--DP --draft-top-p",
        "The draft's nucleus mass; default: the target's, in testbeds 1.",
        _SAMPLING,
        "NUMBER",
    ),
]
Tokens = Annotated[
    int, _flag("--tokens", "Decoded after each prompt; default 128.", _DATA, "NUMBER")
]
Seed = Annotated[int, _flag("--seed", "Of all draws; default 17.", _SAMPLING)]
Growmap = Annotated[
    str | None,
    _flag(
        "--growmap",
        "Tree shape: a .json or .pt file, or a name; default: the pair's own.",
        _TREE,
        "FILE|NAME",
    ),
]
CacheLength = Annotated[
    int | None,
    _flag(
        "--M --cache-length",
        "Most tokens of text and tree in the KV cache; default: what is needed.",
        _TREE,
    ),
]
Width = Annotated[int, _flag("--W --width", "Most children of a node.", _TREE)]
Depth = Annotated[int, _flag("--D --depth", "Levels of the tree below its root.", _TREE)]
Config = Annotated[
    Path | None, _flag("--config", "The release's search config, JSON.", _TREE, "FILE")
]
Destination = Annotated[
    Path | None, _flag("--dst", "Where the result is written.", _RESULTS, "FILE")
]
AsJson = Annotated[bool, _flag("--json", "One JSON object on standard output.", _RESULTS)]
Picture = Annotated[
    Path | None, _flag("--picture", "Draw it there, .svg or .png.", _RESULTS, "FILE")
]


def with_models(command: Callable[..., None]) -> Callable[..., None]:
    """Add what says which models are loaded and where; `--model` is the draft.

    The command's first two parameters are the `typer.Context` and the mapping that
    `settings.load_settings` takes, with all of them in it.
    """

    @functools.wraps(command)
    def folded(ctx: typer.Context, flags: dict[str, Any], **arguments: Any) -> None:
        draft, offloading = arguments.pop("draft"), arguments.pop("offloading")
        if draft is not None:
            flags["draft"] = draft
        if offloading and "offload" not in flags:
            flags["offload"] = offload_place(flags)
        command(ctx, flags, **arguments)

    own = list(inspect.signature(command).parameters.values())
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("draft", keyword, default=None, annotation=Draft),
        inspect.Parameter("offloading", keyword, default=False, annotation=Offloading),
    ]
    kept = [*own[:2], *(each.replace(kind=keyword) for each in own[2:])]
    folded.__signature__ = inspect.Signature([*kept, *added])  # type: ignore[attr-defined]
    return with_only(*MODEL_OPTIONS)(folded)


def offload_place(flags: dict[str, Any]) -> str:
    """Where a target's layers wait: beside a GPU in memory, beside a CPU on disk."""
    from sequoia_core.model.device import choose_devices

    from ..config.load import load_settings

    device, *_others = choose_devices(load_settings(flags).device)
    return "disk" if device.type == "cpu" else "cpu"
