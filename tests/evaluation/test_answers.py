import unicodedata

import datasets
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from dgr_trainer import Corpus, Passage, Rankings
from dgr_trainer.evaluation import answer_qrels, compare_runs, evaluate_per_query, evaluate_run, has_answer
from dgr_trainer.evaluation.answers import ANSWER_METRICS, answer_tokens, check_answer_metrics

# Letters that change under normalisation and lower case, marks, signs, spaces of several kinds, a control character.
TEXT = st.text(st.sampled_from("aAbéÉe\u0301İßΣς1²-.'\"’ \u00a0\t\n\x00$한ﬁ𝔘"), max_size=30)


def dpr_has_answer(text, answers):
    """The definition, token by token, as DPR's evaluation has it."""

    def tokens(value):
        value = unicodedata.normalize("NFD", value)
        pattern = regex.compile(
            r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.IGNORECASE | regex.UNICODE | regex.MULTILINE
        )
        return [match.group().lower() for match in pattern.finditer(value)]

    words = tokens(text)
    for answer in answers:
        wanted = tokens(answer)
        for start in range(0, len(words) - len(wanted) + 1):
            # DPR finds an answer without tokens in every text; here it is found in none.
            if wanted and words[start : start + len(wanted)] == wanted:
                return True
    return False


ASCII = st.text(st.sampled_from("aAbB1_-.'\" \t\n\x00\x1c\x7f$"), max_size=30)


@settings(max_examples=600, deadline=None)
@given(text=TEXT | ASCII, answers=st.lists(TEXT.map(lambda text: text[:4]), max_size=3), cut=st.integers(0, 20))
def test_answers_are_found_as_by_dpr(text, answers, cut):
    answers = [*answers, text[cut : cut + 5]]
    assert has_answer(text, answers) == dpr_has_answer(text, answers)


@pytest.mark.parametrize(
    "text, answer, found",
    [
        ("The capital is Paris.", "paris", True),
        ("Parisians live there", "Paris", False),
        ("an Élan vital", "e\u0301lan", True),
        ("in 1,024 days", "1,024", True),
        ("in 1,024 days", "1024", False),
        ("he won $5.", "$ 5", True),
        ("one two three", "two  three", True),
        ("one two three", "one three", False),
        ("anything", "", False),
        ("anything", " \t", False),
    ],
)
def test_what_counts_as_an_answer(text, answer, found):
    assert has_answer(text, [answer]) is found


def test_one_string_is_no_list_of_answers():
    with pytest.raises(TypeError, match="The answers are 'Paris', but they have to be a list of strings. For one"):
        has_answer("The capital is Rome, a pity", "Paris")


def test_tokens():
    assert answer_tokens("O'Brien’s naïve 2nd\u200b try") == (
        "o", "'", "brien", "’", "s", "nai\u0308ve", "2nd", "try"
    )  # fmt: skip


PASSAGES = [
    Passage("1", "Paris", "The capital of France."),
    Passage("2", "France", "Its capital is Paris, on the Seine."),
    Passage("3", "Lyon", "A city of France."),
    Passage("4", "", ""),
    Passage("5", "Seine", "It flows through Paris."),
]


@pytest.fixture
def corpus():
    return Corpus.from_passages(PASSAGES)


ANSWERS = {"0": ["Paris"], "1": ["no such thing"], "2": ["the Seine", "Lyon"], "3": ["Paris"]}
RUN = Rankings({"0": {"1": 3.0, "3": 2.0, "2": 1.0}, "1": {"1": 1.0}, "2": {"3": 2.0, "2": 1.0}})


def test_passages_with_an_answer_are_relevant(corpus):
    qrels = answer_qrels(ANSWERS, corpus, [RUN], progress=False)
    assert qrels == {"0": {"2": 1}, "1": {}, "2": {"2": 1}, "3": {}}
    assert evaluate_run(RUN, qrels, ["hits@1", "hits@2", "hits@3"]) == {"hits@1": 0.0, "hits@2": 0.25, "hits@3": 0.5}
    assert answer_qrels(ANSWERS, corpus, RUN, progress=False) == qrels, "one run need not be in a list"
    assert answer_qrels(ANSWERS, corpus, [RUN], k=2, progress=False)["0"] == {}
    assert answer_qrels(ANSWERS, corpus, [RUN], with_title=True, progress=False) == {
        "0": {"1": 1, "2": 1}, "1": {}, "2": {"3": 1, "2": 1}, "3": {},
    }  # fmt: skip
    columns = {"query_id": list(ANSWERS), "answers": list(ANSWERS.values()), "query": ["q"] * 4}
    assert answer_qrels(datasets.Dataset.from_dict(columns), corpus, [RUN], progress=False) == qrels


def test_runs_are_compared_by_the_same_judgements(corpus, caplog):
    other = Rankings({"0": {"5": 1.0}, "3": {"2": 1.0}})
    qrels = answer_qrels(ANSWERS, corpus, iter([RUN, other]), progress=False)
    comparison = compare_runs({"run": RUN, "other": other}, qrels, ANSWER_METRICS)
    assert {name: values["hits@1"].mean for name, values in comparison.runs.items()} == {"run": 0.0, "other": 0.5}
    assert "have no passage of relevance" not in caplog.text


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.permutations(range(8)), st.integers(0, 8), st.sampled_from("abc")), min_size=1, max_size=6),
    st.lists(st.sampled_from(["a", "b c", "d", "a b c"]), min_size=8, max_size=8),
)
def test_hits_are_those_of_dpr(questions, texts):
    corpus = Corpus.from_passages([Passage(str(number), "t", text) for number, text in enumerate(texts)])
    run = Rankings(
        {str(n): {str(p): -float(r) for r, p in enumerate(order[:k])} for n, (order, k, _) in enumerate(questions)}
    )
    answers = {str(number): [answer] for number, (_, _, answer) in enumerate(questions)}
    qrels = answer_qrels(answers, corpus, [run], progress=False)
    values = evaluate_per_query(run, qrels, [f"hits@{k}" for k in (1, 3, 5)])
    for number, (order, length, answer) in enumerate(questions):
        for k in (1, 3, 5):
            wanted = any(dpr_has_answer(texts[passage], [answer]) for passage in order[:length][:k])
            assert values[f"hits@{k}"][str(number)] == wanted


def test_what_has_no_answers_is_refused(corpus, caplog):
    with pytest.raises(ValueError, match=r"no column 'answers'; their columns are \['query_id', 'query'\]"):
        answer_qrels(datasets.Dataset.from_dict({"query_id": ["0"], "query": ["q"]}), corpus, [RUN])
    with pytest.raises(TypeError, match="Query '0': the answers are 'Paris', but they have to be a list of strings"):
        answer_qrels({"0": "Paris"}, corpus, [RUN])
    with pytest.raises(ValueError, match="No question has an answer"):
        answer_qrels({"0": []}, corpus, [RUN])
    with pytest.raises(ValueError, match="k is 0"):
        answer_qrels(ANSWERS, corpus, [RUN], k=0)
    with pytest.raises(ValueError, match="2 of 2 ranked passages are not in the corpus, such as 'x'"):
        answer_qrels(ANSWERS, corpus, [Rankings({"0": {"x": 1.0, "y": 0.5}})], progress=False)
    answer_qrels({**ANSWERS, "4": [" "]}, corpus, [RUN], progress=False)
    assert "1 of 5 questions have no answer with a letter or sign" in caplog.text
    with pytest.raises(ValueError, match="recall@5, ndcg@10 cannot be computed from answers"):
        check_answer_metrics(["hits@5", "recall@5", "ndcg@10"])
    check_answer_metrics(["hits@5", "mrr@10"])


def spec_tokens(text):
    """Runs of letters, digits and marks, and other single characters that are no space or control, by category."""
    tokens, word = [], ""
    for letter in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(letter)[0]
        if kind in "LNM":
            word += letter
            continue
        tokens += [word] * bool(word) + [letter] * (kind not in "ZC")
        word = ""
    return [token.lower() for token in [*tokens, *([word] if word else [])]]


def first_rank(scores, texts, answers):
    """Rank of the first passage that has an answer, equal scores by trec_eval's rule; `None` without one."""
    order = sorted(scores, key=lambda id: (scores[id], id), reverse=True)
    for rank, id in enumerate(order, start=1):
        words = spec_tokens(texts[id])
        for wanted in map(spec_tokens, answers):
            if wanted and any(words[at : at + len(wanted)] == wanted for at in range(len(words))):
                return rank
    return None


WORDS = st.lists(st.sampled_from(["a", "B", "é", "e\u0301", "1,5", "x-y", "Σ", "-", "(a)"]), max_size=5).map(" ".join)
TEXTS = st.lists(st.sampled_from(["a", "B", "é", "1,5", "(a)"]), min_size=1, max_size=6).map(" ".join)
CORPORA = st.dictionaries(st.sampled_from("stuvwxyz"), st.tuples(WORDS, TEXTS), min_size=3)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), passages=CORPORA, with_title=st.booleans())
def test_hits_by_answer_are_those_of_the_definition(data, passages, with_title):
    corpus = Corpus.from_passages(Passage(id, *fields) for id, fields in passages.items())
    texts = {id: " ".join(fields) if with_title else fields[1] for id, fields in passages.items()}
    lists = st.dictionaries(st.sampled_from(sorted(passages)), st.sampled_from([0.0, 1.0, 2.0]), max_size=8)
    run = data.draw(st.fixed_dictionaries({"0": lists.filter(bool), "1": lists}))
    answers = data.draw(st.fixed_dictionaries(dict.fromkeys("012", st.lists(WORDS, min_size=1, max_size=2))))
    qrels = answer_qrels(answers, corpus, Rankings(run), with_title=with_title, progress=False)
    ranks = [first_rank(run.get(query_id, {}), texts, answers[query_id]) for query_id in answers]
    values = evaluate_run(Rankings(run), qrels, ["hits@1", "hits@2", "hits@5", "hits@100", "mrr"])
    for k in (1, 2, 5, 100):
        # The denominator is the number of questions; one without a list counts as 0.
        assert values[f"hits@{k}"] == pytest.approx(sum(rank is not None and rank <= k for rank in ranks) / 3)
    assert values["mrr"] == pytest.approx(sum(1 / rank for rank in ranks if rank) / 3)
