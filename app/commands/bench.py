"""`sequoia bench`: ways to decode, side by side on the same prompts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import launch
from ..options import with_settings
from ..progress import progress_line

SCREEN_ROUNDS = 7


@with_settings
def bench(
    ctx: typer.Context,  # noqa: ARG001 read by the decorator
    flags: dict[str, Any],
    prompts: Annotated[
        str | None,
        typer.Option(help="JSON lines (turns, prompt or text) or plain lines; else built-in ones."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 6,
    tokens: Annotated[int, typer.Option(min=16, help="New tokens per prompt.")] = 128,
    hugging_face: Annotated[
        bool, typer.Option("--hugging-face/--no-hugging-face", help="Also time generate().")
    ] = True,
    screen: Annotated[
        bool, typer.Option("--screen", help="Instead, time the chat with and without its screen.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json-file", help="Write every run's figures there.")
    ] = None,
) -> None:
    """Time plain decoding, the tree, a chain and Hugging Face generate side by side."""
    from ..settings import load_settings

    settings = load_settings(flags)
    params = settings.chat().sampling()
    if screen:
        typer.echo(_screen(prompts, count, {**flags, "max_new_tokens": tokens}))
        return
    with progress_line() as progress:
        from sequoia_core.bench import BenchPlan, measure

        pair = launch.load_chosen(settings, progress)
        plan = BenchPlan(
            prompts=prompts,
            count=count,
            tokens=tokens,
            temperature=params.temperature,
            hugging_face=hugging_face,
            source=launch.chosen_models(settings).target,
        )
        report, values = measure(pair, plan, progress)
    typer.echo(report)
    if json_file is not None:
        json_file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def _screen(prompts: str | None, count: int, flags: Mapping[str, Any]) -> str:
    with progress_line() as progress:
        from sequoia_core.bench.prompts import load_prompts

        from ..screen_bench import measure_screen

        return measure_screen(load_prompts(prompts, count), flags, SCREEN_ROUNDS, progress)
