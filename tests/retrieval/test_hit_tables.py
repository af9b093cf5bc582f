"""Hits in a notebook: a table with the identifiers marked, of lists that are otherwise lists."""

import copy
import json
import pickle
import re
from html import unescape

import pytest

from dgr_trainer import Corpus, Hit, Identifiers, MatchedIdentifier, Passage
from dgr_trainer.retrieval import Hits, SearchResults

EVIL = "<script>alert(1)</script>"
CORPUS = Corpus.from_passages(
    [
        Passage(id="nile", title="Nile river", text="The Nile flows north into the sea. " + "More text. " * 60),
        Passage(id="evil", title=EVIL, text=f"{EVIL} & the Nile"),
    ]
)


@pytest.fixture(scope="module")
def hits(bpe_tokenizer):
    identifiers = Identifiers(bpe_tokenizer)

    def matched(view, text, score):
        ids = identifiers.tokenizer(text, add_special_tokens=False)["input_ids"]
        return MatchedIdentifier(view, tuple(ids), 3, score)

    found = [
        Hit("nile", 30.0, (matched("substring", " flows north", 20.0), matched("title", " Nile", 10.0))),
        Hit("evil", 5.0, (matched("substring", " the Nile", 5.0),)),
        Hit("gone", 1.0, ()),
    ]
    return Hits(found, query=f"where {EVIL}", identifiers=identifiers)


def marked(html):
    return [unescape(text) for text in re.findall(r"<mark[^>]*>(.*?)</mark>", html)]


def test_identifiers_are_marked_in_title_and_text(hits):
    html = hits.with_passages(CORPUS)._repr_html_()
    assert marked(html) == ["Nile", "flows north", "the Nile"]
    assert "The Nile <mark" in html  # A title's identifier is not marked in the text.
    assert re.search(r'title="substring, 20.0">flows north', html)
    assert "<b>gone</b>" in html and "30.0" in html
    assert "\u2026" in html and html.count("More text.") < 60


def test_no_text_becomes_html(hits):
    html = hits.with_passages(CORPUS)._repr_html_()
    assert "<script" not in html and html.count("&lt;script&gt;alert(1)") == 3


def test_without_passages_there_are_ids_and_identifiers(hits):
    html = hits._repr_html_()
    assert not marked(html) and "<b>nile</b>" in html and "flows north" in html
    assert "2 tokens" in Hits(list(hits))._repr_html_()
    assert (
        "no passage found" in Hits([], query="")._repr_html_()
        and "(an empty query)" in Hits([], query="")._repr_html_()
    )


def test_hits_are_a_list_in_everything_else(hits):
    plain = list(hits)
    assert hits == plain and plain == hits and isinstance(hits, list) and repr(hits) == repr(plain)
    assert hits[0] is plain[0] and hits[-1].passage_id == "gone"
    assert type(hits[:2]) is Hits and hits[:2] == plain[:2] and hits[::2] == plain[::2]
    assert hits + [] == plain and sorted(hits, key=lambda hit: hit.score) == plain[::-1]
    assert json.dumps(Hits([])) == "[]"
    assert hits.with_passages(CORPUS) == plain
    for copied in (pickle.loads(pickle.dumps(hits)), copy.copy(hits), copy.deepcopy(hits)):
        assert copied == plain and type(copied) is Hits
    assert len(pickle.dumps(hits.with_passages(CORPUS))) == len(pickle.dumps(hits))


def test_a_slice_is_shown_as_the_whole(hits):
    assert marked(hits.with_passages(CORPUS)[1:2]._repr_html_()) == ["the Nile"]


def test_several_queries(hits):
    results = SearchResults([hits, Hits([], query="nothing")])
    html = results.with_passages(CORPUS)._repr_html_()
    assert html.count("<table") == 1 and "no passage found" in html and marked(html)
    assert results == [list(hits), []]
    assert type(results[:1]) is SearchResults and results[0] is hits and [type(one) for one in results] == [Hits, Hits]
    assert pickle.loads(pickle.dumps(results)) == results
    many = SearchResults([hits[2:]] * 25)._repr_html_()
    assert many.count("<table") == 20 and "5 more queries" in many


def test_a_long_text_is_cut_around_its_first_match(bpe_tokenizer, hits):
    corpus = Corpus.from_passages([Passage(id="evil", text="word " * 300 + "here is the Nile and " + "more " * 300)])
    html = hits[1:2].with_passages(corpus)._repr_html_()
    assert marked(html) == ["the Nile"] and len(html) < 3000 and html.count("\u2026") == 2


def test_ipython_shows_the_table(hits):
    formatters = pytest.importorskip("IPython.core.formatters", reason="IPython is not installed")
    formatter = formatters.HTMLFormatter()
    assert formatter(hits) == hits._repr_html_()
    assert formatter(SearchResults([hits])).count("<table") == 1
    assert formatter(list(hits)) is None
