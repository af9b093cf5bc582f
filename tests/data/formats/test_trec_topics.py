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


XML = {
    "TREC-COVID": """<?xml version="1.0" encoding="UTF-8"?>
<topics task="COVIDSearch 2020" batch="1">
  <topic number="1">
    <query>coronavirus origin</query>
    <question>what is the origin of COVID-19</question>
    <narrative>seeking <b>range</b> of information</narrative>
  </topic>
  <topic number="07"><query>R&amp;D &lt;costs&gt;</query><question>x</question></topic>
</topics>""",
    "Web track": """<webtrack2013>
<topic number="1" type="faceted">
  <query>coronavirus
  origin</query>
  <description>what is it</description>
  <subtopic number="1" type="inf">a</subtopic>
</topic>
<TOPIC NUMBER='07' type='single'><QUERY>R&amp;D &lt;costs&gt;</QUERY></TOPIC>
</webtrack2013>""",
    "unquoted": "<topic number=1><title>coronavirus origin</title></topic>\n"
    "<topic number=07>\n<title><![CDATA[R&D <costs>]]>\n</topic>\n",
    "CLEF": '<!-- topics --><top lang="en"><num>1</num><title>coronavirus origin</title></top>\n'
    "<top lang='en'><num>Number: 07</num>\n<title>Topic: R&amp;D &lt;costs&gt;</title></top>",
    "clinical": '<topics>\n<topic id="1" type="diagnosis">\n<description>long</description>\n'
    "<summary>coronavirus origin</summary></topic>\n"
    '<topic id="07"><summary>R&amp;D &lt;costs&gt;</summary></topic></topics>',
    "numbered": "<topics><topic><number>1</number><query>coronavirus origin</query></topic>"
    '<topic><number>07</number><query lang="en">R&amp;D &lt;costs&gt;</query><br/></topic></topics>',
}


@pytest.mark.parametrize("name", ["topics.xml", "topics-rnd1", "topics.txt"])
@pytest.mark.parametrize("kind", XML)
def test_topics_in_xml(tmp_path, kind, name):
    (tmp_path / name).write_text(XML[kind])
    queries = read_queries(tmp_path / name)
    found = dict(zip(queries["query_id"], queries["query"], strict=True))
    assert found == {"1": "coronavirus origin", "07": "R&D <costs>"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<top>\n<num> 1\n<title> a\n", "line 1: the topic does not end"),
        ("<top>\n<num> 1\n<title> a\n<top>", "line 4: a topic begins inside the one of line 1"),
        ("<top>\n<num> 1\n<desc> a\n</top>", "line 1: the topic has no <title>"),
        ("<top>\n<num> Number:\n<title> a\n</top>", "line 1: the topic has no <num>"),
        ("<topic number='1'><query>a</query></top>", "line 1: </top>, but no topic has begun .<top>."),
        ("<topic number='1'><note>a</note></topic>", "line 1: the topic has no <title>.*It has <number>, <note>"),
        (
            "<topic><query>a</query></topic>",
            "line 1: the topic has no <num>.*needs a number .num, number, id, qid.",
        ),
        ("<topic number='1'><query>a</query>", "line 1: the topic does not end .</topic>."),
        ("<?xml version='1.0'?>\n<page>a</page>", "topics.txt: begins as XML, but holds no topic"),
        ("<top><num>1<title>a</top></top>", "line 1: </top>, but no topic has begun"),
        ("<top><num>1<title>a</top><top><num>1<title>b</top>", "the query id '1' was already on line 1"),
        ("<top><num>1 2<title>a</top>", "the query id '1 2' holds whitespace"),
    ],
)
def test_errors(tmp_path, text, message):
    (tmp_path / "topics.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_queries(tmp_path / "topics.txt")
