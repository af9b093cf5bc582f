from dgr_trainer.candidates import MatchedIdentifier
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.passage_identifiers import passage_identifiers


def test_a_passage_is_taken_apart_into_what_it_was_made_of(every_index, every_view, passages, text, count):
    for position, segments in enumerate(every_view.encode_segments(passages)):
        expected = [("title", segments.title), ("docid", segments.docid)]
        expected += [("pseudo_query", ids) for ids in segments.pseudo_queries] + [("substring", segments.body[:4])]
        targets = [(view, every_view.target(view, ids)) for view, ids in expected]
        assert passage_identifiers(every_index, every_view, position, 4) == [
            MatchedIdentifier(view, ids, count(text, every_view.pattern(view, ids)), 0.0) for view, ids in targets
        ]


def test_views_that_are_not_used_and_segments_that_are_empty(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("title", "substring")))
    end = identifiers.end("title")
    index = FMIndex.build(
        [[*end, 300, 301], [300, *end], [*end]], passage_ids=["a", "b", "c"], vocab_size=identifiers.vocab_size,
        separator=identifiers.eos_token_id, progress=False,
    )  # fmt: skip
    assert passage_identifiers(index, identifiers, 0, 1) == [MatchedIdentifier("substring", (300,), 2, 0.0)]
    assert passage_identifiers(index, identifiers, 0, 0) == []
    assert passage_identifiers(index, identifiers, 1, 8) == [MatchedIdentifier("title", (300, *end), 1, 0.0)]
    assert passage_identifiers(index, identifiers, 2, 8) == []
