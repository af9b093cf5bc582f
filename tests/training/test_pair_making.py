"""Generation pairs in batches and in several processes: the pairs of one query and passage at a time."""

import importlib.util
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from languages import passages_in, tokenizer_for

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.identifiers.unknown_text import UnknownText
from dgr_trainer.training import pair_making, pairs
from dgr_trainer.training.pairs import generation_pairs

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pairs.py"


@pytest.fixture(scope="module")
def one_at_a_time():
    specification = importlib.util.spec_from_file_location("benchmarks_pairs", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.one_at_a_time


def rows(dataset):
    return list(zip(dataset["input_ids"], dataset["labels"], strict=True))


@pytest.mark.parametrize("views", [("title", "substring", "pseudo_query"), VIEWS])
def test_same_pairs_as_one_at_a_time(tokenizer, corpus, queries, qrels, one_at_a_time, views, monkeypatch):
    monkeypatch.setattr(pairs, "_CHUNK", 7)
    monkeypatch.setattr(pair_making, "_REMEMBERED_PASSAGES", 3)
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=views))
    corpus = Corpus.from_passages(replace(passage, docid=passage.title) for passage in corpus)
    texts = dict(zip(queries["query_id"], queries["query"], strict=True))
    made = generation_pairs(corpus, identifiers, texts, qrels, samples_per_passage=0, progress=False)
    assert rows(made) == list(one_at_a_time(corpus, identifiers, texts, qrels))


@pytest.mark.parametrize("language", ["japanese", "thai", "german"])
def test_same_pairs_as_one_at_a_time_in_other_languages(one_at_a_time, language):
    identifiers = Identifiers(tokenizer_for(language, "unigram"))
    corpus = Corpus.from_passages(passages_in(language))
    texts = {f"q{n}": passage.title for n, passage in enumerate(corpus)}
    qrels = {f"q{n}": {passage.id: 1} for n, passage in enumerate(corpus)}
    made = generation_pairs(corpus, identifiers, texts, qrels, samples_per_passage=0, progress=False)
    assert rows(made) == list(one_at_a_time(corpus, identifiers, texts, qrels))


def test_same_pairs_and_warnings_in_any_number_of_processes(
    unigram_tokenizer, corpus, queries, qrels, monkeypatch, caplog
):
    monkeypatch.setattr(pairs, "_CHUNK", 5)
    identifiers = Identifiers(unigram_tokenizer, IdentifierSettings(max_query_length=25))
    strange = [Passage(f"s{n}", "river" if n else "river 東京", "a long river 大阪", ("京都 a",)) for n in range(3)]
    corpus = Corpus.from_passages([*corpus, *strange])
    told = []
    for num_proc in (None, 1, 2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="dgr_trainer"):
            made = generation_pairs(corpus, identifiers, queries, qrels, num_proc=num_proc, progress=False)
        told.append((rows(made), sorted(caplog.messages)))
    assert told[0] == told[1] == told[2]
    messages = " ".join(told[0][1])
    assert "does not know" in messages and "are cut to max_query_length=25" in messages
    assert os.environ.get("TOKENIZERS_PARALLELISM") == "false"  # As conftest sets it.


def test_counts_of_parts_are_those_of_the_whole(unigram_tokenizer, caplog):
    identifiers = Identifiers(unigram_tokenizer)
    passages = [Passage(f"p{n}", f"river {'東大京'[n % 3]}", "a long river 大", ("the 京 river",)) for n in range(9)]
    encoded = identifiers.encode_segments(passages)
    whole, merged, part = (UnknownText(identifiers) for _ in range(3))
    whole.add(passages, encoded)
    for start in range(0, 9, 2):
        part.add(passages[start : start + 2], encoded[start : start + 2])
        merged.merge(part.taken())
    assert part.num_passages == 0
    told = []
    for counted in (whole, merged):
        caplog.clear()
        counted.report()
        told.append(caplog.messages[:])
    assert told[0] == told[1] and len(told[0]) == 4


def test_a_wrong_number_of_processes(bpe_identifiers, corpus):
    with pytest.raises(ValueError, match="num_proc=0: give the number of processes, at least 1"):
        generation_pairs(corpus, bpe_identifiers, num_proc=0)
