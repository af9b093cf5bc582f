import datasets
import pytest

from dgr_trainer import Corpus, Passage
from dgr_trainer.data.queries import qrels_from_dataset, queries_from_dataset

PASSAGES = {"docno": [7, 8, 9], "contents": ["x", "y", ""], "title": ["T", None, ""]}
QUESTIONS = {"question": ["who", "what", " "], "answer": [["a"], ["b", "c"], []], "n": [0, 0, 0]}
JUDGEMENTS = {"query-id": ["1", "1", "2"], "corpus-id": [7, 8, 9], "score": [2, 0, 1]}


def _stream(columns):
    return datasets.Dataset.from_dict(columns).to_iterable_dataset(num_shards=min(2, *map(len, columns.values())))


def _untold(columns):
    """A stream that does not tell its columns."""

    def rows():
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))

    stream = datasets.IterableDataset.from_generator(rows)
    assert stream.column_names is None
    return stream


KINDS = pytest.mark.parametrize("kind", [datasets.Dataset.from_dict, _stream, _untold])


@KINDS
def test_a_corpus(kind):
    corpus = Corpus.from_dataset(kind(PASSAGES), {"id": "docno", "text": "contents"})
    assert list(corpus) == [Passage("7", "T", "x"), Passage("8", "", "y")]
    assert list(Corpus.from_dataset(kind(PASSAGES))) == list(corpus), "these names are known"
    unknown = {"key": [1], "words": ["x"]}
    with pytest.raises(ValueError, match=r"The dataset has no column 'id'; its columns are \['key', 'words'"):
        Corpus.from_dataset(kind(unknown))


@KINDS
def test_queries(kind, caplog):
    queries = queries_from_dataset(kind(QUESTIONS))
    assert queries[:] == {"query_id": ["0", "1"], "query": ["who", "what"], "answers": [["a"], ["b", "c"]]}
    assert "the dataset: 1 of 3 queries are blank and were dropped" in caplog.text
    with pytest.raises(ValueError, match="row 1 of the dataset: the query id '0' was already on row 0"):
        queries_from_dataset(kind(QUESTIONS), {"query_id": "n"})
    named = queries_from_dataset(kind({"no": [5], "ask": ["who"]}), {"query_id": "no", "query": "ask"})
    assert named[:] == {"query_id": ["5"], "query": ["who"]}


@KINDS
def test_judgements(kind):
    assert qrels_from_dataset(kind(JUDGEMENTS)) == {"1": {"7": 2, "8": 0}, "2": {"9": 1}}
    found = qrels_from_dataset(kind({"q": [1], "p": ["x"]}), {"query_id": "q", "passage_id": "p"})
    assert found == {"1": {"x": 1}}


def test_what_does_not_fit_is_refused():
    make = datasets.Dataset.from_dict
    with pytest.raises(ValueError, match=r"no column \['query'\]; its columns are \['n'\]. Name"):
        queries_from_dataset(make({"n": [1]}))
    with pytest.raises(ValueError, match=r"no column \['ask'\]"):
        queries_from_dataset(make(QUESTIONS), {"query": "ask"})
    with pytest.raises(ValueError, match=r"columns names the fields \['text'\], but there are only"):
        queries_from_dataset(make(QUESTIONS), {"text": "question"})
    with pytest.raises(TypeError, match="row 0 of the dataset: the query '0' is 1 .int., not a string"):
        queries_from_dataset(make({"query": [1]}))
    with pytest.raises(TypeError, match="row 0 of the dataset: answers is 'a', but it has to be a list of strings"):
        queries_from_dataset(make({"query": ["who"], "answers": ["a"]}))
    with pytest.raises(
        ValueError, match="row 0 of the dataset: the relevance of 'a' for query '1' is 0.5, not an integer"
    ):
        qrels_from_dataset(make({"query_id": ["1"], "passage_id": ["a"], "score": [0.5]}))
    with pytest.raises(TypeError, match=r"splits \['train'\]. Choose one of them"):
        queries_from_dataset(datasets.DatasetDict(train=make(QUESTIONS)))
    with pytest.raises(TypeError, match="Got a list, but a datasets.Dataset is needed"):
        qrels_from_dataset([1])
