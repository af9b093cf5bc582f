import pytest

from dgr_trainer.data.passages import Passage
from dgr_trainer.teachers.templates import PairTemplate

PASSAGE = Passage(id="p", title="Nile", text="A river {in} Africa.")


def test_two_segments():
    assert PairTemplate()("long river", PASSAGE) == ("long river", "Nile: A river {in} Africa.")
    template = PairTemplate(query="query: {query}", passage="{{passage}} {text}")
    assert template("{q}", PASSAGE) == ("query: {q}", "{passage} A river {in} Africa.")


def test_one_segment():
    template = PairTemplate(single="Query: {query}\nSentence: {text}")
    assert template("long river", PASSAGE) == ("Query: long river\nSentence: A river {in} Africa.",)


@pytest.mark.parametrize(("title", "text", "both"), [("", "b", "b"), ("a", "", "a"), ("", "", "")])
def test_title_and_text_are_joined_only_if_both_are_there(title, text, both):
    assert PairTemplate()("q", Passage(id="p", title=title, text=text)) == ("q", both)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"query": "{text}"},
            r"query_template '\{text\}' has the field \{text\}, but only \{query\} can be filled in",
        ),
        (
            {"passage": "{body}"},
            r"passage_template .* has the field \{body\}, but only \{passage\}, \{title\}, \{text\}",
        ),
        ({"passage": "{}"}, r"has the field \{\}"),
        ({"query": "Query:"}, r"query_template 'Query:' has no \{query\}, so every score would ignore it"),
        ({"single": "{query}"}, r"template '\{query\}' has no \{passage\} or \{title\} or \{text\}"),
        ({"single": "{query} {text"}, "is not a template: .* Write {{ and }} for literal braces"),
        ({"single": "{query} {text}", "query": "Q: {query}"}, "Both template and query_template or passage_template"),
    ],
)
def test_templates_that_cannot_be_filled_in_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PairTemplate(**options)
