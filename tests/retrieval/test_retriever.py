import logging

import numpy as np
import pytest
import torch
from tiny_models import make_bart

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import GenerativeRetriever, SearchSettings
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.student.likelihoods import score_identifiers

SMALL = SearchSettings(beam_size=5)


@pytest.fixture(scope="module")
def identifiers(bpe_tokenizer):
    return Identifiers(bpe_tokenizer)


@pytest.fixture(scope="module")
def index(corpus, identifiers):
    return FMIndex.from_corpus(corpus, identifiers)


@pytest.fixture(scope="module")
def retriever(bpe_tokenizer, identifiers, index, corpus):
    return GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, corpus=corpus, settings=SMALL)


@pytest.fixture(scope="module")
def by_docid(bpe_tokenizer, corpus):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("docid",)))
    return GenerativeRetriever(
        make_bart(bpe_tokenizer), identifiers, FMIndex.from_corpus(corpus, identifiers), settings=SMALL,
        scoring=ScoringSettings(kind="log_likelihood"),
    )  # fmt: skip


def plain(hits):
    return [(hit.passage_id, pytest.approx(hit.score, rel=1e-4)) for hit in hits]


def test_hits_are_ranked_and_explain_their_scores(student, every_view, every_index, text, count):
    retriever = GenerativeRetriever(student[0], every_view, every_index, settings=SMALL)
    for hits in retriever.search(["who discovered penicillin", "the sea"], k=5):
        assert 0 < len(hits) <= 5
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert hit.score == pytest.approx(sum(one.score for one in hit.identifiers)) and hit.score > 0
            passage = [every_view.eos_token_id, *every_index.extract(every_index.passage_position(hit.passage_id))]
            for one in hit.identifiers:
                pattern = every_view.pattern(one.view, one.ids)
                assert one.count == count(text, pattern)
                assert count([*passage, every_view.eos_token_id], pattern) > 0


def test_words_of_the_query_are_identifiers_unless_left_out(bpe_tokenizer, identifiers, index, monkeypatch):
    """A random model gives them no weight, so they are made as likely as the model's own."""
    asked = []

    def likely(model, prompts, ids):
        asked.append(ids)
        return [[-0.5] * len(of_query) for of_query in ids]

    monkeypatch.setattr("dgr_trainer.retrieval.search_engine.score_identifiers", likely)
    found = {}
    for query_ngrams in (True, False):
        settings = SearchSettings(beam_size=5, query_ngrams=query_ngrams)
        retriever = GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, settings=settings)
        hits = retriever.search("johannes gutenberg of Mainz", k=24)[0]
        found[query_ngrams] = {retriever.identifier_text(one) for hit in hits for one in hit.identifiers}
        if query_ngrams:
            assert hits[0].passage_id == "p15"
    assert len(asked) == 1
    assert "Mainz" in found[True] and "Mainz" not in found[False]


def test_a_trained_model_finds_what_it_was_taught(bart, corpus, queries, qrels):
    model, tokenizer = bart
    identifiers = Identifiers(tokenizer)
    taught = [(query, max(qrels[id], key=qrels[id].get)) for id, query in zip(*queries[:].values(), strict=True)]
    prompts, targets = [], []
    for view in identifiers.views:
        prompts += identifiers.encode_prompts([query for query, _ in taught], view)
        for _, passage in taught:
            segments = identifiers.encode_segments([corpus.get(passage)])[0]
            of_view = {"title": [segments.title], "pseudo_query": segments.pseudo_queries, "substring": []}[view]
            targets.append(identifiers.target(view, [*of_view, segments.body[:8]][0]))
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
    labels = [[*ids, *[-100] * (max(map(len, targets)) - len(ids))] for ids in targets]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(50):
        model(**batch, labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    retriever = GenerativeRetriever(model, identifiers, FMIndex.from_corpus(corpus, identifiers), settings=SMALL)
    found = retriever.search([query for query, _ in taught], k=1)
    right = [hits[0].passage_id == passage for hits, (_, passage) in zip(found, taught, strict=True)]
    assert all(right)
    texts = {(one.view, retriever.identifier_text(one)) for one in found[8][0].identifiers}
    assert {("title", "Piano"), ("pseudo_query", "who invented the piano")} <= texts


@pytest.mark.parametrize("size", [1, 4])
def test_batches_make_no_difference(bpe_tokenizer, identifiers, index, queries, retriever, size):
    settings = SearchSettings(beam_size=5, batch_size=size)
    other = GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, settings=settings)
    texts = [*queries["query"][:6], ""]
    for hits, expected in zip(other.search(texts, k=4), retriever.search(texts, k=4), strict=True):
        assert [(hit.passage_id, hit.score) for hit in hits] == plain(expected)


def test_the_order_of_queries_makes_no_difference(retriever, queries):
    texts = [*queries["query"][:5], "", "moon"]
    expected = dict(zip(texts, retriever.search(texts, k=4), strict=True))
    for order in (texts[::-1], [texts[place] for place in (3, 0, 6, 5, 1, 4, 2)]):
        for text, hits in zip(order, retriever.search(order, k=4), strict=True):
            assert [(hit.passage_id, hit.score) for hit in hits] == plain(expected[text])


def test_queries_without_words(retriever):
    assert retriever.search([]) == []
    assert retriever.search(["", "  \n"]) == [[], []]
    assert len(retriever.search(["", "moon"])[1]) > 0
    assert retriever.search("xyzzy plugh ???")  # No known word: the model still generates identifiers.


def test_more_passages_asked_for_than_there_are(retriever, by_docid):
    assert len(retriever.search("sea", k=10_000)[0]) <= 24
    assert len(by_docid.search("sea", k=10_000)[0]) <= 24


def test_included_passages_are_always_scored(retriever):
    alone = retriever.search("sea", k=2)[0]
    far = retriever.search("sea", k=24)[0][-1]
    hits = retriever.search("sea", k=2, include=[[far.passage_id, alone[0].passage_id, "p24"]])[0]
    assert [hit.passage_id for hit in hits][:2] == [hit.passage_id for hit in alone]
    assert {hit.passage_id for hit in hits} == {hit.passage_id for hit in alone} | {far.passage_id, "p24"}
    assert next(hit.score for hit in hits if hit.passage_id == far.passage_id) == pytest.approx(far.score)
    assert [hit.passage_id for hit in retriever.search("", k=2, include=[["p03"]])[0]] == ["p03"]


def test_a_score_is_the_likelihood_of_the_docid(by_docid, passages):
    """The search, with a beam that holds all, against scoring every docid."""
    identifiers, query = by_docid.identifiers, "who discovered penicillin"
    wide = GenerativeRetriever(
        by_docid.model, identifiers, by_docid.index, settings=SearchSettings(beam_size=24), scoring=by_docid.scoring
    )
    targets = [identifiers.target("docid", segments.docid) for segments in identifiers.encode_segments(passages)]
    prompts = identifiers.encode_prompts([query], "docid")
    exact = dict(zip((p.id for p in passages), score_identifiers(by_docid.model, prompts, [targets])[0], strict=True))
    hits = wide.search(query, k=24)[0]
    assert {hit.passage_id: hit.score for hit in hits} == pytest.approx(exact, rel=1e-5)
    assert [hit.passage_id for hit in hits] == sorted(exact, key=lambda id: -exact[id])
    # A narrow beam does not find all of them; included passages are scored anyway.
    worst = hits[-1]
    found = by_docid.search(query, k=1, include=[[worst.passage_id]])[0]
    assert (found[-1].passage_id, found[-1].score) == (worst.passage_id, pytest.approx(worst.score, rel=1e-5))
    assert by_docid.identifier_text(found[-1].identifiers[0]) == worst.passage_id


def test_passages_that_share_an_identifier_are_all_found_larger_id_first(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("title",)))
    corpus = Corpus.from_passages([Passage(f"p{i}", "Moon" if i < 3 else "Nile", "") for i in range(4)])
    retriever = GenerativeRetriever(
        make_bart(bpe_tokenizer), identifiers, FMIndex.from_corpus(corpus, identifiers),
        scoring=ScoringSettings(kind="log_likelihood"),
    )  # fmt: skip
    ids = [hit.passage_id for hit in retriever.search("moon", k=4)[0]]
    assert sorted(ids) == ["p0", "p1", "p2", "p3"]
    assert [id for id in ids if id != "p3"] == ["p2", "p1", "p0"]
    assert retriever.search("moon", k=2)[0] == retriever.search("moon", k=4)[0][:2]


def test_included_passages_of_a_common_title_or_of_none_are_hits(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("title",)))
    passages = [Passage(f"p{n}", "The Nile", "") for n in range(4)]
    passages += [Passage("moon", "Moon", ""), Passage("untitled", "", "a river")]
    retriever = GenerativeRetriever(
        make_bart(bpe_tokenizer), identifiers, FMIndex.from_corpus(Corpus.from_passages(passages), identifiers),
        settings=SearchSettings(beam_size=5, max_occurrences=2), scoring=ScoringSettings(kind="log_likelihood"),
    )  # fmt: skip
    everyone = [passage.id for passage in passages]
    assert len(retriever.search("a river", k=9)[0]) == 3
    hits = {hit.passage_id: hit for hit in retriever.search("a river", k=1, include=[everyone])[0]}
    assert set(hits) == set(everyone)
    assert len({hits[id].score for id in ("p0", "p1", "p2", "p3")}) == 1
    assert list(hits)[-1] == "untitled" and hits["untitled"].score == -1e9 and hits["untitled"].identifiers == ()
    assert identifiers.text("title", hits["p3"].identifiers[0].ids) == "The Nile"
    # Each alone, and as a relevant passage.
    for id in everyone:
        assert id in [hit.passage_id for hit in retriever.search("a river", k=1, include=[[id]])[0]]
        found = retriever.candidates({"q": "a river"}, k=1, relevant={"q": {id: 1}})["q"]
        assert id in [candidate.passage_id for candidate in found]
    without_words = retriever.search("", k=3, include=[["p3", "moon"]])[0]
    assert [(hit.passage_id, hit.score) for hit in without_words] == [("p3", -1e9), ("moon", -1e9)]


def test_rank_gives_the_same_order_as_search(retriever, queries):
    rankings = retriever.rank(queries, k=7)
    assert isinstance(rankings, Rankings) and list(rankings) == queries["query_id"]
    for query_id, hits in zip(rankings, retriever.search(queries["query"], k=7), strict=True):
        assert list(rankings[query_id].passage_ids) == [hit.passage_id for hit in hits]
        assert rankings[query_id].scores.tolist() == [hit.score for hit in hits]


def test_candidates_are_the_found_and_the_relevant_passages(retriever, queries, qrels):
    candidates = retriever.candidates(queries, k=3, relevant=qrels)
    found = dict(zip(queries["query_id"], retriever.search(queries["query"], k=3), strict=True))
    identifiers, index = retriever.identifiers, retriever.index
    assert candidates.corpus_tokens == index.num_tokens
    assert candidates.tokenizer_fingerprint == identifiers.fingerprint
    for query_id, of_query in candidates.items():
        ids = [candidate.passage_id for candidate in of_query]
        assert ids[:3] == [hit.passage_id for hit in found[query_id]] and set(qrels[query_id]) <= set(ids)
        for candidate in of_query:
            credited = [one for one in candidate.identifiers if one.score > 0]
            assert candidate.score == pytest.approx(sum(one.score for one in credited), rel=1e-5)
            for one in candidate.identifiers:
                assert one.count == index.count(identifiers.pattern(one.view, one.ids)) > 0
            if candidate.passage_id in qrels[query_id]:
                assert any(one.view == "title" for one in candidate.identifiers)
                if not credited:
                    assert {one.view for one in candidate.identifiers} >= {"title", "substring"}


def test_relevant_passages_that_were_not_found_have_identifiers(bpe_tokenizer, identifiers, index):
    settings = SearchSettings(beam_size=2, query_ngrams=False, unigrams=0, substring_length=1, title_length=2)
    retriever = GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, settings=settings)
    everything = {"q": {f"p{number:02}": 1 for number in range(1, 25)}}
    of_query = retriever.candidates({"q": "sea"}, k=1, relevant=everything)["q"]
    assert len(of_query) == 24
    unmatched = [candidate for candidate in of_query if candidate.score == 0]
    assert unmatched
    for candidate in unmatched:
        views = {one.view for one in candidate.identifiers}
        assert views == ({"title", "substring"} if candidate.passage_id == "p24" else
                         {"title", "substring", "pseudo_query"})  # fmt: skip
        assert all(one.score == 0 for one in candidate.identifiers)


def test_a_grade_of_zero_is_not_relevant(retriever):
    of_query = retriever.candidates({"q": "sea"}, k=1, relevant={"q": {"p24": 0}})["q"]
    assert len(of_query) == 1


def test_many_queries_show_progress(retriever, capsys):
    retriever.search([*[""] * 20, "sea"], k=1)
    assert "Searching" in capsys.readouterr().err
    retriever.search(["sea"] * 2, k=1)
    assert "Searching" not in capsys.readouterr().err


def test_searching_says_nothing_in_the_log(retriever, caplog):
    with caplog.at_level(logging.WARNING):
        retriever.search("sea")
    assert not caplog.records


def test_a_model_in_training_mode_searches_the_same_and_stays_in_it(retriever):
    expected = retriever.search("sea")[0]
    retriever.model.train()
    torch.manual_seed(3)
    try:
        assert retriever.search("sea")[0] == expected
        assert retriever.model.training
    finally:
        retriever.model.eval()


# Errors


@pytest.mark.parametrize("k", [0, -3, 2.5])
def test_a_k_below_one_is_refused(retriever, queries, k):
    with pytest.raises(ValueError, match=f"k={k}: ask for at least 1 passage"):
        retriever.search("sea", k=k)
    with pytest.raises(ValueError, match=f"k={k}: ask for at least 1 passage"):
        retriever.rank(queries, k=k)


def test_queries_that_are_not_strings(retriever):
    with pytest.raises(TypeError, match=r"A query is 3 \(int\). Give strings"):
        retriever.search(["sea", 3])


def test_include_lists_that_do_not_fit(retriever):
    with pytest.raises(ValueError, match="There are 2 queries but 1 include lists"):
        retriever.search(["sea", "moon"], include=[["p01"]])
    with pytest.raises(KeyError, match="No passage of the index has the id 'nowhere'"):
        retriever.search("sea", include=[["nowhere"]])
    with pytest.raises(TypeError, match=r"include \(of query 1\) is 'p01' \(str\). Give a collection of passage ids"):
        retriever.search(["sea", "moon"], include=[[], "p01"])
    with pytest.raises(TypeError, match=r"include \(of query 0\) holds 20 \(int\)"):
        retriever.search("sea", include=[[20]])
    with pytest.raises(KeyError, match="No passage of the index has the id 'nowhere'"):
        retriever.candidates({"q": "sea"}, relevant={"q": {"nowhere": 1}})


def test_an_index_of_another_tokenizer(plain_tokenizer, index):
    with pytest.raises(ValueError, match="made with another tokenizer"):
        GenerativeRetriever(make_bart(plain_tokenizer), Identifiers(plain_tokenizer), index)


def test_a_model_with_too_few_embeddings(bpe_tokenizer, identifiers, index):
    with pytest.raises(ValueError, match="The model embeds 600 tokens, but the tokenizer has 700"):
        GenerativeRetriever(make_bart(bpe_tokenizer, vocab_size=600), identifiers, index)


def test_a_corpus_that_is_not_the_indexed_one(bpe_tokenizer, identifiers, index, passages):
    with pytest.raises(ValueError, match="The corpus has 2 passages, but the index holds 24"):
        GenerativeRetriever(make_bart(bpe_tokenizer), identifiers, index, corpus=Corpus.from_passages(passages[:2]))


def test_likelihoods_need_one_identifier_a_passage(bpe_tokenizer, identifiers, index):
    with pytest.raises(ValueError, match="but the views are title, substring, pseudo_query"):
        GenerativeRetriever(
            make_bart(bpe_tokenizer), identifiers, index, scoring=ScoringSettings(kind="log_likelihood")
        )


def test_numpy_integers_are_accepted(retriever):
    assert len(retriever.search("sea", k=np.int64(1))[0]) == 1
