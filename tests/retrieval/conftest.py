"""An index of the sample corpus with all views, under markers of one token and of several."""

import numpy as np
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
    """The indexed text as one list of token ids."""
    ids = [every_view.eos_token_id]
    for sequence in every_view.encode_passages(passages):
        ids += [*sequence, every_view.eos_token_id]
    return ids


def occurrences(text, pattern):
    """Positions where a pattern starts."""
    pattern = list(pattern)
    return [start for start in range(len(text)) if text[start : start + len(pattern)] == pattern]


@pytest.fixture(scope="session")
def count():
    return lambda text, pattern: len(occurrences(text, pattern))


@pytest.fixture(scope="session")
def long_index(every_view):
    """Random text with frequent and rare tokens: many ranges are wide, and not every token follows them."""
    rng = np.random.default_rng(0)
    never = every_view.forbidden_token_ids | {every_view.eos_token_id}
    words = rng.permutation([token for token in range(every_view.vocab_size) if token not in never])
    weights = 1 / np.arange(1, len(words) + 1)
    passages = []
    for _ in range(400):
        drawn = rng.choice(words, size=30, p=weights / weights.sum()).tolist()
        title, query, docid = drawn[:3], drawn[20:24], rng.choice(words[:9], size=4).tolist()
        passages.append(
            [*title, *every_view.end("title"), *drawn[3:20], *every_view.prefix("pseudo_query"), *query,
             *every_view.end("pseudo_query"), *every_view.prefix("docid"), *docid]
        )  # fmt: skip
    ids = [f"p{number}" for number in range(len(passages))]
    return FMIndex.build(passages, passage_ids=ids, vocab_size=every_view.vocab_size,
                         separator=every_view.eos_token_id, progress=False)  # fmt: skip
