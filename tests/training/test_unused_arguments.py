"""Arguments of Seq2SeqTrainer that have no effect here are said once; predict() returns rank lists."""

import re

import datasets
import pytest
import torch
from training_examples import make_collator, make_trainer, query_dataset
from transformers import GenerationConfig

from dgr_trainer import GenerativeRetriever, Rankings, RetrievalEvaluator, SearchSettings
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex

SMALL = SearchSettings(beam_size=2)
GIVEN = {
    "generation_max_length": (128, r"generation_max_length=128 \(the trainer does not generate.*SearchSettings"),
    "generation_num_beams": (4, r"generation_num_beams=4 \(the trainer does not generate.*SearchSettings"),
    "generation_config": (GenerationConfig(num_beams=3), r"generation_config \(it is saved with the model"),
    "sortish_sampler": (True, r'sortish_sampler=True \(.*train_sampling_strategy="group_by_length"'),
    "include_for_metrics": (["inputs", "loss"], r"include_for_metrics=\['inputs', 'loss'\] \(no logits are kept"),
    "batch_eval_metrics": (True, r"batch_eval_metrics=True \(no logits are kept"),
    "eval_do_concat_batches": (False, r"eval_do_concat_batches=False \(no logits are kept"),
    "eval_accumulation_steps": (2, r"eval_accumulation_steps=2 \(no logits are kept"),
    "eval_use_gather_object": (True, r"eval_use_gather_object=True \(no logits are kept"),
    "label_names": (["targets"], r"label_names=\['targets'\] \(the loss is that of the collator's batches"),
}


def told(caplog, words: str = "no effect") -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


@pytest.mark.parametrize("name", GIVEN)
def test_an_argument_without_effect_is_said_once(name, bpe_tokenizer, tmp_path, caplog):
    value, message = GIVEN[name]
    trainer = make_trainer(tmp_path, bpe_tokenizer, max_steps=1, **{name: value})
    trainer.train()
    trainer.evaluate(query_dataset())
    (found,) = told(caplog)
    assert re.search(message, found), found


def test_several_are_said_together(bpe_tokenizer, tmp_path, caplog):
    make_trainer(tmp_path, bpe_tokenizer, **{name: value for name, (value, _) in GIVEN.items()})
    (found,) = told(caplog)
    assert all(f"{name}=" in found for name in GIVEN if name != "generation_config")
    assert found.count("SearchSettings") == 1, "a reason is given once"


def test_arguments_with_effect_are_not_said(bpe_tokenizer, tmp_path, caplog):
    make_trainer(
        tmp_path,
        bpe_tokenizer,
        label_smoothing_factor=0.1,
        weight_decay=0.1,
        train_sampling_strategy="group_by_length",
        include_for_metrics=[],
        length_column_name="n",
    )
    assert not told(caplog)


def test_an_argument_that_is_said_changes_nothing(bpe_tokenizer, tmp_path):
    plain = make_trainer(tmp_path, bpe_tokenizer).evaluate(query_dataset())
    given = {name: value for name, (value, _) in GIVEN.items()}
    other = make_trainer(tmp_path, bpe_tokenizer, **given).evaluate(query_dataset(), max_length=3, num_beams=7)
    measured = [name for name in plain if "loss" in name or "tau" in name]
    assert {name: plain[name] for name in measured} == {name: other[name] for name in measured}


def test_other_processes_do_not_say_it(bpe_tokenizer, tmp_path, caplog, monkeypatch):
    from dgr_trainer.training.arguments import DistillationTrainingArguments

    monkeypatch.setattr(DistillationTrainingArguments, "should_log", False)
    make_trainer(tmp_path, bpe_tokenizer, sortish_sampler=True)
    assert not told(caplog)


def test_keyword_arguments_of_generation_are_said_once(bpe_tokenizer, tmp_path, caplog):
    trainer = make_trainer(tmp_path, bpe_tokenizer)
    for _ in range(2):
        trainer.evaluate(query_dataset(), max_length=20, num_beams=5)
    assert [message[:60] for message in told(caplog)] == [
        "max_length, num_beams of evaluate() has no effect here: the "
    ]
    for _ in range(2):
        trainer.predict(query_dataset(), do_sample=True)
    assert [message[:33] for message in told(caplog)[1:]] == ["do_sample of predict() has no eff"]


@pytest.fixture
def evaluator(corpus, queries, qrels, bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    return RetrievalEvaluator(index, identifiers, queries, qrels, metrics=["hits@5"], k=7, settings=SMALL)


def as_list(queries):
    return [*queries]


def as_stream(queries):
    return queries.to_iterable_dataset()


class MapStyle(torch.utils.data.Dataset):
    """Rows by their numbers, without an IndexError behind the last one."""

    def __init__(self, queries):
        self.rows = dict(enumerate(queries))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


@pytest.mark.parametrize("wrap", [datasets.Dataset.flatten_indices, as_list, as_stream, MapStyle])
def test_predictions_are_the_rank_lists_of_the_retriever(wrap, evaluator, bpe_tokenizer, tmp_path, caplog):
    others = datasets.Dataset.from_dict(
        {"query_id": ["n1", "n2", "n3"], "query": ["highest mountain", "who climbed it first", "a river"]}
    )
    collator = make_collator(bpe_tokenizer)
    trainer = make_trainer(
        tmp_path, bpe_tokenizer, collator=collator, trainer_settings={"retrieval_evaluator": evaluator}
    )
    trainer.model.train()
    output = trainer.predict(wrap(others))
    retriever = GenerativeRetriever(trainer.model, evaluator.identifiers, evaluator.index, settings=SMALL)
    assert isinstance(output.predictions, Rankings) and output.label_ids is None
    assert output.predictions == retriever.rank(others, k=7)
    assert set(output.predictions) == {"n1", "n2", "n3"} and len(output.predictions["n1"].passage_ids) == 7
    assert "test_loss" in output.metrics
    assert not told(caplog, "predictions")
    assert evaluator.rank(trainer.model) == retriever.rank(evaluator.queries, k=7), "its own queries by default"


class OnlyMetrics:
    """An evaluator of one's own, which has no rank lists."""

    def __call__(self, model, accelerator=None):
        return {"hits@5": 0.5}


class RanksItsOwn(OnlyMetrics):
    def rank(self, model, accelerator=None):
        raise AssertionError("these are other queries")


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (None, "the trainer has no retrieval_evaluator, which has the index to search in"),
        (OnlyMetrics(), r"the retrieval_evaluator has no method rank(model, accelerator, queries)"),
        (RanksItsOwn(), r"the retrieval_evaluator has no method rank(model, accelerator, queries)"),
    ],
)
def test_why_there_are_no_predictions(own, reason, bpe_tokenizer, tmp_path, caplog):
    trainer = make_trainer(tmp_path, bpe_tokenizer, trainer_settings={"retrieval_evaluator": own})
    output = trainer.predict(query_dataset())
    assert output.predictions is None and output.metrics["test_loss"] > 0
    assert told(caplog, "predictions") == [f"The predictions of predict() are None, because {reason}."]


def test_pairs_have_no_predictions(evaluator, bpe_tokenizer, tmp_path, caplog):
    trainer = make_trainer(tmp_path, bpe_tokenizer, trainer_settings={"retrieval_evaluator": evaluator})
    pairs = datasets.Dataset.from_list([{"input_ids": [5, 6], "labels": [7, 2]}])
    output = trainer.predict(pairs)
    assert output.predictions is None and torch.tensor(output.metrics["test_loss"]).isfinite()
    assert "the dataset has no queries (columns query_id and query)" in told(caplog, "predictions")[0]
