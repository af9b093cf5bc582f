"""Rounds are what one gets by hand with the public calls, however often they are interrupted."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rounds.round_examples import DEV, SEARCH, TRAINING, K, arguments, dev, make_retriever, make_teacher, overlap
from sample_corpus import QRELS
from teachers.reranker_models import save_cross_encoder
from transformers import DataCollatorForSeq2Seq, TrainerCallback

from dgr_trainer import (
    CrossEncoderTeacher,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    FunctionTeacher,
    pairs_from_candidates,
    write_report,
)
from dgr_trainer.reporting.training_runs import read_folders
from dgr_trainer.retrieval import search_engine
from dgr_trainer.rounds import distil_in_rounds, loop, train_generation_in_rounds
from dgr_trainer.rounds.history import Round
from dgr_trainer.rounds.stages import as_dataset

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
LISTS = {"list_length": 3}
# All rounds are trained, however bad they are.
STOP = {"metric": "mrr@10", "patience": 9}
EVERY_STUDENT = [
    pytest.param("bart", False, id="bart"),
    pytest.param("bart", True, id="bart-lora", marks=pytest.mark.slow),
    pytest.param("t5", False, id="t5", marks=pytest.mark.slow),
    pytest.param("t5", True, id="t5-lora", marks=pytest.mark.slow),
    pytest.param("causal", False, id="causal", marks=pytest.mark.slow),
    pytest.param("causal", True, id="causal-lora", marks=pytest.mark.slow),
]


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def figures(history):
    """A history without what depends on the clock."""
    return [replace(one, seconds={}) for one in history]


def distil(folder, retriever, teacher=None, rounds=2, evaluated=True, settings=None, **others):
    return distil_in_rounds(
        retriever,
        make_teacher(retriever) if teacher is None else teacher,
        TRAINING,
        QRELS,
        arguments(folder, **(settings or {})),
        rounds=rounds,
        k=K,
        list_settings=LISTS,
        **({"retrieval_evaluator": dev(retriever), **STOP} if evaluated else {}),
        **others,
    )


def distil_by_hand(folder, retriever, rounds=2, **settings):
    """What the documentation told to do so far, twice: weights, metrics and candidates after each round."""
    found = []
    for number in range(rounds):
        candidates = retriever.candidates(TRAINING, K, relevant=QRELS)
        rankings = make_teacher(retriever).rank(TRAINING, candidates.to_rankings(), k=100)
        trainer = DistillationGenerativeRetrievalTrainer(
            model=retriever.model,
            args=arguments(folder / str(number), **{**settings, "seed": 5 + number}),
            data_collator=DistillationCollator(
                retriever.identifiers, candidates, rankings, QRELS, seed=5 + number, **LISTS
            ),
            train_dataset=as_dataset(TRAINING),
        )
        trainer.train()
        retriever.model.eval()
        found.append((weights(retriever.model), dev(retriever)(retriever.model), candidates))
    return found


@pytest.mark.parametrize(("kind", "lora"), EVERY_STUDENT)
def test_two_rounds_are_those_by_hand(kind, lora, tmp_path):
    base = tmp_path if lora else None
    expected = distil_by_hand(tmp_path / "hand", make_retriever(kind, base))
    retriever = make_retriever(kind, base)
    model, before = retriever.model, weights(retriever.model)
    result = distil(tmp_path / "rounds", retriever)
    assert result.retriever is retriever and retriever.model is model
    assert result.history[0].metrics == dev(retriever)(make_retriever(kind, base).model)
    assert [one.metrics for one in result.history[1:]] == [metrics for _, metrics, _ in expected]
    values = [one.metrics["mrr@10"] for one in result.history]
    assert result.best == values.index(max(values))
    assert_equal(weights(model), [before, *(found for found, *_ in expected)][result.best])
    # Without dev queries, the last round is the result.
    last = distil(tmp_path / "last", make_retriever(kind, base), evaluated=False)
    assert last.best == 2 and last.metrics == {}
    assert_equal(weights(last.retriever.model), expected[-1][0])
    first, second = (
        {(query, id) for query in TRAINING for id in candidates.passage_ids(query)} for *_, candidates in expected
    )
    assert last.history[2].new_candidates == last.history[2].new_scores == len(second - first) / len(second)


@pytest.mark.parametrize(("kind", "lora"), EVERY_STUDENT)
def test_rounds_of_generation_are_those_by_hand(kind, lora, tmp_path):
    base = tmp_path if lora else None
    retriever = make_retriever(kind, base)
    for number in range(2):
        candidates = retriever.candidates(TRAINING, 3, relevant=QRELS)
        pairs = pairs_from_candidates(
            candidates,
            retriever.identifiers,
            TRAINING,
            QRELS,
            identifiers_per_query=4,
            seed=5 + number,
            progress=False,
        )
        tokenizer = retriever.identifiers.tokenizer
        DistillationGenerativeRetrievalTrainer(
            model=retriever.model,
            args=arguments(tmp_path / "hand", seed=5 + number),
            data_collator=DataCollatorForSeq2Seq(tokenizer, model=retriever.model),
            train_dataset=pairs,
            processing_class=tokenizer,
        ).train()
        retriever.model.eval()
    result = train_generation_in_rounds(
        make_retriever(kind, base),
        TRAINING,
        QRELS,
        arguments(tmp_path / "rounds"),
        rounds=2,
        k=3,
        identifiers_per_query=4,
    )
    assert_equal(weights(result.retriever.model), weights(retriever.model))
    assert [one.agreement for one in result.history] == [one.new_scores for one in result.history] == [None] * 3
    assert set(result.history[2].seconds) == {"search", "pairs", "training"}


@pytest.mark.slow
def test_pairs_that_every_round_trains_on(tmp_path):
    retriever = make_retriever()
    own = pairs_from_candidates(
        retriever.candidates(TRAINING, 3, relevant=QRELS), retriever.identifiers, TRAINING, QRELS, progress=False
    ).select(range(4))
    train_generation_in_rounds(
        retriever, TRAINING, QRELS, arguments(tmp_path, max_steps=1), rounds=1, k=3, pairs=own.add_column("x", [0] * 4)
    )
    taught = json.loads((tmp_path / "round-1" / "dgr_run.json").read_text())["data"]["train"]["rows"]
    train_generation_in_rounds(
        make_retriever(), TRAINING, QRELS, arguments(tmp_path / "alone", max_steps=1), rounds=1, k=3
    )
    alone = json.loads((tmp_path / "alone" / "round-1" / "dgr_run.json").read_text())["data"]["train"]["rows"]
    assert taught == alone + 4


class Stopped(Exception):
    """In place of a process that is killed."""


class StopsAfter(TrainerCallback):
    def __init__(self, step, seed):
        self.step, self.seed = step, seed

    def on_step_begin(self, args, state, control, **kwargs):
        if args.seed == self.seed and state.global_step == self.step:
            raise Stopped


def stop_search(patch):
    """In the second batch of queries of the second round."""
    results, calls = search_engine.SearchEngine.results, []

    def stopping(self, requests, *others):
        found = results(self, requests, *others)
        if self.settings.batch_size == 2:  # The search for candidates.
            calls.append(None)
        for position, one in enumerate(found):
            if len(calls) == 2 and position == 3:
                raise Stopped
            yield one

    patch.setattr(search_engine.SearchEngine, "results", stopping)


def stop_teacher(patch):
    calls = []

    def stopping(self, query_id, *others, plain=FunctionTeacher._list):
        calls.append(None)
        if len(calls) == 9:
            raise Stopped
        return plain(self, query_id, *others)

    patch.setattr(FunctionTeacher, "_list", stopping)


def stop_saving(patch):
    def stopping(model, tokenizer, folder, plain=loop.save_student):
        if folder.parent.name == "round-2":
            raise Stopped
        plain(model, tokenizer, folder)

    patch.setattr(loop, "save_student", stopping)


def stop_at_the_end(patch):
    def stopping(self, folder, plain=Round.save):
        if self.number == 1:
            raise Stopped
        plain(self, folder)

    patch.setattr(Round, "save", stopping)


STOPS = {
    "in the search": stop_search,
    "in the teacher's work": stop_teacher,
    "in the training": lambda patch: None,
    "before the student is saved": stop_saving,
    "before the round is finished": stop_at_the_end,
}
OTHER_STOPS = [one for one in STOPS if one != "in the training"]
# With dropout, so that random numbers matter; a checkpoint at every other step.
KEPT = {"max_steps": 3, "save_strategy": "steps", "save_steps": 2}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    result = distil(folder, make_retriever(), settings=KEPT, search=replace(SEARCH, batch_size=2))
    return figures(result.history), weights(result.retriever.model), folder


@pytest.mark.parametrize(
    "where",
    ["in the training", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHER_STOPS)],
)
def test_interrupted_rounds_end_as_uninterrupted_ones(where, uninterrupted, tmp_path, monkeypatch):
    def call(**others):
        retriever = make_retriever()
        return distil(tmp_path, retriever, settings=KEPT, search=replace(SEARCH, batch_size=2), **others)

    with monkeypatch.context() as patch, pytest.raises((Stopped, RuntimeError)):
        STOPS[where](patch)
        call(callbacks=[StopsAfter(2, 6)] if where == "in the training" else [])
    assert (tmp_path / "round-0" / "round.json").is_file() and not (tmp_path / "round-2" / "round.json").is_file()
    result = call()
    history, expected, whole = uninterrupted
    assert figures(result.history) == history
    assert_equal(weights(result.retriever.model), expected)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*"))
    assert names == sorted(path.relative_to(whole).as_posix() for path in whole.glob("*"))
    if where == "in the training":
        record = json.loads((tmp_path / "round-2" / "dgr_run.json").read_text())
        assert [part["from_step"] for part in record["parts"]] == [0, 2]


@pytest.mark.slow
def test_finished_rounds_are_read_and_more_can_be_added(uninterrupted, tmp_path, monkeypatch):
    history, expected, whole = uninterrupted
    shutil.copytree(whole, tmp_path / "copy")
    others = {"settings": KEPT, "search": replace(SEARCH, batch_size=2)}
    with monkeypatch.context() as patch:
        patch.setattr(loop.Rounds, "_train", None)
        again = distil(tmp_path / "copy", make_retriever(), **others)
        assert figures(again.history) == history
        assert_equal(weights(again.retriever.model), expected)
        fewer = distil(tmp_path / "copy", make_retriever(), rounds=1, **others)
        assert figures(fewer.history) == history[:2]
    more = distil(tmp_path / "copy", make_retriever(), rounds=3, **others)
    assert figures(more.history[:3]) == history and more.history[3].number == 3


@pytest.mark.slow
def test_a_teacher_scores_only_what_is_new(tmp_path):
    retriever = make_retriever()
    teacher = CrossEncoderTeacher(save_cross_encoder(tmp_path / "teacher"), retriever.corpus, progress=False)
    scored = []
    plain = teacher.score
    teacher.score = lambda batch: scored.append(len(batch)) or plain(batch)
    counts = []
    for rounds in (1, 2, 3):
        result = distil(
            tmp_path / "rounds", make_retriever(), teacher, rounds=rounds, evaluated=False, settings={"max_steps": 1}
        )
        counts.append(sum(scored))
    lists = [
        {
            (line["query_id"], id)
            for line in map(json.loads, path.read_text().splitlines())
            for id in line["passage_ids"]
        }
        for path in sorted((tmp_path / "rounds").glob("round-*/teacher.jsonl"))
    ]
    known = [set().union(*lists[:count]) for count in range(4)]
    assert counts == [len(pairs) for pairs in known[1:]]
    assert [one.new_scores for one in result.history[1:]] == [
        len(pairs - before) / len(pairs) for pairs, before in zip(lists, known, strict=False)
    ]
    assert teacher.cache is None and (tmp_path / "rounds" / "teacher-scores").is_dir()
    assert 0 < result.history[2].new_candidates < 1


def test_rounds_stop_when_dev_does_not_gain(tmp_path):
    values = iter([0.3, 0.5, 0.4, 0.5, 0.9])
    retriever = make_retriever()
    result = distil(
        tmp_path,
        retriever,
        rounds=9,
        evaluated=False,
        settings={"max_steps": 1},
        retrieval_evaluator=lambda model, accelerator=None: {"eval_quality": next(values)},
        metric="quality",
        patience=2,
    )
    assert [one.metrics["quality"] for one in result.history] == [0.3, 0.5, 0.4, 0.5]
    assert result.best == 1 and result.metrics == {"quality": 0.5}
    assert "| 1 (best) | 0.500   |" in result.to_markdown()
    saved = make_retriever().model.from_pretrained(tmp_path / "round-1" / "student")
    assert_equal(weights(retriever.model), weights(saved))


def test_if_no_round_gains_the_student_is_the_first_one(tmp_path, caplog):
    retriever = make_retriever()
    before = weights(retriever.model)
    worse = iter([0.3, 0.1])
    with caplog.at_level("WARNING"):
        result = distil(
            tmp_path,
            retriever,
            evaluated=False,
            settings={"max_steps": 1},
            retrieval_evaluator=lambda model, accelerator=None: {"quality": next(worse)},
            metric="quality",
        )
    assert result.best == 0 and len(result.history) == 2 and "No round was better" in caplog.text
    assert_equal(weights(retriever.model), before)


def test_the_report_lists_the_rounds(uninterrupted, tmp_path):
    *_, whole = uninterrupted
    found = read_folders([whole])
    assert [run.name for run in found.trainings] == ["round 1", "round 2"]
    assert found.trainings[1].record["settings"]["seed"] == 6
    stages = [stage["name"] for stage in found.pipelines[0].record["stages"]]
    assert stages[:4] == ["Round 1: search", "Round 1: teacher", "Round 1: training", "Round 1: evaluation"]
    page = write_report(whole, tmp_path / "report.html").read_text()
    assert "Rounds of distillation" in page and "round 2" in page and "Round 2: search" in page


@pytest.mark.slow
def test_dev_queries_make_an_evaluator(tmp_path):
    retriever = make_retriever()
    result = distil_in_rounds(
        retriever,
        make_teacher(retriever),
        as_dataset(TRAINING),
        None,
        arguments(tmp_path / "unused", max_steps=1),
        rounds=1,
        output_dir=tmp_path / "rounds",
        eval_queries=DEV,
        eval_qrels=QRELS,
        metric="hits@10",
        k=K,
    )
    assert set(result.metrics) == {"hits@1", "hits@5", "hits@20", "mrr@10", "ndcg@10", "hits@10"}
    assert (tmp_path / "rounds" / "round-1" / "round.json").is_file() and not (tmp_path / "unused").exists()


# Errors


class Unused:
    """A teacher that would be asked only after the errors."""

    def rank(self, queries, candidates=None, *, k=100, ignore_identical_ids=False):
        raise AssertionError


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"rounds": 0}, "rounds=0 has to be at least 1"),
        ({"patience": 0}, "patience=0 has to be at least 1"),
        ({"k": 0}, "k=0 has to be at least 1"),
        ({"min_gain": -0.1}, "min_gain=-0.1 has to be at least 0"),
        ({"eval_queries": DEV}, "eval_queries and eval_qrels go together"),
        ({"eval_queries": DEV, "eval_qrels": QRELS, "metric": "f1"}, "metric"),
        ({"retrieval_evaluator": "dev", "eval_queries": DEV, "eval_qrels": QRELS}, "has its queries already"),
        ({"retrieval_evaluator": "dev", "metric": "ndcg@10"}, "is not among the metrics of the evaluator, hits@5"),
        ({"list_settings": {"rankings": {}}}, "list_settings has rankings, which the rounds give"),
        ({"teacher": 3}, "teacher is a int, which has no method rank"),
        ({"settings": {"resume_from_checkpoint": "last"}}, "resume_from_checkpoint has no effect"),
        ({"settings": {"push_to_hub": True}}, "push_to_hub would upload every round"),
        ({"environment": "ACCELERATE_USE_FSDP"}, "cannot be trained with FSDP or DeepSpeed"),
    ],
)
def test_errors_before_any_work(others, message, tmp_path, monkeypatch, one_retriever):
    others = dict(others)
    args = arguments(tmp_path / "rounds", **others.pop("settings", {}))
    if "environment" in others:
        monkeypatch.setenv(others.pop("environment"), "true")
    if "retrieval_evaluator" in others:
        others["retrieval_evaluator"] = dev(one_retriever)
    with pytest.raises((ValueError, TypeError), match=message):
        distil_in_rounds(one_retriever, others.pop("teacher", Unused()), TRAINING, QRELS, args, **others)
    assert not (tmp_path / "rounds").exists()


@pytest.fixture(scope="module")
def one_retriever():
    return make_retriever()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"identifiers_per_query": 0}, "identifiers_per_query=0"),
        ({"qrels": {}}, "qrels is empty"),
        ({"pairs": as_dataset(TRAINING)}, "pairs has the columns"),
    ],
)
def test_errors_of_generation_before_any_work(others, message, tmp_path, one_retriever):
    with pytest.raises(ValueError, match=message):
        train_generation_in_rounds(
            one_retriever, TRAINING, **{"qrels": QRELS, "args": arguments(tmp_path / "rounds"), **others}
        )
    assert not (tmp_path / "rounds").exists()


def test_rounds_of_another_call_are_refused(uninterrupted, tmp_path):
    *_, whole = uninterrupted
    shutil.copytree(whole, tmp_path / "copy")
    same = {"settings": KEPT, "search": replace(SEARCH, batch_size=2)}

    def refused(message, retriever=None, **others):
        with pytest.raises((ValueError, OSError), match=message):
            distil(tmp_path / "copy", make_retriever() if retriever is None else retriever, **{**same, **others})

    refused("made with other settings: args.learning_rate", settings={**KEPT, "learning_rate": 1e-4})
    refused("made with other settings: search.batch_size", search=SEARCH)
    retriever = make_retriever()
    refused("made with other settings: teacher.name", teacher=FunctionTeacher(overlap, retriever.corpus, "other"))
    with torch.no_grad():
        next(retriever.model.parameters()).add_(1)
    refused("started from another student", retriever)
    student = tmp_path / "copy" / "round-2" / "student" / "model.safetensors"
    student.write_bytes((tmp_path / "copy" / "round-0" / "student" / "model.safetensors").read_bytes())
    refused("does not hold the student that its round saved", rounds=3)
    (tmp_path / "copy" / "round-1" / "round.json").write_text("{")
    refused("round.json is damaged")
    (tmp_path / "copy" / "rounds.json").write_text("[]")
    refused("rounds.json is damaged")
    (tmp_path / "copy" / "rounds.json").write_text('{"format_version": 2, "call": {}}')
    refused("has format version 2")
    (tmp_path / "copy" / "rounds.json").unlink()
    refused("which says what it was trained on")


def test_an_adapter_without_a_known_base_is_refused_before_any_work(tmp_path):
    retriever = make_retriever("bart", tmp_path)
    retriever.model.peft_config["default"].base_model_name_or_path = None
    retriever.model.get_base_model().name_or_path = ""
    with pytest.raises(ValueError, match="does not name its base model"):
        distil(tmp_path / "rounds", retriever, Unused())
    assert not list(Path(tmp_path / "rounds").glob("*.json"))
