"""A query that is missing, blank or a number: its row and id are said before work starts, wherever queries enter."""

import datasets
import numpy as np
import pytest
from training_examples import TITLES, make_collator, make_rankings, make_trainer, query_dataset

from dgr_trainer import BM25Teacher, FunctionTeacher, GenerativeRetriever, RetrievalEvaluator, SearchSettings
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.pairs import generation_pairs

WRONG = {
    "missing": (None, r"query 'q04' is None \(NoneType\), not a string. It is missing"),
    "nan": (float("nan"), r"query 'q04' is nan \(float\), not a string. It is missing"),
    "whole number": (7, r"query 'q04' is 7 \(int\), not a string. Write it as a string"),
    "number": (2.5, r"query 'q04' is 2.5 \(float\), not a string. Write it as a string"),
    "empty": ("", "query 'q04' is blank. Leave it out, or give it its text"),
    "blank": (" \t\n", "query 'q04' is blank. Leave it out, or give it its text"),
}


def rows(value) -> list[dict]:
    """Queries of which the fourth is wrong."""
    return [{**row, "query": value if number == 3 else row["query"]} for number, row in enumerate(query_dataset())]


def as_dataset(value) -> datasets.Dataset:
    """A dataset whose column has the type of the value: a number among strings is a column of numbers."""
    if isinstance(value, (int, float)) and value == value:
        ids = ["q04", *(f"n{number}" for number in range(3))]
        return datasets.Dataset.from_dict({"query_id": ids, "query": [value] * 4})
    if isinstance(value, float):
        return datasets.Dataset.from_dict({"query_id": ["n", "q04"], "query": [1.5, value]}).select([1])
    return datasets.Dataset.from_list(rows(value))


@pytest.fixture(params=WRONG)
def wrong(request):
    return WRONG[request.param]


def refuses(message: str, location: str):
    return pytest.raises((TypeError, ValueError), match=f"{location}: the {message}")


def test_the_trainer_refuses_its_datasets(wrong, bpe_tokenizer, tmp_path):
    value, message = wrong
    with refuses(message, "row 3 of train_dataset"):
        make_trainer(tmp_path, bpe_tokenizer, train_dataset=rows(value))
    with refuses(message, r"row \d of train_dataset"):
        make_trainer(tmp_path, bpe_tokenizer, train_dataset=as_dataset(value))
    for given, name in ((rows(value), "eval_dataset"), ({"dev": rows(value)}, r"eval_dataset\['dev'\]")):
        with refuses(message, f"row 3 of {name}"):
            make_trainer(tmp_path, bpe_tokenizer, trainer_settings={"eval_dataset": given})


def test_the_trainer_refuses_datasets_that_come_later(wrong, bpe_tokenizer, tmp_path):
    value, message = wrong
    trainer = make_trainer(tmp_path, bpe_tokenizer)
    calls = []
    trainer.model.register_forward_hook(lambda *_: calls.append("forward"))
    with refuses(message, "row 3 of eval_dataset"):
        trainer.evaluate(rows(value))
    with refuses(message, r"row 3 of eval_dataset\['dev'\]"):
        trainer.evaluate({"test": query_dataset(), "dev": rows(value)})
    with refuses(message, "row 3 of test_dataset"):
        trainer.predict(rows(value))
    trainer.train_dataset = rows(value)
    with refuses(message, "row 3 of train_dataset"):
        trainer.train()
    assert not calls


def test_streams_are_refused_when_the_row_is_read(wrong, bpe_tokenizer, tmp_path):
    value, message = wrong
    stream = as_dataset(value).to_iterable_dataset()
    collator = DistillationCollator(bpe_tokenizer, TITLES, make_rankings())
    trainer = make_trainer(tmp_path, bpe_tokenizer, collator=collator, train_dataset=stream)
    with refuses(message, r"example \d of a batch"):
        trainer.train()
    with refuses(message, "example 3 of a batch"):
        make_collator(bpe_tokenizer)(rows(value))


def test_retriever_evaluator_pairs_and_teachers_refuse_them(wrong, corpus, qrels, bpe_tokenizer, bart, tmp_path):
    value, message = wrong
    identifiers = Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers)
    retriever = GenerativeRetriever(bart[0], identifiers, index, settings=SearchSettings(beam_size=2))
    entries = {
        "rank": retriever.rank,
        "candidates": retriever.candidates,
        "save_candidates": lambda queries: retriever.save_candidates(tmp_path / "candidates", queries),
        "evaluator": lambda queries: RetrievalEvaluator(index, identifiers, queries, qrels),
        "pairs": lambda queries: generation_pairs(corpus, identifiers, queries, qrels, progress=False),
        "bm25": BM25Teacher(corpus, stop_words=()).rank,
        "function": FunctionTeacher(lambda query, passages: [0.0] * len(passages), corpus).rank,
    }
    by_id = {row["query_id"]: row["query"] for row in rows(value)}
    for name, entry in entries.items():
        with refuses(message, "entry 3 of the queries"):
            entry(by_id)
        with refuses(message, r"row \d of the queries"):
            entry(as_dataset(value))
        assert not list(tmp_path.iterdir()), name


@pytest.mark.parametrize("value", [None, 7, float("nan"), np.float32(1.5)])
def test_search_says_which_query_is_none(value, corpus, bpe_tokenizer, bart):
    identifiers = Identifiers(bpe_tokenizer)
    retriever = GenerativeRetriever(bart[0], identifiers, FMIndex.from_corpus(corpus, identifiers))
    with pytest.raises(TypeError, match=r"A query is .*\. Give strings: this is query 1 of 3, counted from 0"):
        retriever.search(["a", value, "b"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "row 3 of train_dataset: the query id is None"),
        ("", "row 3 of train_dataset: the query id is empty"),
        (1.5, "row 3 of train_dataset: the query id is 1.5"),
        ("q 4", "row 3 of train_dataset: the query id 'q 4' holds whitespace"),
    ],
)
def test_an_id_that_is_none_is_refused_with_its_row(value, message, bpe_tokenizer, tmp_path):
    queries = [{**row, "query_id": value if number == 3 else row["query_id"]} for number, row in enumerate(rows("x"))]
    with pytest.raises((TypeError, ValueError), match=message):
        make_trainer(tmp_path, bpe_tokenizer, train_dataset=queries)
