"""Training: nothing depends on when it was interrupted, and it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sequoia_core.distill.corpus import Corpus
from sequoia_core.distill.draft_figures import measure_agreement
from sequoia_core.distill.shards import LabelledConversation, LabelledText, Shards
from sequoia_core.distill.student import Student, student_config
from sequoia_core.distill.train_loop import Batches, TrainLoop, TrainPlan, schedule
from sequoia_core.model.llama import Llama
from tests.core.models import random_weights, tiny_config

CPU = torch.device("cpu")
CONFIG = tiny_config(num_layers=3, vocab_size=24, head_vocab_size=24)
WEIGHTS = random_weights(CONFIG, 5)
FEATURES = (0, 2)
VOCAB_IDS = torch.tensor(sorted({*range(0, 24, 2), 3, 5, 7}))


def made_corpus(seed: int = 0, conversations: int = 30) -> Corpus:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(conversations):
        length = int(rng.integers(4, 40))
        marks = np.arange(length) >= length // 3
        rows.append((rng.integers(0, 24, length).tolist(), marks.tolist()))
    return Corpus.of(rows, 24)


CORPUS = made_corpus()


def labelled(folder: Path, features: tuple[int, ...] = FEATURES) -> LabelledText:
    """The corpus with soft labels."""
    model, shards = Llama(CONFIG, WEIGHTS, CPU, torch.float32, features), Shards(folder, 24)
    for index in range(len(CORPUS)):
        (tokens, answers), cache = CORPUS[index], model.new_cache()
        ids = torch.from_numpy(tokens.astype(np.int64))
        logits = model.forward(ids, torch.arange(len(ids)), None, cache)[:-1]
        top = torch.softmax(logits[answers[1:]], -1).topk(6)
        text = ids.tolist(), answers.tolist()
        states = cache.features(0, len(ids) - 1)
        shards.add(index, LabelledConversation.of(text, (top.indices, top.values), states, 24))
    shards.save()
    return shards.text(len(CORPUS.tokens))


def student(features: tuple[int, ...] = FEATURES) -> Student:
    config = student_config(CONFIG, 1, len(VOCAB_IDS), features)
    made = Student(config, WEIGHTS["model.embed_tokens.weight"], VOCAB_IDS)
    made.begin_from_target(WEIGHTS, CONFIG, [2], seed=1)
    return made


def test_every_conversation_comes_once_an_epoch(tmp_path: Path) -> None:
    plan = TrainPlan(batch_tokens=64, longest=32)
    chosen = [at for at in range(len(CORPUS)) if at % 4]
    batches = Batches(labelled(tmp_path), VOCAB_IDS, plan, chosen)
    for epoch in (0, 1, 2):
        grouped = batches._epoch(epoch)
        assert sorted(index for batch in grouped for index in batch) == chosen
    assert batches._epoch(0) != batches._epoch(1)


def test_a_batch_holds_what_the_target_thinks_of_answers(tmp_path: Path) -> None:
    plan = TrainPlan(batch_tokens=200, longest=32)
    text = labelled(tmp_path)
    batch = Batches(text, VOCAB_IDS, plan).of([4, 9])
    assert batch.features is not None
    for row, index in enumerate([4, 9]):
        (ids, answers), labels = CORPUS[index], text.conversation(index)
        length = min(len(ids), 32)
        assert batch.tokens[row, :length].tolist() == ids[:32].tolist()
        wanted = answers[1 : length + 1].tolist()[: length - 1]
        assert batch.learnt[row, : length - 1].tolist() == wanted
        assert not batch.learnt[row, length - 1 :].any()
        assert not batch.features[row, 0].any()
        assert torch.equal(batch.features[row, 1:length], labels.features[: length - 1])
        places = batch.learnt[row].nonzero().flatten().tolist()
        for at, tokens, probs in zip(places, labels.top_ids, labels.top_probs, strict=False):
            for k in range(6):
                token = int(tokens[k])
                known = token in VOCAB_IDS.tolist()
                assert batch.probs[row, at, k] == (probs[k] if known else 0)
                if known:
                    assert VOCAB_IDS[batch.columns[row, at, k]] == token


@pytest.mark.parametrize("features", [(), FEATURES])
def test_a_training_that_was_left_ends_with_the_same_weights(
    tmp_path: Path, features: tuple[int, ...]
) -> None:
    plan = TrainPlan(batch_tokens=200, unroll=2 if features else 1)
    text = labelled(tmp_path / "shards", features)

    def training(name: str) -> tuple[Student, TrainLoop]:
        made = student(features)
        return made, TrainLoop(made, Batches(text, VOCAB_IDS, plan), tmp_path / name)

    whole, run = training("whole.pt")
    assert [run.step for _ in run.run(9)] == list(range(1, 10))
    _, run = training("parts.pt")
    for _ in run.run(9, save_seconds=0.0):
        if run.step == 4:
            break  # step 4 is done and saved; now the process dies
    resumed, run = training("parts.pt")
    first = run.step + 1
    assert [run.step for _ in run.run(9)] == list(range(first, 10))
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name


@pytest.mark.parametrize("loss", ["kl", "tv", "mix"])
def test_training_raises_agreement_with_the_target(tmp_path: Path, loss: str) -> None:
    plan = TrainPlan(loss=loss, unroll=2, batch_tokens=400)
    made = student()
    batches = Batches(labelled(tmp_path / "shards"), VOCAB_IDS, plan)
    everything = [batches.of(list(range(len(CORPUS))))]
    before = measure_agreement(made, everything, 2)
    list(TrainLoop(made, batches, tmp_path / "checkpoint.pt").run(60))
    after = measure_agreement(made, everything, 2)
    assert after.overlap[0] > before.overlap[0] + 0.05
    assert after.overlap[1] > before.overlap[1] + 0.05
    assert after.tokens_per_step > before.tokens_per_step


def test_rates_count_the_targets_choice_by_rank(tmp_path: Path) -> None:
    plan = TrainPlan(batch_tokens=400)
    batches = Batches(labelled(tmp_path), VOCAB_IDS, plan)
    made, batch = student(), batches.of([1, 2, 3])
    found = measure_agreement(made, [batch], 1)
    (state,) = made.unrolled(batch.tokens, batch.features, [len(batch.tokens)])
    with torch.autocast("cpu", torch.bfloat16):
        (state,) = made.unrolled(batch.tokens, batch.features, [len(batch.tokens)])
        logits = made.head(state).float()
    hits = [0] * 8
    for row, at in batch.learnt.nonzero().tolist():
        order = logits[row, at].argsort(descending=True)[:8].tolist()
        wanted = int(batch.columns[row, at, 0])
        if batch.probs[row, at, 0] > 0 and wanted in order:
            hits[order.index(wanted)] += 1
    assert found.positions == int(batch.learnt.sum())
    assert found.rates[0] == pytest.approx([count / found.positions for count in hits])


def test_the_schedule_climbs_and_then_falls_to_a_tenth() -> None:
    rates = [schedule(step, 200) for step in range(200)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[top] == 1.0
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
