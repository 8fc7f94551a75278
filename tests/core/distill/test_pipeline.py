"""A distillation can be killed anywhere and ends the same; what cannot work is said at once."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.distill import target as target_module
from sequoia_core.distill.options import Options, options_for
from sequoia_core.distill.pipeline import WORK, Distillation
from sequoia_core.distill.student import Student
from sequoia_core.distill.target import DistillTarget, spread_layers
from sequoia_core.errors import ModelLoadError, ParameterError, SequoiaError
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import save_model, tiny_tokenizer
from tests.core.distill.runs import TINY_RUN, load_text, run, run_until_killed, tiny_target
from tests.core.families import save_family

KILLED = -9
STAGES = ["writing text", "training", "measuring"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module", params=["independent", "conditioned"])
def whole(
    request: pytest.FixtureRequest, target: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Mapping[str, Any], Path]:
    """What was asked for, and the directory of a run that nobody interrupted."""
    given = {**TINY_RUN, "target": target, "kind": request.param}
    out = tmp_path_factory.mktemp("out") / "draft"
    assert [stage for stage, _ in run(out, given)] == STAGES
    return given, out


def begin(out: Path, given: Mapping[str, Any]) -> None:
    """Run to the first report."""
    next(Distillation(options_for(out / WORK, given, False), out).run())


def weights(out: Path) -> dict[str, bytes]:
    tensors = load_file(out / "model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def corpus(out: Path) -> list[bytes]:
    text = load_text(out / WORK / "text.npz")
    return [array.tobytes() for array in (text.tokens, text.offsets, text.answers)]


def test_killed_in_every_stage_it_ends_with_the_same_weights(
    whole: tuple[Mapping[str, Any], Path], tmp_path: Path
) -> None:
    given, reference = whole
    out, resume = tmp_path / "draft", False
    for stage, report in zip(STAGES, (40, 3, 1), strict=True):
        assert run_until_killed(out, given, resume, (stage, report)) == KILLED
        assert not (out / "model.safetensors").exists()
        resume = True
    with pytest.raises(ParameterError, match="--resume"):
        run(out, given)
    left = run(out, {}, resume=True)
    assert [stage for stage, _ in left] == ["measuring"]
    assert corpus(out) == corpus(reference)
    assert weights(out) == weights(reference)
    assert (out / "config.json").read_bytes() == (reference / "config.json").read_bytes()
    assert run(out, {}, resume=True) == []
    with pytest.raises(ParameterError, match="finished"):
        run(out, given)


def test_what_was_done_before_a_kill_is_not_done_again(target: str, tmp_path: Path) -> None:
    given = {**TINY_RUN, "target": target}
    out = tmp_path / "draft"
    assert run_until_killed(out, given, False, ("training", 4)) == KILLED
    # the third step was saved before the fourth was reported
    assert run(out, {}, resume=True)[0] in {("training", 3), ("training", 2)}


def check_that_it_decodes(given: Mapping[str, Any], out: Path) -> None:
    pair = load_pair(given["target"], str(out), device="cpu", dtype="float32")
    assert pair.draft is not None
    assert pair.draft.vocab_size == given["head_vocab"]
    assert set(pair.acceptance_rates) == {"greedy", "stochastic"}
    engine = Engine.of(pair, BundledAdvisor(pair.acceptance_rates))
    texts = []
    for choice in (TreeChoice(Mode.SEQUOIA, GrowMap.k_ary([3, 2])), TreeChoice(Mode.AR)):
        engine.tree_choice = choice
        list(engine.generate([1, 20, 30], SamplingParams(0.0, max_new_tokens=40)))
        texts.append(list(engine.token_ids))
    assert len(texts[0]) > 10
    assert texts[0] == texts[1]


def test_a_draft_decodes_with_its_target(whole: tuple[Mapping[str, Any], Path]) -> None:
    check_that_it_decodes(*whole)


@pytest.mark.parametrize("variant", ["gemma2", "phi3"])
def test_so_does_one_of_another_family(variant: str, tmp_path: Path) -> None:
    save_family(tmp_path / "target", variant, max_position_embeddings=128)
    tiny_tokenizer(first="a").save_pretrained(tmp_path / "target")
    given = {**TINY_RUN, "target": str(tmp_path / "target"), "kind": "conditioned"}
    run(tmp_path / "draft", given)
    check_that_it_decodes(given, tmp_path / "draft")


def test_all_files_of_a_draft_have_the_mode_that_the_umask_gives(
    whole: tuple[Mapping[str, Any], Path],
) -> None:
    _, out = whole
    plain = out.parent / "plain"
    plain.touch()
    names = ("model.safetensors", "config.json", "README.md")
    assert {(out / name).stat().st_mode for name in names} == {plain.stat().st_mode}


def test_another_seed_is_another_text_and_the_same_seed_the_same(
    target: str, tmp_path: Path
) -> None:
    texts = []
    for name, seed in (("one", 1), ("two", 2), ("again", 1)):
        out = tmp_path / name
        given = {**TINY_RUN, "target": target, "seed": seed}
        stages = Distillation(options_for(out / WORK, given, False), out).run()
        assert any(status.stage == "training" for status in stages)
        texts.append(corpus(out))
    assert texts[0] == texts[2] != texts[1]


def test_given_text_is_learnt_from_and_added_to(target: str, tmp_path: Path) -> None:
    out, text = tmp_path / "one", tmp_path / "text.npz"
    run(out, {**TINY_RUN, "target": target})
    first = load_text(out / WORK / "text.npz")
    np.savez(text, tokens=first.tokens, offsets=first.offsets)  # its answers are found again
    more = {**TINY_RUN, "target": target, "text": str(text), "tokens": len(first.tokens) + 600}
    run(tmp_path / "two", more)
    second = load_text(tmp_path / "two" / WORK / "text.npz")
    begun = second.select(range(len(first)))
    assert np.array_equal(begun.tokens, first.tokens)
    assert np.array_equal(begun.answers, first.answers)
    assert len(second.tokens) >= len(first.tokens) + 400
    firsts = {tuple(ids.tolist()) for ids, _ in first}
    later = range(len(first), len(second))
    assert not firsts & {tuple(second[at][0].tolist()) for at in later}


def test_minutes_bound_text_and_training(target: str, tmp_path: Path) -> None:
    out = tmp_path / "draft"
    given = {**TINY_RUN, "target": target, "tokens": 10**6, "steps": 10**6, "minutes": 0.05}
    run(out, given)
    assert 0 < len(load_text(out / WORK / "text.npz").tokens) < 10**6
    steps = json.loads((out / WORK / "steps.json").read_text())["steps"]
    assert 1 <= steps < 10**6


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"seed": 6}, "--seed 5, not 6"),
        ({"kind": "conditioned"}, "--kind independent"),
        ({"head_vocab": 41}, "--head-vocab 40"),
    ],
)
def test_other_options_are_not_resumed_with(
    target: str, tmp_path: Path, changed: Mapping[str, Any], says: str
) -> None:
    out = tmp_path / "draft"
    given = {**TINY_RUN, "target": target}
    begin(out, given)
    with pytest.raises(ParameterError, match=says):
        options_for(out / WORK, {**given, **changed}, True)
    assert options_for(out / WORK, given, True) == options_for(out / WORK, {}, True)


def test_how_to_train_may_be_changed_until_training_begins(target: str, tmp_path: Path) -> None:
    out = tmp_path / "draft"
    given = {**TINY_RUN, "target": target}
    assert run_until_killed(out, given, False, ("writing text", 20)) == KILLED
    assert run_until_killed(out, {"steps": 2}, True, ("training", 1)) == KILLED
    for steps in (6, 3):
        with pytest.raises(ParameterError, match=f"--steps 2, not {steps}"):
            options_for(out / WORK, {"steps": steps}, True)
    run(out, {}, resume=True)
    anew = tmp_path / "anew"
    run(anew, {**given, "steps": 2})
    assert weights(out) == weights(anew)


def test_files_that_changed_are_not_resumed_with(target: str, tmp_path: Path) -> None:
    out, prompts = tmp_path / "draft", tmp_path / "prompts.txt"
    prompts.write_text("abc\n")
    given = {**TINY_RUN, "target": target, "data": str(prompts)}
    begin(out, given)
    prompts.write_text("abd\n")
    with pytest.raises(ParameterError, match="has changed"):
        options_for(out / WORK, {}, True)
    prompts.unlink()
    with pytest.raises(ParameterError, match="cannot be read"):
        options_for(out / WORK, {}, True)


def test_what_another_version_began_is_not_resumed(target: str, tmp_path: Path) -> None:
    out = tmp_path / "draft"
    begin(out, {**TINY_RUN, "target": target})
    plan = json.loads((out / WORK / "plan.json").read_text())
    for other in ({**plan, "format": plan["format"] - 1}, {**plan, "format": None}):
        (out / WORK / "plan.json").write_text(json.dumps(other))
        with pytest.raises(ParameterError, match="another version") as error:
            options_for(out / WORK, {}, True)
        assert "\n" not in str(error.value)


def test_labels_that_would_fill_the_disk_are_refused_beforehand(
    target: str, tmp_path: Path
) -> None:
    given = {**TINY_RUN, "target": target, "tokens": 10**13}
    with pytest.raises(ParameterError, match="take fewer --tokens"):
        run(tmp_path / "out", given)


def test_rows_follow_from_the_longest_conversation_and_prompt_that_are_given(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = list(DistillTarget.of(Options(target=target)).template.header)
    conversations = [[1, *header, *range(20, 20 + length), 2] for length in (5, 70, 9)]
    offsets = np.cumsum([0, *map(len, conversations[:-1])])
    tokens = np.array([*chain(*conversations)], np.uint16)
    np.savez(tmp_path / "text.npz", tokens=tokens, offsets=offsets)
    seen: list[int] = []

    def rows_for(*given: Any) -> int:
        seen.append(given[-1])
        return 16

    monkeypatch.setattr("sequoia_core.distill.pipeline.rows_for", rows_for)
    given = {**TINY_RUN, "target": target, "text": str(tmp_path / "text.npz")}
    out = tmp_path / "out"
    begin(out, given)
    assert seen == [128]  # the context window: what the target adds may be longer than the text
    (tmp_path / "prompts.txt").write_text("Why?\n")
    given["data"], out = str(tmp_path / "prompts.txt"), tmp_path / "answers"
    begin(out, given)
    assert seen[1] == 128


def test_a_target_that_changed_is_not_resumed_with(tmp_path: Path) -> None:
    out, folder = tmp_path / "draft", tmp_path / "target"
    folder.mkdir()
    given = {**TINY_RUN, "target": tiny_target(folder)}
    begin(out, given)
    file = next(folder.rglob("*.safetensors"))
    tensors = load_file(file)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, file, {"format": "pt"})
    with pytest.raises(ParameterError, match="changed since"):
        next(Distillation(options_for(out / WORK, {}, True), out).run())


def test_a_directory_is_never_written_over(target: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="nothing to resume"):
        options_for(tmp_path / "none" / WORK, {}, True)
    (tmp_path / "mine").write_text("dear diary")
    with pytest.raises(ParameterError, match="not empty"):
        options_for(tmp_path / WORK, {}, False)
    with pytest.raises(ParameterError, match="not empty"):
        options_for(tmp_path / "mine" / WORK, {}, False)
    (tmp_path / "out" / WORK).mkdir(parents=True)
    (tmp_path / "out" / WORK / "plan.json").write_text("{")
    with pytest.raises(ParameterError, match="damaged"):
        options_for(tmp_path / "out" / WORK, {}, True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tokens": 5}, "--tokens is 5"),
        ({"steps": 0}, "--steps is 0"),
        ({"minutes": 0.0}, "--minutes"),
        ({"minutes": float("nan")}, "--minutes"),
        ({"seed": -1}, "--seed"),
        ({"head_vocab": 1}, "--head-vocab"),
        ({"bits": 5}, "--bits is 5; give 4 or 8"),
        ({"data": "/nowhere"}, "cannot be read"),
        ({"text": "/nowhere"}, "cannot be read"),
    ],
)
def test_values_out_of_range_are_refused(
    tmp_path: Path, given: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(ParameterError, match=says):
        options_for(tmp_path / "out" / WORK, given, False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stated", "count", "chosen"),
    [
        ("4", 30, (0, 1, 2, 3)),
        ("1", 30, (0,)),
        ("3", 30, (0, 1, 2)),
        ("2", 2, (0, 1)),
        ("0,1,28,29", 30, (0, 1, 28, 29)),
        ("7,", 30, (7,)),
        (None, 30, (0, 1, 2, 3)),
    ],
)
def test_layers_are_a_number_of_them_or_which(
    stated: str | None, count: int, chosen: tuple[int, ...]
) -> None:
    assert Options(layers=stated).chosen_layers(count, 4) == chosen


@pytest.mark.parametrize("stated", ["0", "31", "-1,2", "30,1", "a", ",", "1.5", ""])
def test_layers_that_are_not_there_are_refused(stated: str) -> None:
    with pytest.raises(ParameterError, match="the target has 30"):
        Options(layers=stated or " ").chosen_layers(30, 4)


def test_hidden_states_are_read_from_layers_spread_up_to_the_last() -> None:
    assert spread_layers(30) == (9, 19, 29)
    assert spread_layers(1) == (0,)
    assert spread_layers(2) == (0, 1)


def test_bad_targets_are_refused_before_anything_is_written(
    whole: tuple[Mapping[str, Any], Path], tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    save_model(bare)
    mute = tmp_path / "mute"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    save_model(mute, tokenizer)
    other = tmp_path / "other"
    save_model(other, tiny_tokenizer())
    settings = json.loads((other / "config.json").read_text()) | {"model_type": "gpt2"}
    (other / "config.json").write_text(json.dumps(settings))
    for target, says in (
        (bare, "no tokenizer"),
        (mute, "no chat template"),
        (other, "only these are supported"),
        (whole[1], "this is a draft"),
        (tmp_path / "none", "no such file"),
    ):
        out = tmp_path / "out"
        with pytest.raises(ModelLoadError, match=says) as error:
            Distillation(options_for(out / WORK, {"target": str(target)}, False), out)
        assert "\n" not in str(error.value)
        assert not out.exists()


@pytest.mark.parametrize(
    ("variant", "has"), [("qwen2", ""), ("phi3", "fused"), ("olmo2", "norm_inputs, norm_outputs")]
)
def test_layers_that_are_no_llamas_are_not_begun_with(
    variant: str, has: str, tmp_path: Path
) -> None:
    save_family(tmp_path / "target", variant)
    tiny_tokenizer().save_pretrained(tmp_path / "target")
    changes = {"target": str(tmp_path / "target"), "kind": "independent"}
    options = options_for(tmp_path / "out" / WORK, changes, False)
    if not has:
        assert DistillTarget.of(options).layers
        return
    with pytest.raises(ParameterError, match=f"but they have {has}.*leave --kind out"):
        DistillTarget.of(options)


def test_text_of_another_target_is_refused(target: str, tmp_path: Path) -> None:
    header = list(DistillTarget.of(Options(target=target)).template.header)
    ids = np.array([1, *header, 500, 2] * 300, np.uint16)
    np.savez(tmp_path / "text.npz", tokens=ids, offsets=np.array([0]))
    given = {**TINY_RUN, "target": target, "text": str(tmp_path / "text.npz")}
    with pytest.raises(SequoiaError, match="did not write it"):
        run(tmp_path / "out", given)


def test_a_draft_can_be_gone_on_with(whole: tuple[Mapping[str, Any], Path], tmp_path: Path) -> None:
    given, first = whole
    more = {**TINY_RUN, "target": given["target"], "begin_with": str(first), "seed": 6, "steps": 4}
    del more["kind"], more["head_vocab"]
    out = tmp_path / "draft"
    options = options_for(out / WORK, more, False)
    distilled = DistillTarget.of(options)
    begun = load_file(first / "model.safetensors")
    text = [*Distillation(options, out, save_seconds=0.0).run()]
    assert [*dict.fromkeys(status.stage for status in text)] == STAGES
    made = load_file(out / "model.safetensors")
    assert {name: tensor.shape for name, tensor in made.items()} == {
        name: tensor.shape for name, tensor in begun.items()
    }
    assert torch.equal(made["draft_vocab_ids"], begun["draft_vocab_ids"])
    assert weights(out) != weights(first)
    assert distilled.initial_draft is not None
    config, ids = distilled.initial_draft.config, begun["draft_vocab_ids"].long()
    student = Student(config, torch.zeros(config.vocab_size, config.hidden_size), ids)
    student.begin_from_draft(distilled.initial_draft.weights)
    learnt = student.tensors()
    assert all(torch.equal(learnt[name], distilled.initial_draft.weights[name]) for name in learnt)
    assert f"began as those of the draft {first}" in (out / "README.md").read_text()


def test_only_a_draft_of_this_target_is_gone_on_with(
    whole: tuple[Mapping[str, Any], Path], tmp_path: Path
) -> None:
    given, first = whole
    other = tiny_target(tmp_path / "other", intermediate_size=96)
    out = tmp_path / "out"
    for target, draft, says in (
        (other, first, "is no draft that sequoia distill made for other"),
        (given["target"], Path(other), "is no draft that"),
    ):
        options = {"target": target, "begin_with": str(draft)}
        with pytest.raises(ParameterError, match=says):
            Distillation(options_for(out / WORK, options, False), out)
    with pytest.raises(ParameterError, match="cannot be read"):
        options_for(out / WORK, {"begin_with": str(tmp_path / "none")}, False)
    with pytest.raises(ParameterError, match="leave out --kind, --layers and --head-vocab"):
        options_for(out / WORK, {"begin_with": str(first), "head_vocab": 64}, False)
    assert not out.exists()


@pytest.mark.parametrize(
    ("variant", "dtype"), [("gemma2", torch.float32), ("granite", torch.float16)]
)
def test_a_target_that_can_overflow_in_float16_writes_in_float32(
    variant: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_module, "choose_dtype", lambda *_, **__: torch.float16)
    save_family(tmp_path, variant)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert DistillTarget.of(Options(target=str(tmp_path))).dtype is dtype
