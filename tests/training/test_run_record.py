"""The record that a training leaves in its output folder."""

import json
import logging

import datasets
import numpy as np
import pytest
import torch
from launched_processes import results_of
from peft import LoraConfig, get_peft_model
from tiny_models import make_bart
from training_examples import (
    QRELS,
    make_arguments,
    make_candidates,
    make_collator,
    make_rankings,
    make_trainer,
    query_dataset,
)

from dgr_trainer import Identifiers, rank_list_statistics
from dgr_trainer.files.fingerprints import path_fingerprint
from dgr_trainer.training import run_record
from dgr_trainer.training.objective import RankingObjective
from dgr_trainer.training.run_record import RUN_RECORD, dataset_fingerprint
from dgr_trainer.training.taught_lists import evenly, taught_lists


def read(folder):
    return json.loads((folder / RUN_RECORD).read_text())


@pytest.fixture(scope="module")
def trained(bpe_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = make_trainer(folder, bpe_tokenizer, hub_token="hf_secret", ranking_loss="margin_rank")
    trainer.run_record.facts["inputs"] = {"run": {"path": "teacher.trec"}}
    trainer.train()
    return trainer, folder


def test_what_a_distillation_leaves(trained):
    trainer, folder = trained
    record = read(folder)
    assert (record["kind"], record["stage"], record["status"]) == ("training", "distillation", "finished")
    assert record["steps"] == record["planned_steps"] == 3
    assert record["log_history"] == trainer.state.log_history
    assert record["objective"]["loss"] == "margin_rank"
    assert record["objective"]["settings"]["margin"] == trainer.args.score_spread / 2
    assert {"learning_rate", "ranking_loss", "max_steps"} <= set(record["changed_settings"])
    assert not {"weight_decay", "debug"} & set(record["changed_settings"])
    assert "margin_gap" not in record["changed_settings"]
    assert "hf_secret" not in json.dumps(record)
    assert record["inputs"] == {"run": {"path": "teacher.trec"}}
    assert record["model"]["trained_parameters"] == sum(p.numel() for p in trainer.model.parameters())
    (part,) = record["parts"]
    assert part["from_step"] == 0 and part["to_step"] == 3 and 0 < part["seconds"] < 100
    assert part["peak_memory"]["host_bytes"] > 10**7
    assert set(record["data"]) == {"train", "teacher", "candidates", "qrels"}
    assert record["versions"]["dgr-trainer"] and len(record["code"]["dgr_trainer"]) == 64


def test_a_generation_has_no_lists(bpe_tokenizer, tmp_path):
    others = {"eval_dataset": {"dev": query_dataset(), "few": query_dataset().select(range(2))}}
    settings = {"ranking_weight": 0.0, "max_steps": 1, "preset": "dgr_paper"}
    make_trainer(tmp_path, bpe_tokenizer, trainer_settings=others, **settings).train()
    record = read(tmp_path)
    assert record["data"]["eval['dev']"] == record["data"]["train"] and record["data"]["eval['few']"]["rows"] == 2
    assert "preset" in record["changed_settings"]
    assert record["stage"] == "generation" and "taught_lists" not in record


def test_a_resumed_run_keeps_its_parts_and_its_history(bpe_tokenizer, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    make_trainer(tmp_path, bpe_tokenizer, **settings).train()
    whole = read(tmp_path)
    # As a run that was killed after its first checkpoint.
    killed = whole | {"status": "running", "parts": [whole["parts"][0] | {"to_step": 2}]}
    (tmp_path / RUN_RECORD).write_text(json.dumps(killed))
    make_trainer(tmp_path, bpe_tokenizer, **settings).train(str(tmp_path / "checkpoint-2"))
    record = read(tmp_path)
    assert [(part["from_step"], part["to_step"]) for part in record["parts"]] == [(0, 2), (2, 4)]
    steps = [entry["step"] for entry in record["log_history"] if "loss" in entry]
    assert steps == [1, 2, 3, 4] and record["status"] == "finished"
    assert record["data"] == whole["data"]


def test_an_evaluation_after_training_is_in_the_record(bpe_tokenizer, tmp_path):
    evaluator = {"retrieval_evaluator": lambda model, accelerator: {"hits@1": 0.25}}
    trainer = make_trainer(tmp_path, bpe_tokenizer, trainer_settings=evaluator, max_steps=1)
    trainer.train()
    seconds = read(tmp_path)["parts"][0]["seconds"]
    trainer.evaluate()
    record = read(tmp_path)
    assert record["log_history"][-1]["eval_hits@1"] == 0.25
    assert record["parts"][0]["seconds"] == seconds


def test_a_record_that_cannot_be_written_does_not_end_a_training(bpe_tokenizer, tmp_path, caplog):
    (tmp_path / RUN_RECORD).mkdir()
    with caplog.at_level(logging.WARNING):
        make_trainer(tmp_path, bpe_tokenizer, max_steps=1).train()
    assert f"{RUN_RECORD} was not written" in caplog.text


def test_numbers_that_json_lacks(tmp_path):
    run_record.write_record({"nan": float("nan"), "array": np.float32(0.5), "set": {2, 1}, 3: tmp_path}, tmp_path)
    assert read(tmp_path) == {"nan": None, "array": 0.5, "set": [1, 2], "3": str(tmp_path)}


# Fingerprints


def test_a_dataset_is_named_by_its_content():
    ids, texts = [f"q{n}" for n in range(50)], [f"text {n}" for n in range(50)]
    dataset = datasets.Dataset.from_dict({"query_id": ids, "query": texts})
    longer = datasets.Dataset.from_dict({"query_id": ["x", *ids], "query": ["y", *texts], "other": range(51)})
    same = datasets.concatenate_datasets([longer.select(range(1, 20)), longer.select(range(20, 51))])
    assert dataset_fingerprint(same) == dataset_fingerprint(dataset)
    assert dataset_fingerprint(longer) != dataset_fingerprint(dataset)
    moved = datasets.Dataset.from_dict(
        {
            "query_id": ids,
            "query": [
                *texts[:-1],
                "text 4",
            ],
        }
    )
    assert dataset_fingerprint(moved)["sha256"] != dataset_fingerprint(dataset)["sha256"]
    assert dataset_fingerprint(None) is None


def test_pairs_are_named_by_their_tokens():
    def pairs(rows, width):
        features = datasets.Features({name: datasets.List(datasets.Value(width)) for name in ("input_ids", "labels")})
        return datasets.Dataset.from_dict({"input_ids": rows, "labels": rows}, features=features)

    one = dataset_fingerprint(pairs([[1, 2], [3]], "int32"))
    assert one == dataset_fingerprint(pairs([[1, 2], [3]], "int64"))
    assert one != dataset_fingerprint(pairs([[1], [2, 3]], "int32"))


def test_lists_of_a_fixed_length_are_named_like_others():
    def pairs(length):
        lists = datasets.List(datasets.Value("int32"), length=length)
        return datasets.Dataset.from_dict(
            {"input_ids": [[1, 2], [3, 4], [5, 6]]}, features=datasets.Features({"input_ids": lists})
        )

    assert dataset_fingerprint(pairs(2)) == dataset_fingerprint(pairs(-1))
    assert dataset_fingerprint(pairs(2).select([1, 2])) == dataset_fingerprint(pairs(-1).select([1, 2]))


def test_files_and_folders(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_text("one")
    first = path_fingerprint(tmp_path / "a")
    assert first["files"] == 1 and first["bytes"] == 3 and first["read"] == "whole"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("one")
    assert path_fingerprint(tmp_path / "b")["sha256"] == first["sha256"]
    (tmp_path / "b" / "1.txt").rename(tmp_path / "b" / "2.txt")
    assert path_fingerprint(tmp_path / "b")["sha256"] != first["sha256"]
    assert path_fingerprint("hf:org/name") == {"path": "hf:org/name"}
    monkeypatch.setattr("dgr_trainer.files.fingerprints._WHOLE", 10)
    monkeypatch.setattr("dgr_trainer.files.fingerprints._END", 4)
    (tmp_path / "large").write_text("0123456789ab")
    large = path_fingerprint(tmp_path / "large")
    assert large["read"] == "ends"
    (tmp_path / "large").write_text("0123456789aB")
    assert path_fingerprint(tmp_path / "large")["sha256"] != large["sha256"]


# Lists that are taught


def test_taught_lists_against_a_plain_count(bpe_tokenizer):
    rankings = {
        query: {id: round(score, 1) for id, score in zip(*one, strict=True)} for query, one in make_rankings().items()
    }
    collator = make_collator(bpe_tokenizer, rankings=rankings, list_length=5)
    objective = RankingObjective.from_arguments(
        make_arguments("unused", ranking_loss="distilled_ranknet", margin=2.0, margin_gap=1.0), "log_odds"
    )
    query_ids = query_dataset()["query_id"]
    found = taught_lists(collator, objective, query_ids)

    candidates = make_candidates(Identifiers(bpe_tokenizer))
    pairs = tied = apart = wrong = violated = 0
    spreads = []
    for query_id in query_ids:
        one = collator.sampler.sample(query_id, 0)
        own = {candidate.passage_id: candidate.score for candidate in candidates[query_id]}
        scores = [own[id] for id in one.passage_ids]
        spreads.append(max(scores) - min(scores))
        for i in range(len(scores)):
            for j in range(i + 1, len(scores)):
                pairs += 1
                places = one.ranks[j] - one.ranks[i]
                tied += places == 0
                if places:
                    apart += 1
                    wrong += scores[i] < scores[j]
                    violated += scores[i] - scores[j] < 2.0 + (places - 1)
    assert found["pairs"] == pairs and found["tied_pairs"] == tied > 0
    assert found["student_scores"]["pairs"] == apart
    assert found["student_scores"]["wrong_order"] == pytest.approx(wrong / apart)
    assert found["margins"]["violated"] == pytest.approx(violated / apart)
    assert found["student_scores"]["spread"][1] == pytest.approx(np.median(spreads))
    assert found["margins"]["relative_to_spread"] == pytest.approx((2 + 3) / np.median(spreads))
    assert found["first_is_relevant"] == 1.0 and found["mean_length"] == 5
    assert found["teacher"]["judged"] == rank_list_statistics(rankings, QRELS, query_ids).judged


@pytest.mark.parametrize("num_candidates", [None, 2])
def test_a_loss_of_the_first_passage_violates_its_margins_alone(num_candidates, bpe_tokenizer):
    collator = make_collator(bpe_tokenizer, list_length=5)
    arguments = make_arguments(
        "unused", ranking_loss="margin_rank", margin=2.0, margin_gap=1.0,
        ranking_loss_kwargs={"num_candidates": num_candidates},
    )  # fmt: skip
    query_ids = query_dataset()["query_id"]
    found = taught_lists(collator, RankingObjective.from_arguments(arguments, "log_odds"), query_ids)
    violated = []
    for query_id in query_ids:
        one = collator.sampler.sample(query_id, 0)
        own = dict(zip(collator.source.order(query_id), collator.source.candidates.scores(query_id), strict=True))
        first, *others = (own[id] for id in one.passage_ids)
        violated += [first - score < 2.0 + place for place, score in enumerate(others[:num_candidates])]
    assert len(set(violated)) == 2 and found["margins"]["violated"] == pytest.approx(np.mean(violated))


def test_taught_lists_of_standardised_scores_are_those_that_the_training_logs(bpe_tokenizer):
    kwargs = {"normalization": "list", "margin_growth": "teacher_scores"}
    objective = RankingObjective.from_arguments(
        make_arguments("unused", ranking_loss="distilled_ranknet", ranking_loss_kwargs=kwargs), "log_odds"
    )
    collator = make_collator(bpe_tokenizer, list_length=5)
    margins = taught_lists(collator, objective, query_dataset()["query_id"])["margins"]
    violated = []
    for query_id in query_dataset()["query_id"]:
        one = collator.sampler.sample(query_id, 0)
        own = dict(zip(collator.source.order(query_id), collator.source.candidates.scores(query_id), strict=True))
        scores, teacher = torch.tensor([[[own[id] for id in one.passage_ids]], [one.teacher_scores]])
        mask = torch.ones_like(scores, dtype=torch.bool)
        logged = objective.statistics(scores, teacher, mask, torch.tensor([one.ranks]))
        violated.append((logged["violated_margins"].item(), len(set(one.ranks)) == 5))
    assert all(no_ties for _, no_ties in violated), "all lists have equally many pairs"
    assert margins["violated"] == pytest.approx(np.mean([share for share, _ in violated]))
    assert "relative_to_spread" not in margins


def test_lists_of_strings_have_no_student_scores(bpe_tokenizer):
    collator = make_collator(bpe_tokenizer, "strings")
    objective = RankingObjective.from_arguments(make_arguments("unused", ranking_loss="margin_rank"), "log_likelihood")
    found = taught_lists(collator, objective, query_dataset()["query_id"])
    assert "student_scores" not in found and found["margins"] == {"margin": 1.0, "margin_gap": 0.5}


def test_many_queries_are_sampled_evenly():
    assert evenly([str(n) for n in range(10)], 4) == ["0", "2", "5", "7"]
    assert evenly(["a", "b", "a"], 4) == ["a", "b"]


# Adapters, processes, the command line


def test_an_adapter(bpe_tokenizer, tmp_path):
    model = get_peft_model(make_bart(bpe_tokenizer), LoraConfig(target_modules=["q_proj"], r=2))
    make_trainer(tmp_path, bpe_tokenizer, model=model, max_steps=1).train()
    record = read(tmp_path)["model"]
    assert record["class"] == "BartForConditionalGeneration" and record["adapter"].startswith("Peft")
    assert 0 < record["trained_parameters"] < record["parameters"]


def _train_with_others(processes, tokenizer, folder):
    trainer = make_trainer(folder, tokenizer, per_device_train_batch_size=2, max_steps=2)
    trainer.train()
    return trainer.run_record._record is not None


@pytest.mark.slow
def test_one_of_several_processes_writes(bpe_tokenizer, tmp_path):
    assert results_of(2, _train_with_others, bpe_tokenizer, tmp_path) == [True, False]
    record = read(tmp_path)
    assert record["parts"][0]["processes"] == 2 and record["status"] == "finished"
    alone = tmp_path / "alone"
    make_trainer(alone, bpe_tokenizer, max_steps=2).train()
    for name in ("data", "taught_lists", "objective", "lists", "code"):
        assert read(alone)[name] == record[name]


@pytest.mark.slow
def test_a_record_of_an_earlier_training_gives_no_parts_to_a_new_one(bpe_tokenizer, tmp_path):
    for _ in range(2):
        make_trainer(tmp_path, bpe_tokenizer, max_steps=1).train()
    assert len(read(tmp_path)["parts"]) == 1
