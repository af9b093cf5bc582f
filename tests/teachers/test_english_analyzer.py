import sys

import pytest

from dgr_trainer.teachers.english_analyzer import EnglishAnalyzer

# What io.anserini.analysis.AnalyzerUtils.analyze of Anserini 1.7.1 (Lucene 10) makes of these texts.
LUCENE = [
    ("The U.S. and U.S.A. o'clock", ["u.", "u.s.a", "o'clock"]),
    ("the dog's dogs' James’s", ["dog", "dog", "jame"]),
    ("us use is as by oil", ["us", "us", "oil"]),
    ("3.14 1,000,000 3D-printing rock'n'roll", ["3.14", "1,000,000", "3d", "print", "rock'n'rol"]),
    ("Zhèng café naïve İstanbul", ["zhèng", "café", "naïv", "istanbul"]),
    ("中文 ひらがな カタカナ 한국어", ["中", "文", "ひ", "ら", "が", "な", "カタカナ", "한국어"]),
    ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
    ("e-mail foo_bar a.b.c http://x.org/y?z=1", ["e", "mail", "foo_bar", "a.b.c", "http", "x.org", "y", "z", "1"]),
    ("running flies happily relational organization", ["run", "fli", "happili", "relat", "organ"]),
    ("assembly assemblies nobly probably", ["assembl", "assembl", "nobli", "probabl"]),
    ("geology geomorphology technologies", ["geologi", "geomorpholog", "technolog"]),
    ("of the and", []),
    ("", []),
]


@pytest.mark.parametrize(("text", "terms"), LUCENE)
def test_terms_are_those_of_lucene(text, terms):
    assert EnglishAnalyzer()(text) == terms


def test_other_stemmers_and_stop_words():
    assert EnglishAnalyzer(stemmer="german", stop_words=("die",))("Die Häuser") == ["haus"]
    assert EnglishAnalyzer(stemmer=None, stop_words=())("The assemblies") == ["the", "assemblies"]


def test_unknown_stemmer_is_refused():
    with pytest.raises(ValueError, match=r"no stemmer 'klingon'. Give one of \[.*'porter'"):
        EnglishAnalyzer(stemmer="klingon")


def test_missing_pystemmer_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(ImportError, match=r'pip install "dgr-trainer\[bm25\]"'):
        EnglishAnalyzer()
    assert EnglishAnalyzer(stemmer=None)("no need here") == ["need", "here"]
