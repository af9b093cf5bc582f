from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.retrieval.passage_identifiers import own_identifiers


def test_a_passage_is_taken_apart_into_what_it_was_made_of(every_view, passages):
    for passage, segments in zip(passages, every_view.encode_segments(passages), strict=True):
        expected = [("title", segments.title), ("docid", segments.docid)]
        expected += [("pseudo_query", ids) for ids in segments.pseudo_queries] + [("substring", segments.body[:4])]
        tokens = every_view.encode_passage(passage)
        assert own_identifiers(every_view, tokens, 4) == [
            (view, every_view.target(view, ids)) for view, ids in expected
        ]


def test_views_that_are_not_used_and_segments_that_are_empty(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer, IdentifierSettings(views=("title", "substring")))
    end = identifiers.end("title")
    assert own_identifiers(identifiers, [*end, 300, 301], 1) == [("substring", (300,))]
    assert own_identifiers(identifiers, [300, *end], 8) == [("title", (300, *end))]
