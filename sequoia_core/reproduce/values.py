"""Findings as plain values for machines: what was asked for, the figures, and every run.

Owns the names of the JSON objects that `sequoia reproduce` prints.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sequoia_core.files import encode
from sequoia_core.reproduce.experiment import PLAIN, Experiment, ExperimentRun, Findings
from sequoia_core.reproduce.resampling import LEVEL
from sequoia_core.reproduce.standing import FIRST

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.reproduce.robustness import Sweep
    from sequoia_core.reproduce.standing import Setting, Study
    from sequoia_core.tree.growmap import GrowMap


def experiment_values(run: ExperimentRun, findings: Findings) -> dict[str, Any]:
    """What a testbed measured; `systems` and `runs` are by `plain` and `tree`."""
    wanted = run.experiment
    return {
        **_asked(wanted),
        "pair": encode(run.pair.description),
        "threads": run.pair.description.threads,
        "prompts": findings.prompts,
        "prompts_asked": len(run.prompts),
        "interval": LEVEL,
        "systems": {name: asdict(findings.figures(name)) for name in findings.runs},
        "split_ms": findings.split.parts if findings.split else None,
        "runs": {name: [asdict(each) for each in runs] for name, runs in findings.runs.items()},
    }


def _asked(wanted: Experiment) -> dict[str, Any]:
    params = wanted.params
    return {
        "measured": wanted.measured.value,
        "rule": wanted.rule.value,
        "growmap": None if wanted.systems == (PLAIN,) else growmap_values(wanted.growmap),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "draft_top_p": wanted.draft_top_p,
        "seed": params.seed,
        "tokens": params.max_new_tokens,
    }


def study_values(pair: Pair, sweep: Sweep, study: Study) -> dict[str, Any]:
    """What the robustness study counted."""
    return {
        "growmap": growmap_values(sweep.growmap),
        "tokens": sweep.tokens,
        "seed": sweep.seed,
        "draft_top_p": sweep.draft_top_p,
        "pair": encode(pair.description),
        "prompts": study.prompts,
        "interval": LEVEL,
        "first": FIRST.value,
        "settings": [_setting_values(setting) for setting in study.settings],
        "overall_ahead": {rule.value: asdict(lead) for rule, lead in study.overall.items()},
        "behind": [
            {"temperature": each.temperature, "top_p": each.top_p, "rule": rule.value}
            for each, rule in study.behind
        ],
    }


def _setting_values(setting: Setting) -> dict[str, Any]:
    return {
        "temperature": setting.temperature,
        "top_p": setting.top_p,
        "tokens_per_step": {rule.value: asdict(rate) for rule, rate in setting.rates.items()},
        "ahead": {rule.value: asdict(lead) for rule, lead in setting.ahead.items()},
    }


def growmap_values(growmap: GrowMap) -> dict[str, Any]:
    """A tree by its figures."""
    return {"name": growmap.name, "nodes": growmap.size, "depth": growmap.depth}
