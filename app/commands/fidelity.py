"""`sequoia fidelity`: how near rounded weights are to the original ones."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from sequoia_core.config import GraphChoice, Offload, Quantize, WeightFormat
from sequoia_core.data.passages import (
    TOTAL_TOKENS,
    DataSpec,
    Passage,
    check_source,
    load_passages,
)
from sequoia_core.events import Progress

from ..config import model_choice
from ..config.settings import DType, Settings
from .console import print_table, progress_line
from .options import MODEL_OPTIONS, flag, with_settings

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

_MODELS, _DATA, _RESULTS = "Models", "Data", "Results"
_COMPARED = tuple(name for name in MODEL_OPTIONS if name != "draft")
_DATASETS = "As for accept: a name, a .jsonl or .txt file; default: built-in questions."
_HEADINGS = ("text", "positions", "KL mean", "KL 99 %", "KL largest", "same token")


@with_settings(*_COMPARED)
def fidelity(
    settings: Settings,
    against: Annotated[
        str | None,
        flag("--against", "The model it is compared with; default: the same.", _MODELS, "MODEL"),
    ] = None,
    reference_dtype: Annotated[
        DType, flag("--reference-dtype", "That one's number format, by PyTorch.", _MODELS)
    ] = DType.FLOAT32,
    reference_device: Annotated[
        str | None,
        flag("--reference-device", "Where it is; default: where the model is.", _MODELS, "DEVICE"),
    ] = None,
    dataset: Annotated[str | None, flag("--dataset", _DATASETS, _DATA, "NAME|PATH")] = None,
    end: Annotated[int, flag("--end", "Most texts.", _DATA)] = 200,
    tokens: Annotated[int, flag("--tokens", "Most tokens of a text.", _DATA, min=1)] = TOTAL_TOKENS,
    answers: Annotated[
        int, flag("--answers", "Tokens that the reference writes after a question.", _DATA, min=0)
    ] = 64,
    as_json: Annotated[
        bool, flag("--json", "JSON lines: a text each, then all of them.", _RESULTS)
    ] = False,
) -> None:
    """Compare a model with the unrounded one, token by token, on texts or on answers to questions.

    KL is KL(reference || model) in nats at each position; 99 % of positions are below the second
    figure. The last is how often both have the same most probable token.
    """
    check_source(dataset)
    reference = replace(
        settings,
        pair=settings.pair if against is None else None,
        target=settings.target if against is None else against,
        dtype=reference_dtype,
        device=reference_device or settings.device,
        weights=WeightFormat.TORCH,
        quantize=Quantize.NONE,
        offload=Offload.NONE,
        graphs=GraphChoice.OFF,
    )
    with progress_line(quiet=as_json) as progress:
        model, original = (_alone(each, progress) for each in (settings, reference))
        from sequoia_core.measure.fidelity import check_comparable

        check_comparable(model, original)
        data = DataSpec(dataset, end=end)
        texts = list(_texts(original, load_passages(data, original.tokenizer, tokens), answers))
        rows = list(_rows((model, original), texts, progress))
    if as_json:
        head = {"model": _name(model), "reference": _name(original)}
        for name, figures in rows:
            typer.echo(json.dumps({**head, "text": name, **figures}))
        return
    typer.echo(f"{_name(model)}, against {_name(original)}")
    cells = [[name, *map(_shown, figures, figures.values())] for name, figures in rows]
    print_table(_HEADINGS, cells, right=_HEADINGS[1:])


def _alone(settings: Settings, progress: Progress) -> "Pair":
    return model_choice.load_chosen(replace(settings, draft="none"), progress)


def _texts(reference: "Pair", passages: list[Passage], answers: int) -> Iterator[Sequence[int]]:
    from sequoia_core.measure.fidelity import with_answer

    for each in passages:
        most = answers if each.is_question else 0
        yield with_answer(reference.target, each.token_ids, most, reference.eos_token_ids)


def _rows(
    pairs: "tuple[Pair, Pair]", texts: list[Sequence[int]], progress: Progress
) -> Iterator[tuple[str, dict[str, float]]]:
    from sequoia_core.measure.fidelity import Distances, divergences

    parts = []
    for part in divergences(pairs[0].target, pairs[1].target, texts):
        parts.append(part)
        progress("Comparing", len(parts) / len(texts))
        yield str(len(parts)), part.figures
    yield "all", Distances.of_all(parts).figures


def _name(pair: "Pair") -> str:
    return f"{pair.description.target} in {pair.description.dtype}"


def _shown(name: str, value: float) -> str:
    if name == "positions":
        return str(value)
    return f"{value:.1%}" if name == "same_argmax" else f"{value:.5f}"
