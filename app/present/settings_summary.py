"""What `/show` says. Pure text; knows no widget."""

from sequoia_core.events import PairDescription, TreeChosen
from sequoia_core.tree.choice import ADAPTIVE

from ..config.chat_settings import ChatSettings


def describe(settings: ChatSettings, pair: PairDescription | None, tree: TreeChosen | None) -> str:
    """Settings, pair and tree, one entry a line."""
    seed = "random" if settings.seed is None else str(settings.seed)
    rows = [
        ("temperature", f"{settings.temperature:g}"),
        ("top_p", f"{settings.top_p:g}"),
        ("top_k", str(settings.top_k) if settings.top_k else "0 (off)"),
        ("seed", seed),
        ("max_new_tokens", str(settings.max_new_tokens)),
        ("system", settings.system or "the chat template's own default"),
        ("mode", settings.mode.value),
        ("growmap", settings.growmap),
        ("lookup", settings.lookup.value),
        ("theme", settings.theme),
        ("accessible", "on" if settings.accessible else "off"),
    ]
    return "\n".join(
        f"{name:<15} {value}" for name, value in [*rows, *_pair_rows(pair), *_tree_rows(tree)]
    )


def _pair_rows(pair: PairDescription | None) -> list[tuple[str, str]]:
    if pair is None:
        return [("pair", "still loading")]
    return [
        ("target", pair.target),
        ("draft", pair.draft or "none: plain decoding"),
        ("device", f"{pair.device}, {pair.dtype}"),
        ("context window", f"{pair.context_window} tokens"),
    ]


def _tree_rows(tree: TreeChosen | None) -> list[tuple[str, str]]:
    if tree is None:
        return [("tree", "chosen with the next answer")]
    if tree.nodes <= 1:
        return [("tree", f"none: {tree.reason or 'plain decoding'}")]
    text = f"{tree.growmap}: {tree.nodes} nodes, {tree.depth} deep"
    if tree.growmap == ADAPTIVE:
        text += " at most"
    if tree.expected_tokens is not None:
        text += f", {tree.expected_tokens:.2f} tokens/step expected"
    if tree.predicted_speedup is not None:
        text += f", {tree.predicted_speedup:.2f}x predicted"
    return [("tree", text)] + ([("", tree.reason)] if tree.reason else [])
