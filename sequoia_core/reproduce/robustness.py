"""Tokens per step of several rules over temperature and top-p, on one fixed tree.

Nothing is timed, so the machine may be busy. All rules decode the same prompts with the same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from sequoia_core.decode.step import Speculator
from sequoia_core.decode.token_cache import TokenCache
from sequoia_core.errors import ParameterError
from sequoia_core.events import Progress
from sequoia_core.files import encode
from sequoia_core.measure.draft_nucleus import DraftNucleus
from sequoia_core.reproduce.bootstrap import LEVEL
from sequoia_core.reproduce.experiment import (
    Experiment,
    Report,
    ReportTable,
    ResultFile,
    growmap_values,
    prompt_digest,
    required_draft,
)
from sequoia_core.reproduce.rule_comparison import (
    FIRST,
    Cell,
    PromptCount,
    RuleComparison,
    Sweep,
)
from sequoia_core.speculate.draft import DraftModel

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

_VERSION = 1
_CHANGED = {"pair": "another pair", "parents": "another growmap"}


class RobustnessExperiment(Experiment):
    """Decodes prompts in every cell of a sweep.

    More prompts, temperatures or nucleus masses may be added to a file; the rest must not change.

    Args:
        pair: with a draft.
        sweep: what is decoded.
        prompts: token ids, two different ones or more.
        path: of the result file.

    Raises:
        ParameterError: there is no draft, too few prompts or too little room, or the file is of
            another sweep or pair.
        SequoiaError: the file cannot be read or written.
    """

    file: ResultFile[PromptCount]

    def __init__(
        self, pair: Pair, sweep: Sweep, prompts: Sequence[tuple[int, ...]], path: Path
    ) -> None:
        self._pair, self._sweep = pair, sweep
        self._prompts = list(dict.fromkeys(prompts))
        if len(self._prompts) < 2:
            raise ParameterError("one prompt says nothing about noise; take two or more, see --end")
        draft = DraftModel(required_draft(pair), pair.draft_vocab_ids)
        self._check_room(min(pair.target.context_window, draft.model.context_window))
        self._nucleus = DraftNucleus(sweep.draft_top_p)
        self._cache = TokenCache(pair.target, draft.model)
        self._speculator = Speculator(pair.target, draft, self._cache)
        head = {
            "version": _VERSION,
            "pair": pair.fingerprint,
            "parents": list(sweep.growmap.parents),
            "tokens": sweep.tokens,
            "seed": sweep.seed,
            "draft_top_p": sweep.draft_top_p,
        }
        self.file = ResultFile(path, head, PromptCount, _CHANGED)

    def _check_room(self, window: int) -> None:
        prompt, tokens = max(map(len, self._prompts)), self._sweep.tokens
        nodes = self._sweep.growmap.size
        if prompt + tokens + nodes > window:
            raise ParameterError(
                f"{prompt} tokens of prompt, {tokens} after it and a tree of {nodes} nodes are "
                f"more than the context window of {window}"
            )

    @override
    def run(self, progress: Progress) -> None:
        cells = self._sweep.cells()
        known = {(count.cell, count.prompt) for count in self.file.rows}
        for at, (ids, cell) in enumerate(product(self._prompts, cells)):
            if (cell, prompt_digest(ids)) in known:
                continue
            progress(
                f"Prompt {at // len(cells) + 1} of {len(self._prompts)}: {cell.rule.value}, "
                f"temperature {cell.temperature:g}, top-p {cell.top_p:g}",
                at / (len(self._prompts) * len(cells)),
            )
            self.file.add(self.count(cell, ids))

    def count(self, cell: Cell, prompt_ids: Sequence[int]) -> PromptCount:
        """Decode one prompt in one cell, without events, text or clocks, which would cost more.

        Whole paths are counted, also the last one's part beyond the limit. Whether a step is the
        last is known before it is drawn, so the mean over whole steps is that of a step; cut at the
        limit it would be lower.
        """
        params = self._sweep.sampling(cell, prompt_ids)
        sampler = self._nucleus.sampler(params, self._pair.target.device, cell.rule)
        self._cache.start(prompt_ids)
        for _ in self._cache.read_prompt():
            pass
        tokens = steps = 0
        while tokens < self._sweep.tokens:
            scored, verdict = self._speculator.step(self._sweep.growmap, sampler)
            emitted = scored.emitted(verdict.path, verdict.bonus_token)
            self._speculator.commit(scored, verdict.path, emitted)
            tokens += len(emitted)
            steps += 1
        return PromptCount(
            cell.rule, cell.temperature, cell.top_p, prompt_digest(prompt_ids), tokens, steps
        )

    @override
    def report(self) -> Report:
        from sequoia_core.reproduce.pictures import draw_rules

        wanted = set(map(prompt_digest, self._prompts))
        counts = [count for count in self.file.rows if count.prompt in wanted]
        sweep, comparison = self._sweep, RuleComparison.of(self._sweep, counts)
        values = {
            "growmap": growmap_values(sweep.growmap),
            "tokens": sweep.tokens,
            "seed": sweep.seed,
            "draft_top_p": sweep.draft_top_p,
            "pair": encode(self._pair.description),
            "interval": LEVEL,
            "first": FIRST.value,
            **encode(comparison),
            "behind": [
                {"temperature": each.temperature, "top_p": each.top_p, "rule": rule.value}
                for each, rule in comparison.behind
            ],
        }
        draw = partial(draw_rules, comparison=comparison)
        return Report((_table(comparison),), _summary(sweep, comparison), values, draw)


def _table(comparison: RuleComparison) -> ReportTable:
    first = comparison.settings[0]
    leads = [f"over {rule.value}" for rule in first.ahead]
    headings = ("top-p", "T", *(rule.value for rule in first.tokens_per_step), *leads)
    rows = tuple(
        (
            f"{each.top_p:g}",
            f"{each.temperature:g}",
            *(f"{rate.value:.2f}" for rate in each.tokens_per_step.values()),
            *(f"{lead.value:+.2f} ± {lead.high - lead.value:.2f}" for lead in each.ahead.values()),
        )
        for each in comparison.settings
    )
    return ReportTable(headings, rows)


def _summary(sweep: Sweep, comparison: RuleComparison) -> str:
    overall = ", ".join(
        f"{lead.value:+.3f} over {rule.value} ({lead.low:+.3f} to {lead.high:+.3f})"
        for rule, lead in comparison.overall_ahead.items()
    )
    behind = ", ".join(
        f"{rule.value} at temperature {each.temperature:g}, top-p {each.top_p:g}"
        for each, rule in comparison.behind
    )
    return (
        f"tokens/step of {sweep.growmap.name}, {comparison.prompts} prompts of {sweep.tokens} "
        "tokens\n"
        "leads of sequoia on the same prompts and seeds; all intervals hold at once with 95 %\n"
        f"mean lead over all settings: {overall}\n"
        f"sequoia is above in {comparison.leads} of {comparison.comparisons} comparisons beyond "
        f"the noise, below {behind or 'in none'}; its figure is the lower one in {comparison.lower}"
    )
