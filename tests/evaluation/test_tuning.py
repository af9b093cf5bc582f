"""Settings of a search that are fitted to development queries, against ordinary searches."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from tiny_models import make_bart

from dgr_trainer import (
    GenerativeRetriever,
    Identifiers,
    IdentifierSettings,
    ScoringSettings,
    SearchSettings,
    evaluate_run,
    split_queries,
    tune_search,
)
from dgr_trainer.evaluation.metrics import evaluate_per_query
from dgr_trainer.evaluation.significance import paired_test
from dgr_trainer.evaluation.tuning import _decode, _rank
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval import read_settings
from dgr_trainer.retrieval.search_engine import SearchEngine

SMALL = SearchSettings(beam_size=3, title_length=6, pseudo_query_length=8)


@pytest.fixture(scope="module")
def retriever(bpe_tokenizer, corpus):
    model, identifiers = make_bart(bpe_tokenizer), Identifiers(bpe_tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    return GenerativeRetriever(model, identifiers, index, settings=SMALL)


@pytest.fixture(scope="module")
def dev(passages):
    """A query for each passage: words of its text; and queries without relevant passages."""
    queries = {f"d{n}": " ".join(passage.text.split()[2:6]) for n, passage in enumerate(passages)}
    qrels = {f"d{n}": {passage.id: 1, passages[0].id: 0} for n, passage in enumerate(passages)}
    qrels["d0"] = {passages[0].id: 1}
    return queries | {"unjudged": "a river", "irrelevant": "a town"}, qrels | {"irrelevant": {"p01": 0}}


@pytest.mark.parametrize(
    ("scoring", "search"),
    [
        (ScoringSettings(), {}),
        (ScoringSettings(exponent=1.0, smoothing=0.5, repetition=0.0, pseudo_query_bonus=3.0), {"unigrams": 7}),
        (ScoringSettings(exponent=3.0, repetition=1.0), {"unigrams": 0, "max_occurrences": 4, "max_passages": 9}),
    ],
)
def test_a_trial_is_the_search_with_these_settings(retriever, dev, scoring, search):
    queries, _ = dev
    decoded = _decode(retriever, queries, 3)
    settings = replace(SMALL, **search)
    engine = SearchEngine(replace(retriever._parts, settings=settings, scoring=scoring))
    ordinary = GenerativeRetriever(
        retriever.model, retriever.identifiers, retriever.index, settings=settings, scoring=scoring
    ).rank(queries, 5)
    for query_id in queries:
        found = _rank(engine, decoded[query_id], 5)
        assert [id for id, _ in found] == list(ordinary[query_id].passage_ids)
        np.testing.assert_allclose([score for _, score in found], ordinary[query_id].scores, rtol=1e-6)


def test_a_search_that_looks_ahead_is_decoded_once(retriever, dev):
    """Identifiers are weighed before the search, too, which is no decoding."""
    queries = dict(list(dev[0].items())[:4])
    ahead = GenerativeRetriever(
        retriever.model, retriever.identifiers, retriever.index, settings=replace(SMALL, lookahead=9.0)
    )
    decoded, plain = _decode(ahead, queries, 3), _decode(retriever, queries, 3)
    ordinary = ahead.rank(queries, 5)
    engine = SearchEngine(ahead._parts)
    for query_id in queries:
        found = _rank(engine, decoded[query_id], 5)
        assert [id for id, _ in found] == list(ordinary[query_id].passage_ids)
    assert any(decoded[query_id].unpack() != plain[query_id].unpack() for query_id in queries)


def test_what_is_reported_is_what_searches_give(retriever, dev):
    queries, qrels = dev
    grid = {"exponent": (1.0, 3.0), "unigrams": (0, 50), "smoothing": (0.5,)}
    tuned = tune_search(
        retriever, queries, qrels, metric="mrr@10", grid=grid, beam_sizes=(2,), max_queries=None, progress=False
    )
    judged = {query_id: queries[query_id] for query_id in queries if query_id not in ("unjudged", "irrelevant")}
    halves = split_queries(judged)
    assert (tuned.fitted_queries, tuned.held_out_queries) == tuple(map(len, halves))

    def values(settings, scoring, half):
        search = GenerativeRetriever(
            retriever.model, retriever.identifiers, retriever.index, settings=settings, scoring=scoring
        )
        of_half = {query_id: qrels[query_id] for query_id in halves[half]}
        return evaluate_per_query(search.rank(halves[half], 10), of_half, ["mrr@10"])["mrr@10"]

    def mean(*arguments):
        return pytest.approx(np.mean(list(values(*arguments).values())))

    before, after = (SMALL, ScoringSettings()), (tuned.settings, tuned.scoring)
    assert tuned.fitted_before == mean(*before, 0) and tuned.fitted_after == mean(*after, 0)
    assert tuned.held_out_before == mean(*before, 1) and tuned.held_out_after == mean(*after, 1)
    expected = paired_test(values(*before, 1), values(*after, 1), seed=0).randomisation_p_value
    assert tuned.p_value == pytest.approx(expected)
    # The best of all that was tried; a setting is changed only if that is better.
    assert tuned.fitted_after == max(trial.value for trial in tuned.trials) >= tuned.fitted_before
    assert tuned.trials[0].changed == {} and {"beam_size": 2} in [
        {"beam_size": trial.changed["beam_size"]} for trial in tuned.trials if "beam_size" in trial.changed
    ]
    changed = {**vars(tuned.settings), **vars(tuned.scoring)}
    given = {**vars(SMALL), **vars(ScoringSettings())}
    assert dict(tuned.changed) == {name: value for name, value in changed.items() if value != given[name]}
    assert retriever.settings == SMALL and retriever.scoring == ScoringSettings()


def test_one_setting_after_the_other(retriever, dev):
    """Coordinate ascent by ordinary searches."""
    queries, qrels = dev
    grid = {"exponent": (1.0, 3.0), "repetition": (0.0, 0.5)}
    tuned = tune_search(retriever, queries, qrels, metric="ndcg@5", grid=grid, rounds=2, progress=False)
    judged = {query_id: queries[query_id] for query_id in queries if query_id not in ("unjudged", "irrelevant")}
    half = split_queries(judged)[0]
    of_half = {query_id: qrels[query_id] for query_id in half}

    def value(scoring):
        search = GenerativeRetriever(
            retriever.model, retriever.identifiers, retriever.index, settings=SMALL, scoring=scoring
        )
        return evaluate_run(search.rank(half, 5), of_half, ["ndcg@5"])["ndcg@5"]

    best = ScoringSettings()
    highest = value(best)
    for _ in range(2):
        for name, candidates in grid.items():
            for candidate in candidates:
                trial = replace(best, **{name: candidate})
                if value(trial) > highest:
                    best, highest = trial, value(trial)
    assert tuned.scoring == best and tuned.fitted_after == pytest.approx(highest)


def test_settings_are_saved_and_read(retriever, dev, tmp_path):
    queries, qrels = dev
    arguments = {"grid": {"exponent": (1.0, 3.0)}, "max_queries": 20, "seed": 3, "progress": False}
    tuned = tune_search(retriever, queries, qrels, **arguments)
    assert tuned.fitted_queries + tuned.held_out_queries == 20
    assert tune_search(retriever, dict(reversed(queries.items())), qrels, **arguments) == tuned
    tuned.save(tmp_path / "settings.json")
    assert read_settings(tmp_path / "settings.json") == (tuned.settings, tuned.scoring)
    written = json.loads((tmp_path / "settings.json").read_text())["tuning"]
    assert written["metric"] == "ndcg@10" and written["seed"] == 3 and len(written["trials"]) == len(tuned.trials)


def test_settings_that_are_worse_for_others_are_told(retriever, dev, monkeypatch, caplog):
    """A metric by which one setting is better for the first half only."""
    queries, qrels = dev
    first = split_queries({query_id: queries[query_id] for query_id in qrels if query_id != "irrelevant"})[0]

    def made_up(rankings, of_queries, metrics):
        changed = len(calls) > 1 and calls[-1] == 1.0
        return {metrics[0]: {q: float((q in first) == changed) for q in of_queries}}

    calls = []
    weigh = SearchEngine.weigh

    def recording(self, *arguments):
        calls.append(self.scoring.exponent)
        return weigh(self, *arguments)

    monkeypatch.setattr("dgr_trainer.evaluation.tuning.evaluate_per_query", made_up)
    monkeypatch.setattr(SearchEngine, "weigh", recording)
    with caplog.at_level(logging.WARNING):
        tuned = tune_search(retriever, queries, qrels, grid={"exponent": (1.0,)}, progress=False)
    assert tuned.changed == {"exponent": 1.0}
    assert "{'exponent': 1.0}, are worse for" in caplog.text and "falls from 1.000 to 0.000" in caplog.text


def test_wrong_arguments(retriever, dev, bart, corpus, tmp_path):
    queries, qrels = dev
    for arguments, message in [
        ({"grid": {"beams": (1,)}}, "grid names beams, but what can be fitted is smoothing, exponent"),
        ({"grid": {"repetition": (2.0,)}}, "repetition=2.0 must lie between 0"),
        ({"beam_sizes": (0,)}, "beam_size=0 must be a whole number"),
        ({"rounds": 0}, "rounds=0 has to be at least 1"),
        ({"max_queries": 3}, "max_queries=3 at least 20"),
        ({"metric": "hits"}, "There is no metric 'hits'"),
    ]:
        with pytest.raises(ValueError, match=message):
            tune_search(retriever, queries, qrels, progress=False, **arguments)
    with pytest.raises(ValueError, match="Only 1 of 26 queries have relevant passages in the qrels"):
        tune_search(retriever, queries, {"d3": {"p03": 1}})
    model, tokenizer = bart
    identifiers = Identifiers(tokenizer, IdentifierSettings(views=("title",)))
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    by_title = GenerativeRetriever(model, identifiers, index, scoring=ScoringSettings(kind="log_likelihood"))
    with pytest.raises(ValueError, match="kind='log_likelihood', which has no settings to fit"):
        tune_search(by_title, queries, qrels)
    for text, message in [("[]", "needs the objects 'search' and 'scoring'"), ("{", "holds no settings")]:
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_settings(tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError):
        read_settings(tmp_path / "none.json")
