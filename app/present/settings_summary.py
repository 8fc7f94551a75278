"""The text of `/show`."""

from sequoia_core.events import PairDescription, TreeChosen
from sequoia_core.tree.choice import ADAPTIVE

from ..config.settings import CHAT_SETTINGS, Settings, shown


def value_text(settings: Settings, name: str) -> str:
    """The value of a setting that `/set` changes, as it is shown."""
    return shown(getattr(settings, name)) or CHAT_SETTINGS[name].unset


def describe(settings: Settings, pair: PairDescription | None, tree: TreeChosen | None) -> str:
    """Settings, pair and tree, one entry a line."""
    rows = [(name, value_text(settings, name)) for name in CHAT_SETTINGS]
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
