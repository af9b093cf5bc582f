"""The quickstart's student, its tokenizer and made-up questions."""

from dgr_trainer.identifiers import Identifiers
from dgr_trainer.quickstart.student import made_up_questions, name_words, new_student, train_tokenizer


def test_tokenizer_fits_the_corpus(corpus):
    tokenizer = train_tokenizer(corpus)
    identifiers = Identifiers(tokenizer)
    assert identifiers.eos_token_id == tokenizer.eos_token_id == 2
    for passage in corpus:
        assert identifiers.decode(identifiers.encode(passage.text)) == passage.text
    # The markers are frequent enough to be tokens of their own.
    assert len(identifiers.end("title")) == len(identifiers.prefix("pseudo_query")) == 1


def test_students_of_equal_seeds_are_equal(bpe_identifiers):
    first, again = new_student(bpe_identifiers, 1).state_dict(), new_student(bpe_identifiers, 1).state_dict()
    other = new_student(bpe_identifiers, 2).state_dict()
    assert all(first[name].equal(again[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


def test_words_of_names():
    assert name_words("csv.DictReader") == ["csv", "dict", "reader"]
    assert name_words("xml.dom.minidom.parseString") == ["xml", "dom", "minidom", "parse", "string"]
    assert name_words("http.client.HTTPConnection.set_tunnel") == [
        "http",
        "client",
        "http",
        "connection",
        "set",
        "tunnel",
    ]
    assert name_words("base64.b32decode") == ["base", "64", "b", "32", "decode"]


def test_made_up_questions_are_made_of_their_passage(corpus):
    queries, qrels = made_up_questions(corpus, 3, seed=0)
    assert len(queries) == 3 * len(corpus) == len(qrels) == len(set(queries["query_id"]))
    openings = {"how", "to", "do", "i", "can", "python", "way", "function", "what", "find", "out"}
    for row in queries:
        (passage_id,) = qrels[row["query_id"]]
        passage = corpus.get(passage_id)
        text = " ".join([passage.text, *passage.pseudo_queries, *name_words(passage.title)]).lower()
        words = row["query"].lower().split()
        assert words
        assert all(word in openings or word in text for word in words)


def test_made_up_questions_depend_on_the_seed_alone(corpus):
    first, _ = made_up_questions(corpus, 2, seed=5)
    again, _ = made_up_questions(corpus, 2, seed=5)
    other, _ = made_up_questions(corpus, 2, seed=6)
    assert first.to_dict() == again.to_dict()
    assert first["query"] != other["query"]
