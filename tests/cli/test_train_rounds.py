"""`dgr train --rounds`: what it makes is what the library makes, and mistakes are told before anything is loaded."""

import inspect
import json
import shutil

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from dgr_trainer import (
    BM25Teacher,
    Corpus,
    DistillationTrainingArguments,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    RetrievalEvaluator,
    distil_in_rounds,
    read_qrels,
    read_queries,
)
from dgr_trainer.cli.models import load_student
from dgr_trainer.cli.round_options import RoundOptions, RoundSearchOptions
from dgr_trainer.cli.train_options import LoraOptions
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.rounds import train_generation_in_rounds

TRAINING = ("--use_cpu", "--per_device_train_batch_size", 4, "--report_to", "none", "--max_steps", 2)
SEARCH = SearchSettings(beam_size=2, title_length=6, pseudo_query_length=6, substring_length=4)
FAST = ("--search_beam_size", 2, "--search_title_length", 6, "--search_pseudo_query_length", 6,
        "--search_substring_length", 4)  # fmt: skip


@pytest.fixture(scope="module")
def start(files, tmp_path_factory):
    """A retriever to start from, with its corpus."""
    folder = tmp_path_factory.mktemp("start") / "retriever"
    corpus = Corpus.read(files / "corpus.jsonl")
    identifiers = Identifiers(AutoTokenizer.from_pretrained(files / "bart"))
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    model = load_student(str(files / "bart"), LoraOptions())
    GenerativeRetriever(model, identifiers, index, corpus=corpus, settings=SEARCH).save_pretrained(folder)
    return folder


def judged(files):
    return ("--queries", files / "queries.tsv", "--qrels", files / "qrels.txt")


def weights(folder):
    return GenerativeRetriever.from_pretrained(folder).model.state_dict()


def assert_equal(found, expected):
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_rounds_of_distillation(dgr, files, start, tmp_path):
    command = (
        "train", "--stage", "distillation", "--model", start, *judged(files), *TRAINING, *FAST, "--seed", 3,
        "--teacher", "bm25", "--teacher_k1", 1.5, "--round_k", 5, "--round_metric", "mrr@10", "--round_patience", 5,
        "--list_length", 3, "--learning_rate", "1e-3", "--eval_queries", files / "queries.tsv", "--eval_qrels",
        files / "qrels.txt", "--eval_metrics", "hits@5", "mrr@10", "--eval_max_queries", 4,
    )  # fmt: skip
    one = dgr(*command, "--rounds", 1, "--output_dir", tmp_path / "out")
    assert one.code == 0, one.err
    assert json.loads(one.out)["best_round"] in (0, 1)
    done = dgr(*command, "--rounds", 2, "--output_dir", tmp_path / "out")  # Adds a round.
    assert done.code == 0, done.err
    assert "| round " in done.err

    retriever = GenerativeRetriever.from_pretrained(start)
    queries, qrels = read_queries(files / "queries.tsv"), read_qrels(files / "qrels.txt")
    expected = distil_in_rounds(
        retriever,
        BM25Teacher(retriever.corpus, k1=1.5, progress=False),
        queries,
        qrels,
        DistillationTrainingArguments(
            output_dir=str(tmp_path / "expected"),
            use_cpu=True,
            per_device_train_batch_size=4,
            report_to=[],
            max_steps=2,
            seed=3,
            learning_rate=1e-3,
        ),
        rounds=2,
        k=5,
        metric="mrr@10",
        patience=5,
        list_settings={"list_length": 3, "relevant_first": True},
        retrieval_evaluator=RetrievalEvaluator(
            retriever.index,
            retriever.identifiers,
            queries,
            qrels,
            metrics=("hits@5", "mrr@10"),
            max_queries=4,
            settings=SEARCH,
        ),
    )
    shown = json.loads(done.out)
    assert shown == {"best_round": expected.best} | {f"eval_{name}": x for name, x in expected.metrics.items()}
    assert_equal(weights(tmp_path / "out" / "retriever"), retriever.model.state_dict())
    used = yaml.safe_load((tmp_path / "out" / "train.yaml").read_text())
    assert used["rounds"] == 2 and used["teacher_k1"] == 1.5

    refused = dgr(*command, "--rounds", 3, "--output_dir", tmp_path / "out", "--learning_rate", "1e-4")
    assert refused.code == 2 and "made with other settings: args.learning_rate" in refused.err
    assert yaml.safe_load((tmp_path / "out" / "train.yaml").read_text()) == used
    again = dgr(*command, "--rounds", 1, "--output_dir", tmp_path / "out", "--overwrite", "--seed", 4)
    assert again.code == 0 and not (tmp_path / "out" / "round-2").exists(), again.err


@pytest.mark.slow
def test_rounds_of_generation_with_a_new_adapter(dgr, files, start, tmp_path):
    made = dgr("pairs", start, "--model", start, *judged(files), "--output", tmp_path / "pairs.jsonl")
    assert made.code == 0, made.err
    command = (
        "train", "--stage", "generation", "--model", start, *judged(files), *TRAINING, "--rounds", 2, "--lora_r", 2,
        "--lora_target_modules", "q_proj", "v_proj", "--pairs", tmp_path / "pairs.jsonl", "--round_k", 3,
        "--round_identifiers_per_query", 4, "--ignore_identical_ids",
    )  # fmt: skip
    first = dgr(*command, "--output_dir", tmp_path / "first")
    assert first.code == 0 and first.out == "", first.err
    # A new adapter is random; the same command starts from the same one, so that it can be gone on with.
    (tmp_path / "first" / "round-2" / "round.json").unlink()
    again = dgr(*command, "--output_dir", tmp_path / "first")
    assert again.code == 0, again.err
    assert dgr(*command, "--output_dir", tmp_path / "second").code == 0
    found = weights(tmp_path / "first" / "retriever")
    assert_equal(found, weights(tmp_path / "second" / "retriever"))
    adapters = [name for name in found if "lora_B" in name]
    assert adapters and any(found[name].any() for name in adapters)
    distilled = dgr(
        "train", "--stage", "distillation", "--model", tmp_path / "first" / "retriever", *judged(files), *TRAINING,
        "--rounds", 1, "--teacher", "bm25", "--round_k", 4, "--output_dir", tmp_path / "distilled",
    )  # fmt: skip
    assert distilled.code == 0, distilled.err
    assert (tmp_path / "distilled" / "retriever" / "adapter_config.json").is_file()


TRAIN = "train --output_dir TMP/out --queries FILES/queries.tsv --qrels FILES/qrels.txt"
DISTIL = f"{TRAIN} --stage distillation --model START --rounds 2"
BM25 = f"{DISTIL} --teacher bm25"
GENERATE = f"{TRAIN} --stage generation --model START --rounds 2"
EVALUATED = "--eval_queries FILES/queries.tsv --eval_qrels FILES/qrels.txt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (f"{TRAIN} --stage distillation --model START --teacher bm25", "--teacher is an option of training in rounds"),
        (f"{TRAIN} --stage generation --model START --round_k 3", "--round_k is an option of training in rounds"),
        (f"{TRAIN} --stage generation --model START --search_beam_size 3", "--search_beam_size is an option of"),
        (f"{TRAIN} --stage generation --model START --round_metric mrr", "--round_metric is an option of"),
        (
            f"{TRAIN} --stage generation --model START --teacher_k1 1",
            "--teacher_k1 is an option of training",
        ),
        (f"{BM25} --rounds 0", "--rounds 0 has to be at least 1"),
        (f"{BM25} --round_k 0", "--round_k 0 has to be at least 1"),
        (f"{BM25} --round_patience 0", "--round_patience 0 has to be at least 1"),
        (f"{BM25} --round_min_gain -1", "--round_min_gain -1.0 has to be at least 0"),
        (f"{BM25} --run FILES/best.trec", "--rounds: --run is what the --teacher says"),
        (f"{BM25} --candidates START", "--rounds: --candidates are searched for in each round"),
        (f"{BM25} --identifiers FILES/identifiers.tsv", "--rounds: --identifiers are one string per passage"),
        (f"{BM25} --model FILES/bart", "--rounds: each round searches with the student. Give --index"),
        (f"{BM25} --round_metric mrr@10", "--round_metric compares rounds on dev queries"),
        (f"{BM25} {EVALUATED} --round_metric map", "--round_metric map is not among the --eval_metrics, hits@1"),
        (f"{BM25} {EVALUATED} --eval_metrics mrr@10", "--round_metric ndcg@10 is not among the --eval_metrics"),
        (f"{BM25} --search_beam_size 0", "beam_size"),
        (f"{BM25} --round_identifiers_per_query 3", "--round_identifiers_per_query has no effect"),
        (f"{BM25} --pairs FILES/corpus.jsonl", "--pairs has no effect in --stage distillation"),
        (f"{BM25} --teacher_model FILES/bart", "--teacher_model is an option of cross-encoder"),
        (f"{BM25} --push_to_hub", "--push_to_hub would upload every round"),
        (f"{BM25} --resume_from_checkpoint last", "--resume_from_checkpoint: the same command with --rounds goes on"),
        (DISTIL, "--rounds needs a --teacher"),
        (f"{DISTIL} --teacher cross-encoder", "--teacher cross-encoder needs --teacher_model"),
        (f"{DISTIL} --teacher cross-encoder --teacher_model TMP/no/model", "--teacher_model: there is no model"),
        (
            "train --output_dir TMP/out --stage distillation --model START --rounds 1 --teacher bm25",
            "--rounds needs --queries, the training queries, and --qrels",
        ),
        (f"{GENERATE} --teacher bm25", "--teacher: there is no teacher in --stage generation"),
        (f"{GENERATE} --teacher_k1 1", "--teacher_k1: there is no teacher in --stage generation"),
        (f"{GENERATE} --titles_per_query 2", "--titles_per_query: rounds make pairs of the student's own"),
        (f"{GENERATE} --corpus FILES/corpus.jsonl", "--corpus: rounds make pairs of the student's own identifiers"),
        (f"{GENERATE} --list_length 2", "--list_length has no effect in --stage generation"),
        (f"{GENERATE} --round_identifiers_per_query 0", "--round_identifiers_per_query 0 has to be at least 1"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(arguments, message, dgr, files, start, tmp_path, monkeypatch):
    def loaded(*arguments, **settings):
        raise AssertionError("Something was loaded before the mistake was found.")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", loaded)
    places = {"FILES": files, "START": start, "TMP": tmp_path}
    for name, folder in places.items():
        arguments = arguments.replace(name, str(folder))
    found = dgr(*arguments.split())
    assert found.code == 2 and message in found.err, found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_corpus_for_the_teacher(dgr, files, start, tmp_path):
    """An index without its corpus needs one for the teacher."""
    shutil.copytree(start, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "corpus")
    command = ("train", "--stage", "distillation", "--model", tmp_path / "bare", *judged(files), *TRAINING,
               "--rounds", 1, "--teacher", "bm25", "--round_k", 3, "--output_dir", tmp_path / "out")  # fmt: skip
    refused = dgr(*command)
    assert refused.code == 2 and "--corpus is missing: the teacher reads passages" in refused.err
    done = dgr(*command, "--corpus", files / "corpus.jsonl", "--teacher_order")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "out" / "round-1" / "dgr_run.json").read_text())
    assert record["lists"]["relevant_first"] is False


def test_options_are_settings_of_the_library():
    common = set(inspect.signature(distil_in_rounds).parameters) & set(
        inspect.signature(train_generation_in_rounds).parameters
    )
    for name in RoundOptions.arguments.values():
        assert name in common
        defaults = {
            inspect.signature(one).parameters[name].default for one in (distil_in_rounds, train_generation_in_rounds)
        }
        assert len(defaults) == 1
    assert set(RoundSearchOptions.arguments.values()) == set(SearchSettings.__dataclass_fields__)
