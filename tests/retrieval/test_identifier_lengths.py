"""What can be indexed and trained is found, however long it is; a limit that hides identifiers is said."""

import logging
import random

import numpy as np
import pytest
import torch
from tiny_models import make_bart, make_t5

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings, identifier_lengths
from dgr_trainer.retrieval.identifier_lengths import generated_lengths, longest_identifier
from dgr_trainer.retrieval.search_engine import SearchEngine
from dgr_trainer.training.collator import DistillationCollator

NUMBER = 6
QUERY = "which river is the longest"


def url(number):
    """An address of 20 to 90 tokens, all of which the tokenizers know."""
    words = ["river", "mountain", "town", "island", "volcano", "painter", "engine", "planet"]
    drawn = random.Random(number).choices(words, k=4 + 5 * number)
    return "www.example.org." + ".".join(drawn)


def passages_with(view):
    values = [url(number) for number in range(NUMBER)]
    if view == "title":
        return [Passage(f"p{n}", title=value, text="a river") for n, value in enumerate(values)]
    if view == "docid":
        return [Passage(f"p{n}", "river", docid=value) for n, value in enumerate(values)]
    return [Passage(f"p{n}", "river", pseudo_queries=(value, "river" + " sea" * n)) for n, value in enumerate(values)]


@pytest.fixture(params=["bart", "t5"])
def long_student(request, bpe_tokenizer, unigram_tokenizer):
    if request.param == "bart":
        return make_bart(bpe_tokenizer, max_position_embeddings=256), bpe_tokenizer
    return make_t5(unigram_tokenizer), unigram_tokenizer


def log_likelihood(model, prompt, ids):
    read = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=read, use_cache=False).logits[0]
    return logits.log_softmax(-1)[range(len(ids)), list(ids)].sum().item()


def identifiers_of(view, identifiers, passage):
    segments = identifiers.encode_segments([passage])[0]
    own = {"title": [segments.title], "docid": [segments.docid], "pseudo_query": segments.pseudo_queries}[view]
    return [identifiers.target(view, ids) for ids in own]


@pytest.mark.parametrize("view", ["title", "docid"])
def test_every_passage_is_found_with_the_likelihood_of_its_identifier(long_student, view):
    model, tokenizer = long_student
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=(view,)))
    passages = passages_with(view)
    index = FMIndex.from_corpus(Corpus.from_passages(passages), identifiers, progress=False)
    retriever = GenerativeRetriever(
        model, identifiers, index, settings=SearchSettings(beam_size=NUMBER),
        scoring=ScoringSettings(kind="log_likelihood"),
    )  # fmt: skip
    (prompt,) = identifiers.encode_prompts([QUERY], view)
    expected = {p.id: log_likelihood(model, prompt, identifiers_of(view, identifiers, p)[0]) for p in passages}
    assert max(len(identifiers_of(view, identifiers, p)[0]) for p in passages) > 60
    found = {hit.passage_id: hit.score for hit in retriever.search(QUERY, k=NUMBER)[0]}
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("view", ["title", "docid", "pseudo_query"])
@pytest.mark.parametrize("beside", [False, True])
def test_all_identifiers_of_a_view_are_generated(long_student, view, beside):
    model, tokenizer = long_student
    others = ("title", "substring") if beside and view != "title" else ("substring",) if beside else ()
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=(*others, view)))
    passages = passages_with(view)
    index = FMIndex.from_corpus(Corpus.from_passages(passages), identifiers, progress=False)
    retriever = GenerativeRetriever(
        model, identifiers, index, settings=SearchSettings(beam_size=2 * NUMBER, unigrams=0, query_ngrams=False)
    )
    engine_lengths = generated_lengths(model, identifiers, retriever.settings)
    assert engine_lengths[view] >= 256
    (result,) = SearchEngine(retriever._parts).query_identifiers([QUERY], [np.empty(0, np.int64)])
    generated = {identifier.ids for identifier in result.weighted if identifier.view == view}
    wanted = {ids for passage in passages for ids in identifiers_of(view, identifiers, passage)}
    assert generated == wanted
    longest = max(wanted, key=len)
    assert index.count(identifiers.pattern(view, longest)) == 1
    assert longest_identifier(index, identifiers.prefix(view), identifiers.end(view)) == len(longest)


def test_a_student_that_learned_a_long_url_finds_it_first(bpe_tokenizer):
    """A docid of 60 tokens, trained with the collator's batches, is the first hit."""
    torch.manual_seed(1)
    model = make_bart(bpe_tokenizer, max_position_embeddings=256).train()
    strings = {f"p{n}": url(n) for n in range(NUMBER)}
    collator = DistillationCollator(bpe_tokenizer, strings, None, {"q": {"p4": 1}})
    target = collator.source.matched("q", ["p4"], 1)[0][0].ids
    assert len(target) >= 60
    docids = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",)))
    (prompt,) = docids.encode_prompts([QUERY], "docid")
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(100):
        loss = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([list(target)])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    passages = [Passage(id, "river", docid=string) for id, string in strings.items()]
    index = FMIndex.from_corpus(Corpus.from_passages(passages), docids, progress=False)
    for scoring in (ScoringSettings(kind="log_likelihood"), ScoringSettings()):
        retriever = GenerativeRetriever(model, docids, index, settings=SearchSettings(beam_size=2), scoring=scoring)
        hits = retriever.search(QUERY)[0]
        assert hits[0].passage_id == "p4"
        assert docids.text("docid", hits[0].identifiers[0].ids) == strings["p4"]


@pytest.mark.parametrize("view", VIEWS)
def test_the_longest_identifier_of_every_view(every_view, every_index, passages, view):
    segments = every_view.encode_segments(passages)
    prefix, end = every_view.prefix(view), every_view.end(view)
    lengths = {
        "title": [len(one.title) for one in segments],
        "docid": [len(one.docid) for one in segments],
        "pseudo_query": [len(ids) for one in segments for ids in one.pseudo_queries],
    }
    if end:
        assert longest_identifier(every_index, prefix, end) == max(lengths[view]) + len(end)


def test_only_the_longest_passages_of_a_large_index_are_measured(bpe_tokenizer, monkeypatch):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",)))
    passages = passages_with("docid")
    index = FMIndex.from_corpus(Corpus.from_passages(passages), identifiers, progress=False)
    longest = max(len(identifiers_of("docid", identifiers, passage)[0]) for passage in passages)
    for tokens in (1, 200, int(index.passage_lengths.sum())):
        monkeypatch.setattr("dgr_trainer.retrieval.identifier_lengths._MEASURED_TOKENS", tokens)
        assert longest_identifier(index, identifiers.prefix("docid"), identifiers.end("docid")) == longest


def test_no_identifier_of_a_view(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("pseudo_query",)))
    index = FMIndex.from_corpus(Corpus.from_passages([Passage("p", "river")]), identifiers, progress=False)
    assert longest_identifier(index, identifiers.prefix("pseudo_query"), identifiers.end("pseudo_query")) == 0


@pytest.mark.parametrize(
    ("views", "limit", "level"),
    [
        (("docid",), "docid_length", logging.WARNING),
        (("title",), "title_length", logging.WARNING),
        (("pseudo_query",), "pseudo_query_length", logging.WARNING),
        (("title", "docid"), "docid_length", logging.WARNING),
        (("title", "substring"), "title_length", logging.INFO),
    ],
)
def test_a_limit_that_hides_identifiers_is_said(bpe_tokenizer, caplog, views, limit, level):
    view = limit.removesuffix("_length")
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=views))
    passages = passages_with(view)
    index = FMIndex.from_corpus(Corpus.from_passages(passages), identifiers, progress=False)
    longest = max(len(ids) for passage in passages for ids in identifiers_of(view, identifiers, passage))
    model = make_bart(bpe_tokenizer, max_position_embeddings=256)
    with caplog.at_level(logging.INFO, "dgr_trainer.retrieval.identifier_lengths"):
        retriever = GenerativeRetriever(model, identifiers, index, settings=SearchSettings(**{limit: longest}))
        assert not caplog.records
        # Other numbers in each test: a message is said once.
        short = 30 + len(views) + len(limit)
        retriever.settings = SearchSettings(**{limit: short})
        GenerativeRetriever(model, identifiers, index, settings=SearchSettings(**{limit: short}))
    (record,) = caplog.records
    assert record.levelno == level
    name = view.replace("_", "-")
    assert f"{limit} is {short}, but the longest {name} of the index has {longest} tokens" in record.getMessage()


def test_an_index_is_measured_once_and_only_where_there_is_a_limit(bpe_tokenizer, monkeypatch):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",)))
    index = FMIndex.from_corpus(Corpus.from_passages(passages_with("docid")), identifiers, progress=False)
    measured = []
    monkeypatch.setattr(identifier_lengths, "longest_identifier", lambda *arguments: measured.append(arguments) or 99)
    without_limit, with_limit = make_t5(bpe_tokenizer), make_bart(bpe_tokenizer, max_position_embeddings=32)
    GenerativeRetriever(without_limit, identifiers, index)
    assert not measured and "passage_lengths" not in vars(index)
    for _ in range(3):
        GenerativeRetriever(with_limit, identifiers, index)
    assert len(measured) == 1


def test_a_decoder_with_too_few_positions_is_said_and_does_not_fail(bpe_tokenizer, caplog):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",)))
    index = FMIndex.from_corpus(Corpus.from_passages(passages_with("docid")), identifiers, progress=False)
    model = make_bart(bpe_tokenizer, max_position_embeddings=48)
    with caplog.at_level(logging.WARNING):
        retriever = GenerativeRetriever(
            model, identifiers, index, settings=SearchSettings(beam_size=NUMBER),
            scoring=ScoringSettings(kind="log_likelihood"),
        )  # fmt: skip
    assert "The decoder has 48 positions, but the longest docid of the index has" in caplog.text
    found = {hit.passage_id for hit in retriever.search(QUERY, k=NUMBER)[0]}
    short = {p.id for p in passages_with("docid") if len(identifiers_of("docid", identifiers, p)[0]) <= 48}
    assert found == short and 0 < len(short) < NUMBER
