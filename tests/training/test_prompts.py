"""Prompts that are tokenised ahead of training."""

import datasets
import pytest
import torch
from tiny_models import make_bart
from training_examples import make_collator, make_trainer, query_dataset

from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever
from dgr_trainer.training.prompts import with_prompts


@pytest.mark.parametrize("kind", ["candidates", "strings"])
@pytest.mark.parametrize("arrays", [None, "numpy", "torch"])
def test_batches_are_those_of_prompts_tokenised_late(arrays, kind, tokenizer):
    collator = make_collator(tokenizer, kind)
    queries = query_dataset()
    ahead = with_prompts(queries, collator.identifiers, progress=False).with_format(arrays)
    late, early = collator([*queries]), collator([*ahead])
    assert late.keys() == early.keys()
    assert all(torch.equal(late[name], early[name]) for name in late)


def test_training_and_evaluation_tokenise_nothing(bpe_tokenizer, tmp_path, monkeypatch):
    evaluated = {"one": query_dataset().select(range(4)), "other": query_dataset()}
    trainer = make_trainer(tmp_path, bpe_tokenizer, trainer_settings={"eval_dataset": evaluated})
    monkeypatch.setattr(Identifiers, "encode_prompts", None)
    trainer.train()
    assert {"eval_one_loss", "eval_other_loss"} <= set(trainer.evaluate())
    # A dataset that comes later is tokenised as it is read.
    with pytest.raises(TypeError, match="NoneType"):
        trainer.evaluate(query_dataset())
    monkeypatch.undo()
    assert trainer.evaluate(query_dataset())["eval_loss"] > 0


def test_datasets_of_another_kind_are_left_alone(bpe_tokenizer, tmp_path):
    stream = query_dataset().to_iterable_dataset()
    trainer = make_trainer(tmp_path, bpe_tokenizer, train_dataset=stream)
    assert trainer.train_dataset is stream
    trainer.train()


def test_a_dataset_on_disk_is_tokenised_once(bpe_tokenizer, tmp_path, monkeypatch):
    query_dataset().save_to_disk(tmp_path / "queries")
    queries = datasets.load_from_disk(tmp_path / "queries")
    identifiers = Identifiers(bpe_tokenizer)
    first = with_prompts(queries, identifiers, progress=False)
    encode, calls = Identifiers.encode_prompts, []
    monkeypatch.setattr(Identifiers, "encode_prompts", lambda self, *args: calls.append(1) or encode(self, *args))
    again = with_prompts(datasets.load_from_disk(tmp_path / "queries"), identifiers, progress=False)
    assert not calls and again["prompt_ids"] == first["prompt_ids"]
    # Other prompts are other tokens, also over a column that is there already.
    settings = IdentifierSettings(views=("title",), prompts={"title": "name {query}"})
    other = with_prompts(again, Identifiers(bpe_tokenizer, settings), progress=False)
    assert calls and len(other[0]["prompt_ids"]) == 1
    assert other[0]["prompt_ids"][0] == encode(Identifiers(bpe_tokenizer, settings), [queries[0]["query"]], "title")[0]


def test_progress_bars_are_as_they_were(bpe_tokenizer):
    shown = datasets.is_progress_bar_enabled()
    with_prompts(query_dataset(), Identifiers(bpe_tokenizer), progress=False)
    assert datasets.is_progress_bar_enabled() == shown


def cut_messages(caplog):
    return [record.getMessage() for record in caplog.records if "max_query_length" in record.getMessage()]


@pytest.mark.parametrize("views", [("docid",), ("title", "substring")])
def test_queries_that_are_cut_are_counted_once(bpe_tokenizer, views, tmp_path, caplog):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=views, max_query_length=30))
    texts = ["river", "river " * 100, "town " * 24, "sea " * 40]
    dataset = datasets.Dataset.from_dict({"query_id": list("abcd"), "query": texts})
    prompts = [f" {t.strip()} || title || +" if len(views) > 1 else t.strip() for t in texts]
    lengths = [len(ids) for ids in bpe_tokenizer(prompts)["input_ids"]]
    expected = sum(length > 30 for length in lengths)
    assert 1 < expected < 4
    dataset.save_to_disk(tmp_path / "queries")
    for _ in range(2):  # Also when the prompts come from the cache.
        caplog.clear()
        with_prompts(datasets.load_from_disk(tmp_path / "queries"), identifiers, progress=False)
        (message,) = cut_messages(caplog)
        assert message.startswith(f"{expected} of 4 queries are cut to max_query_length=30 tokens")
        assert f"the longest has {max(lengths)}" in message and "IdentifierSettings(max_query_length=" in message
    caplog.clear()
    with_prompts(dataset, identifiers, progress=False, report=False)
    with_prompts(dataset.select([0]), identifiers, progress=False)
    exact = Identifiers(bpe_tokenizer, IdentifierSettings(views=views, max_query_length=max(lengths)))
    with_prompts(dataset, exact, progress=False)
    assert cut_messages(caplog) == []


def test_the_trainer_says_how_many_queries_are_cut(bpe_tokenizer, tmp_path, caplog):
    queries = query_dataset()
    texts = [text if number else "which river is the longest " * 30 for number, text in enumerate(queries["query"])]
    long = queries.remove_columns("query").add_column("query", texts)
    trainer = make_trainer(tmp_path, bpe_tokenizer, train_dataset=long, trainer_settings={"eval_dataset": queries})
    trainer.train()
    (message,) = cut_messages(caplog)
    assert message.startswith(f"1 of {len(queries)} queries are cut to max_query_length=64 tokens")


@pytest.mark.parametrize("where", ["collator", "search"])
def test_a_query_that_is_cut_is_said_once_where_it_is_tokenised_late(where, bpe_tokenizer, corpus, caplog):
    collator = make_collator(bpe_tokenizer, "strings")
    query = "which river is the longest " * 30
    if where == "collator":
        features = [{"query_id": query_dataset()[0]["query_id"], "query": query}]
        for _ in range(3):
            collator(features)
    else:
        docids = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",)))
        index = FMIndex.from_corpus(corpus, docids, progress=False)
        retriever = GenerativeRetriever(make_bart(bpe_tokenizer), docids, index)
        for _ in range(3):
            retriever.search([query, query])
    (message,) = cut_messages(caplog)
    length = len(bpe_tokenizer(query.strip())["input_ids"])
    assert f"its prompt has {length} tokens, but max_query_length is 64" in message


@pytest.mark.parametrize("views", [("docid",), ("title", "substring")])
def test_queries_that_the_tokenizer_does_not_know_are_counted_once(unigram_tokenizer, views, caplog):
    identifiers = Identifiers(unigram_tokenizer, IdentifierSettings(views=views))
    texts = ["river 東京", "the river", "大阪", "sea", "town"]
    dataset = datasets.Dataset.from_dict({"query_id": list("abcde"), "query": texts})
    with_prompts(dataset, identifiers, progress=False)
    (message,) = [record.getMessage() for record in caplog.records]
    assert (
        message.startswith("2 of 5 queries hold text that the tokenizer does not know") and "'river 東京'" in message
    )
    caplog.clear()
    with_prompts(dataset, identifiers, progress=False, report=False)
    with_prompts(dataset.select([1, 3]), identifiers, progress=False)
    assert not caplog.records
    with pytest.raises(ValueError, match="The tokenizer knows no letter of 2 of 3 queries, for example '大阪'"):
        foreign = datasets.Dataset.from_dict({"query_id": list("abc"), "query": ["大阪", "京都？", "sea"]})
        with_prompts(foreign, identifiers, progress=False)


def test_an_empty_dataset_has_no_prompts(bpe_tokenizer, tmp_path):
    empty = query_dataset().select([])
    assert len(with_prompts(empty, Identifiers(bpe_tokenizer), progress=False)) == 0
    trainer = make_trainer(tmp_path, bpe_tokenizer, trainer_settings={"eval_dataset": empty})
    assert "eval_runtime" in trainer.evaluate()
