import copy
import logging

import datasets
import pytest
import torch
from sample_corpus import PASSAGES, QRELS, QUERIES
from training_examples import TITLES, make_candidates, make_collator, make_rankings, query_dataset

from dgr_trainer.candidates import Candidate, Candidates, MatchedIdentifier
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.training.collator import DistillationCollator

FEATURES = [{"query_id": "q1", "query": "the mountain"}, {"query_id": "q2", "query": "sea"}]
SHARED = MatchedIdentifier("substring", (20, 21), 7, 5.0)
CANDIDATES = {
    "q1": (
        Candidate("a", 9.0, (MatchedIdentifier("title", (30, 31), 1, 6.0), SHARED)),
        Candidate("b", 8.0, (SHARED, MatchedIdentifier("substring", (21, 22, 23), 2, 2.0))),
        Candidate("c", 7.0, (MatchedIdentifier("pseudo_query", (40,), 3, 1.0),)),
    ),
    "q2": (Candidate("b", 3.0, (SHARED,)),),
}
RANKINGS = Rankings({"q1": {"c": 3.0, "b": 2.5, "a": -1.0}})


def small(tokenizer, rankings=RANKINGS, qrels=None, **settings) -> DistillationCollator:
    identifiers = Identifiers(tokenizer)
    candidates = Candidates.from_lists(CANDIDATES, corpus_tokens=500, tokenizer_fingerprint=identifiers.fingerprint)
    return DistillationCollator(identifiers, candidates, rankings, qrels, **settings)


def test_literal_batch_of_candidates(bpe_tokenizer):
    batch = small(bpe_tokenizer, qrels={"q1": {"a": 1}, "q2": {"b": 1}})(FEATURES)
    identifiers = Identifiers(bpe_tokenizer)
    # Query 1: a first, for it is relevant, then c and b as the teacher has them. The slots are numbered as met.
    assert batch["passage_identifiers"].tolist() == [[[0, 1], [2, -1], [1, 3]], [[0, -1], [-1, -1], [-1, -1]]]
    assert batch["list_mask"].tolist() == [[True, True, True], [True, False, False]]
    assert batch["teacher_scores"].tolist() == [[-1.0, 3.0, 2.5], [0.0, 0.0, 0.0]]
    assert batch["taught_ranks"].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch["judged"].tolist() == [True, True]
    assert small(bpe_tokenizer, qrels={"q2": {"b": 1}})(FEATURES)["judged"].tolist() == [False, True]
    in_order = small(bpe_tokenizer, qrels={"q2": {"b": 1}}, relevant_first=False)
    assert in_order(FEATURES)["judged"].tolist() == [False, False]
    # b's second identifier shares one of three tokens with its first: 1 - 0.8 + 0.8 * 2/3.
    expected = [[[1.0, 1.0], [1.0, 0.0], [1.0, 0.2 + 0.8 * 2 / 3]], [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
    torch.testing.assert_close(batch["passage_factors"], torch.tensor(expected))
    assert batch["identifier_counts"].tolist() == [[1, 7, 3, 2], [7, 0, 0, 0]]
    assert batch["identifier_is_pseudo_query"].tolist() == [[False, False, True, False], [False] * 4]
    # a's title and substring are generated, each half of query 1's loss; query 2 has b's substring.
    assert batch["generation_weights"].tolist() == [[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    # Rows: query 1's titles, substrings and pseudo-queries, then query 2's substrings. An identifier's last token is
    # predicted but never read.
    assert batch["prefix_tokens"].tolist() == [
        [[-1, 30, -1, -1], [-1, 20, 21, 22]],
        [[-1, -1, -1, -1], [-1, 20, -1, -1]],
    ]
    assert batch["prefix_depths"].tolist() == [[[0, 1, 0, 0], [0, 1, 1, 2]], [[0, 0, 0, 0], [0, 1, 0, 0]]]
    assert batch["prefix_ends"].tolist() == [[[2, 2, 3, 4], [4, 2, 4, 4]], [[1, 2, 3, 4], [2, 2, 3, 4]]]
    assert batch["row_prompts"].tolist() == [[0, 1], [2, 4]]
    assert batch["scored_prefixes"].tolist() == [[0, 1, 4, 5, 6], [7, 8, 12, 13, 0]]
    assert batch["labels"].tolist() == [[30, 31, 20, 21, 21, 22, 23, 40], [20, 21, *[-100] * 6]]
    assert batch["segments"].tolist() == [[0, 0, 1, 1, 3, 3, 3, 2], [0, 0, *[-1] * 6]]
    assert batch["label_prefixes"].tolist() == [[0, 1, 2, 3, 2, 4, 5, 6], [7, 8, *[0] * 6]]
    for v, view in enumerate(("title", "substring", "pseudo_query")):
        for b, prompt in enumerate(identifiers.encode_prompts(["the mountain", "sea"], view)):
            row, mask = batch["input_ids"][b, v], batch["attention_mask"][b, v]
            assert row[mask.bool()].tolist() == prompt
            assert (row[~mask.bool()] == bpe_tokenizer.pad_token_id).all()
            assert mask.tolist() == [1] * len(prompt) + [0] * (len(row) - len(prompt))


def test_literal_batch_of_strings(unigram_tokenizer):
    collator = DistillationCollator(unigram_tokenizer, {"a": "Moon", "b": "Tide", "c": "Sea"}, RANKINGS)
    batch = collator(FEATURES[:1])
    encoded = {
        text: [*unigram_tokenizer(text, add_special_tokens=False)["input_ids"], unigram_tokenizer.eos_token_id]
        for text in ("Moon", "Tide", "Sea")
    }
    assert batch["passage_identifiers"].tolist() == [[[0], [1], [2]]], "c, b, a: the teacher's order"
    assert batch["passage_factors"].tolist() == [[[1.0], [1.0], [1.0]]]
    assert batch["generation_weights"].tolist() == [[1.0, 0.0, 0.0]], "the teacher's best passage is generated"
    for slot, text in enumerate(("Sea", "Tide", "Moon")):
        assert batch["labels"][0][batch["segments"][0] == slot].tolist() == encoded[text]
        cells = batch["passage_cells"][0, slot]
        assert batch["labels"][0][cells[cells >= 0]].tolist() == encoded[text]
    assert batch["input_ids"].tolist() == [[unigram_tokenizer("the mountain")["input_ids"]]], "the plain query"


def test_every_tensor_has_a_row_a_query(tokenizer):
    for kind in ("candidates", "strings"):
        batch = make_collator(tokenizer, kind)([*query_dataset()][:5])
        assert {len(tensor) for tensor in batch.values()} == {5}


def test_first_identifiers_only(bpe_tokenizer):
    scoring = ScoringSettings(identifiers_per_passage=1)
    batch = small(bpe_tokenizer, qrels={"q1": {"a": 1}}, scoring=scoring)(FEATURES[:1])
    assert batch["passage_identifiers"].shape == (1, 3, 1)
    assert batch["generation_weights"].sum().item() == 1.0


def test_an_epoch_draws_other_lists_and_evaluation_always_the_same(bpe_tokenizer):
    collator = make_collator(bpe_tokenizer, list_length=4)
    features = [*query_dataset()]
    twin = collator.for_evaluation()
    first, evaluation = collator(features), twin(features)
    collator.set_epoch(1)
    second = collator(features)
    assert not torch.equal(first["teacher_scores"], second["teacher_scores"])
    for name, tensor in twin(features).items():
        assert torch.equal(tensor, evaluation[name])
    collator.set_epoch(0)
    assert all(torch.equal(tensor, first[name]) for name, tensor in collator(features).items())


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_draw_what_the_main_process_draws(bpe_tokenizer, persistent):
    collator = make_collator(bpe_tokenizer, list_length=4)
    features = [*query_dataset()]
    loader = torch.utils.data.DataLoader(
        features, batch_size=4, collate_fn=collator, num_workers=2, persistent_workers=persistent
    )
    for epoch in range(2):
        collator.set_epoch(epoch)
        got = [batch["teacher_scores"] for batch in loader]
        expected = [collator(features[start : start + 4])["teacher_scores"] for start in (0, 4, 8)]
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_generation_targets_of_the_users_own(bpe_tokenizer):
    qrels = {"q1": {"a": 1}, "q2": {"elsewhere": 1}}
    own = {"a": [("substring", (50, 51))], "elsewhere": [("title", (60,)), ("substring", (61,))]}
    batch = small(bpe_tokenizer, qrels=qrels, generation_targets=own)(FEATURES)
    assert batch["generation_weights"].sum(-1).tolist() == [1.0, 1.0]
    wanted = batch["generation_weights"][0].nonzero().item()
    assert batch["labels"][0][batch["segments"][0] == wanted].tolist() == [50, 51]
    assert batch["identifier_counts"][0, wanted] == 0, "not part of any passage's score"
    assert sorted(batch["labels"][1][batch["labels"][1] >= 60].tolist()) == [60, 61]

    def drawn(query, passage_id, rng):
        return [("substring", (int(rng.integers(100, 600)), len(query)))]

    collator = small(bpe_tokenizer, qrels=qrels, generation_targets=drawn)
    first, again = collator(FEATURES), collator(FEATURES)
    assert torch.equal(first["labels"], again["labels"])
    collator.set_epoch(1)
    assert not torch.equal(first["labels"], collator(FEATURES)["labels"])

    collator = small(bpe_tokenizer, qrels=qrels, generation_targets={"a": [("docid", (5,))]})
    with pytest.raises(ValueError, match="generation_targets has the views .'docid'"):
        collator(FEATURES)


def test_queries_of_which_nothing_is_known_stay_in_the_batch(bpe_tokenizer):
    batch = small(bpe_tokenizer)([{"query_id": "new", "query": "unheard of"}])
    assert not batch["list_mask"].any() and not batch["generation_weights"].any()
    assert (batch["segments"] == -1).all() and batch["labels"].shape == (1, 1)


def test_ordinary_pairs_are_padded(bpe_tokenizer):
    batch = small(bpe_tokenizer)([{"input_ids": [5, 6], "labels": [7]}, {"input_ids": [8], "labels": [9, 10]}])
    assert batch["input_ids"].tolist() == [[5, 6], [8, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [[7, -100], [9, 10]]


def test_integer_query_ids(bpe_tokenizer):
    collator = DistillationCollator(bpe_tokenizer, {"a": "Moon", "b": "Tide"}, Rankings({"7": {"a": 1, "b": 2}}))
    assert collator([{"query_id": 7, "query": "x"}])["list_mask"].tolist() == [[True, True]]


def test_coverage(bpe_tokenizer):
    found = make_collator(bpe_tokenizer).coverage(list(QUERIES))
    assert found.queries == found.rank_lists == 12
    # The teacher ranks all 24 passages; the student found 10 of them for each query.
    assert (found.ranked_passages, found.unknown_passages) == (12 * 24, 12 * 14)


def test_shared_strings_are_warned_of(bpe_tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        DistillationCollator(bpe_tokenizer, {"a": "Moon", "b": "Moon", "c": "Sea"}, RANKINGS)
    assert "1 of 3 passages have the identifier of another passage" in caplog.text


def test_it_can_be_copied(bpe_tokenizer):
    collator = make_collator(bpe_tokenizer)
    assert torch.equal(copy.deepcopy(collator)([*query_dataset()])["labels"], collator([*query_dataset()])["labels"])


def test_missing_columns_are_named(bpe_tokenizer):
    with pytest.raises(
        ValueError, match=r"columns \['question', 'query_id'\]|\['query_id', 'question'\].*\['query'\]"
    ):
        small(bpe_tokenizer)([{"query_id": "q1", "question": "x"}])


def test_refused_identifiers(bpe_tokenizer, unigram_tokenizer):
    with pytest.raises(TypeError, match="identifiers is a list; give a mapping"):
        DistillationCollator(bpe_tokenizer, ["Moon"], RANKINGS)
    with pytest.raises(TypeError, match="maps 'a' to 3"):
        DistillationCollator(bpe_tokenizer, {"a": 3}, RANKINGS)
    with pytest.raises(ValueError, match="identifier of passage 'a' is empty"):
        DistillationCollator(bpe_tokenizer, {"a": " "}, RANKINGS)
    with pytest.raises(ValueError, match="identifiers is empty"):
        DistillationCollator(bpe_tokenizer, {}, RANKINGS)
    with pytest.raises(ValueError, match="The candidates are empty"):
        DistillationCollator(bpe_tokenizer, Candidates.from_lists({}, corpus_tokens=5), RANKINGS)
    with pytest.raises(ValueError, match="made with another tokenizer"):
        DistillationCollator(unigram_tokenizer, make_candidates(Identifiers(bpe_tokenizer)), make_rankings())
    with pytest.raises(ValueError, match="Log-odds need the identifiers' counts"):
        DistillationCollator(bpe_tokenizer, TITLES, make_rankings(), scoring=ScoringSettings())
    titles = Identifiers(bpe_tokenizer, IdentifierSettings(views=("title",)))
    with pytest.raises(
        ValueError, match="views .'pseudo_query', 'substring'., but the collator has the views .'title'"
    ):
        DistillationCollator(titles, make_candidates(Identifiers(bpe_tokenizer)), make_rankings())


def test_foreign_rankings_are_refused(bpe_tokenizer):
    with pytest.raises(ValueError, match="None of the 2 passages in the first 1 rank lists .* the first is 'y'"):
        DistillationCollator(bpe_tokenizer, TITLES, Rankings({"q01": {"x": 1.0, "y": 2.0}}), QRELS)
    with pytest.raises(ValueError, match="No query of the rankings has candidates: .*'other'.*'q1'"):
        small(bpe_tokenizer, rankings=Rankings({"other": {"a": 1.0}}))


def test_a_tokenizer_without_padding_is_refused(bpe_tokenizer):
    tokenizer = copy.deepcopy(bpe_tokenizer)
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="has no pad_token"):
        DistillationCollator(tokenizer, TITLES, make_rankings())


def test_long_identifiers_are_kept_whole(bpe_tokenizer):
    strings = {passage.id: passage.text for passage in PASSAGES}
    collator = DistillationCollator(bpe_tokenizer, strings, make_rankings(), list_length=6, max_row_tokens=10)
    batch = collator([*datasets.Dataset.from_dict({"query_id": ["q01"], "query": ["x"]})])
    assert batch["prefix_tokens"].shape[:2] == (1, 6), "each in a row of its own"
    assert collator.source.longest >= batch["prefix_tokens"].shape[-1] > 10


def test_a_candidate_without_identifiers_is_not_trained_on(bpe_tokenizer):
    matched = (MatchedIdentifier("title", (5, 6), 1, -2.0),)
    lists = {"q": [Candidate("p1", -2.0, matched), Candidate("untitled", -1e9, ())]}
    candidates = Candidates.from_lists(lists, corpus_tokens=100)
    assert candidates.num_identifiers("q").tolist() == [1, 0]
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("title",)))
    collator = DistillationCollator(identifiers, candidates, None, {"q": {"untitled": 1}})
    assert collator.source.usable("q") == {"p1"} and collator.source.usable("other") == frozenset()
    assert collator.coverage(["q"]).without_relevant == 1
