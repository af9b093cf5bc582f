"""TREC's topics in SGML, as of Robust04 and the Web tracks of old."""

import pytest

from dgr_trainer import read_queries

TOPICS = """
<top>

<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate in international criminal
activity, the activity, and, if possible, collaborating organizations
and the countries involved.

<narr> Narrative:
A relevant document must as a minimum identify the organization.

</top>

<top>
<head> Tipster Topic Description
<num> Number:  051
<dom> Domain:  International Economics
<title> Topic:  Airbus &amp; AT&T
Subsidies
<desc> Description:
</top>
<top><num>303</num><title>hubble telescope</title><desc>x < y</desc></top>
"""


@pytest.mark.parametrize("name", ["topics.robust04.txt", "topics.51-100", "topics.tsv"])
def test_topics(tmp_path, name):
    (tmp_path / name).write_text(TOPICS)
    queries = read_queries(tmp_path / name)
    assert dict(zip(queries["query_id"], queries["query"], strict=True)) == {
        "301": "International Organized Crime",
        "051": "Airbus & AT&T Subsidies",
        "303": "hubble telescope",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<top>\n<num> 1\n<title> a\n", "line 1: the topic does not end"),
        ("<top>\n<num> 1\n<title> a\n<top>", "line 4: a topic begins inside the one of line 1"),
        ("<top>\n<num> 1\n<desc> a\n</top>", "line 1: the topic has no <title>"),
        ("<top>\n<num> Number:\n<title> a\n</top>", "line 1: the topic has no <num>"),
        ("<top><num>1<title>a</top></top>", "line 1: </top>, but no topic has begun"),
        ("<top><num>1<title>a</top><top><num>1<title>b</top>", "the query id '1' was already on line 1"),
        ("<top><num>1 2<title>a</top>", "the query id '1 2' holds whitespace"),
    ],
)
def test_errors(tmp_path, text, message):
    (tmp_path / "topics.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_queries(tmp_path / "topics.txt")
