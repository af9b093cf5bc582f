"""An index of the sample corpus with all views, under markers of one token and of several."""

import pytest
from tiny_models import make_bart, make_t5

from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex

MARKERS = {
    "one_token": {},
    "more_tokens": {"title_end": "@@ the", "query_start": "|| @@", "query_end": "@@ || of", "docid_start": "## ##"},
}
_MODELS = {"bart": ("bpe_tokenizer", make_bart), "t5": ("unigram_tokenizer", make_t5)}


@pytest.fixture(scope="session", params=list(_MODELS))
def student(request):
    """A tiny random model and its tokenizer."""
    tokenizer, make = _MODELS[request.param]
    tokenizer = request.getfixturevalue(tokenizer)
    return make(tokenizer), tokenizer


@pytest.fixture(scope="session", params=list(MARKERS))
def every_view(request, student):
    """Identifiers of all views."""
    return Identifiers(student[1], IdentifierSettings(views=VIEWS, **MARKERS[request.param]))


@pytest.fixture(scope="session")
def every_index(every_view, corpus):
    return FMIndex.from_corpus(corpus, every_view)


@pytest.fixture(scope="session")
def text(every_view, passages):
    """The indexed text: what stands in the corpus, written down plainly."""
    ids = [every_view.eos_token_id]
    for sequence in every_view.encode_passages(passages):
        ids += [*sequence, every_view.eos_token_id]
    return ids


def occurrences(text, pattern):
    """Places where a pattern starts."""
    pattern = list(pattern)
    return [place for place in range(len(text)) if text[place : place + len(pattern)] == pattern]


@pytest.fixture(scope="session")
def count():
    return lambda text, pattern: len(occurrences(text, pattern))
