"""Hits by answer, as in DPR's evaluation: a passage is relevant if it contains one of the question's answers."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import regex
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.queries import Qrels
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.evaluation.metrics import Metric
from dgr_trainer.runs.rankings import Rankings, as_rankings

logger = logging.getLogger(__name__)

ANSWER_METRICS = ("hits@1", "hits@5", "hits@20", "hits@100")
"""The metrics that are computed from answers by default."""
_KINDS = ("hits", "mrr")  # The others need to know every relevant passage, also those that no run returned.

_SPACES = dict.fromkeys([*range(33), 127])  # All ASCII characters that are part of no token.
# A run of letters, digits and marks, or any other character that is neither space nor control character.
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


def answer_tokens(text: str) -> tuple[str, ...]:
    """Tokenise a text as DPR's evaluation does, in lower case.

    Args:
        text (`str`): a passage or an answer.

    Returns:
        `tuple[str, ...]`: the tokens of the text in normal form D: runs of letters, digits and marks, and every other
        character that is neither a space nor a control character.
    """
    return tuple(token.lower() for token in _TOKEN.findall(unicodedata.normalize("NFD", text)))


def has_answer(text: str, answers: Iterable[str]) -> bool:
    """Tell whether a text contains the tokens of one of the answers, in a row.

    Args:
        text (`str`): the text.
        answers (`Iterable[str]`): the answers. An answer without a token is never found.

    Raises:
        TypeError: if the answers are one string.
    """
    if isinstance(answers, str):
        raise DGRTypeError(
            f"The answers are {answers!r:.80}, but they have to be a list of strings. For one answer, give a list of "
            "one."
        )
    return _has_any(text, _patterns(answers))


def answer_qrels(
    queries: Dataset | Mapping[str, Sequence[str]],
    corpus: Corpus,
    runs: Rankings | Iterable[Rankings],
    *,
    k: int = 100,
    with_title: bool = False,
    progress: bool = True,
) -> Qrels:
    """Judge the passages of runs by the answers of their questions.

    Give the result to [`evaluate_run`] or [`compare_runs`] with `hits@k` or `mrr@k`. Every question counts once; a
    question without a rank list, or whose answers no run has found, counts as 0.

    Args:
        queries (`datasets.Dataset` or `Mapping[str, Sequence[str]]`): questions with the columns `query_id` and
            `answers` (as [`read_queries`] gives them), or answers by query id.
        corpus ([`Corpus`]): the passages.
        runs (`Rankings` or `Iterable[Rankings]`): the runs to judge. Judge runs that you compare in one call.
        k (`int`, *optional*, defaults to 100): how many passages of each list are judged.
        with_title (`bool`, *optional*, defaults to `False`): whether to search the title and the text, as SEAL and
            MINDER do. DPR searches the text alone.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Returns:
        `dict[str, dict[str, int]]`: for each question the passages that hold an answer, with relevance 1.

    Raises:
        TypeError: if the answers of a question are not a list of strings.
        ValueError: if `queries` has no answers, `k` is below 1, or most ranked passages are not in the corpus.

    Example:

    ```python
    questions = read_queries("nq-test.qa.csv")
    qrels = answer_qrels(questions, Corpus.read("psgs_w100.tsv"), [run])
    evaluate_run(run, qrels, ["hits@1", "hits@5", "hits@20", "hits@100"])
    ```
    """
    if k < 1:
        raise DGRValueError(f"k is {k}, but at least one passage of a list has to be judged.")
    answers = _answers(queries)
    several_runs = [runs] if isinstance(runs, Mapping) else runs
    cut_runs = [as_rankings(run).top(k).check_corpus(corpus.ids) for run in several_runs]
    # Reading the columns is many times faster than making a Passage each time.
    columns = [corpus.dataset.data.column(name) for name in (("title", "text") if with_title else ("text",))]

    def text(id: str) -> str:
        position = corpus.position(id)
        return " ".join(column[position].as_py() for column in columns)

    qrels: Qrels = {}
    for query_id in tqdm(answers, desc="Looking for answers", unit=" questions", disable=not progress, delay=2):
        patterns = _patterns(answers[query_id])
        passages = dict.fromkeys(id for run in cut_runs if query_id in run for id in run[query_id].passage_ids)
        qrels[query_id] = {id: 1 for id in passages if _has_any(text(id), patterns)}
    without_tokens = sum(not _patterns(texts) for texts in answers.values())
    if without_tokens:
        logger.warning("%d of %d questions have no answer with a letter or sign in it.", without_tokens, len(answers))
    return qrels


def check_answer_metrics(metrics: Sequence[str]) -> None:
    """Raise a `ValueError` if a metric cannot be computed from the answers of questions."""
    wrong = [name for name in metrics if Metric.parse(name).kind not in _KINDS]
    if wrong:
        raise DGRValueError(
            f"{', '.join(wrong)} cannot be computed from answers: it needs all relevant passages of the corpus, and "
            "only passages in the runs are judged. Use hits@k or mrr@k."
        )


def _answers(queries: Dataset | Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(queries, Dataset):
        missing = [name for name in ("query_id", "answers") if name not in queries.column_names]
        if missing:
            raise DGRValueError(
                f"The questions have no column {' and no column '.join(map(repr, missing))}; their columns are "
                f"{queries.column_names}. Hits by answer need the answers of every question."
            )
        table = queries.select_columns(["query_id", "answers"]).with_format(None)[:]
        pairs = zip(table["query_id"], table["answers"], strict=True)
    else:
        pairs = queries.items()
    answers: dict[str, Sequence[str]] = {}
    for number, (value, texts) in enumerate(pairs):
        query_id = as_id(value, "query", f"question {number}")
        if query_id in answers:
            raise DGRValueError(f"Two questions have the id {query_id!r}. Every question needs its own id.")
        answers[query_id] = texts
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts):
            raise DGRTypeError(
                f"Query {query_id!r}: the answers are {texts!r:.80}, but they have to be a list of strings."
            )
    if not any(answers.values()):
        raise DGRValueError("No question has an answer. Hits by answer need the answers of every question.")
    return answers


def _patterns(answers: Iterable[str]) -> list[tuple[str, str]]:
    """Return each answer twice: as it looks in the output of `_line`, and without spaces."""
    return [(_line(tokens), "".join(tokens)) for tokens in dict.fromkeys(map(answer_tokens, answers)) if tokens]


def _line(tokens: Sequence[str]) -> str:
    """Join tokens so that a substring search finds whole tokens only; no token contains a space."""
    return f" {' '.join(tokens)} "


def _has_any(text: str, patterns: Sequence[tuple[str, str]]) -> bool:
    if text.isascii():
        # Most passages do not contain the letters of an answer in a row, and need not be tokenised.
        letters = text.lower().translate(_SPACES)
        patterns = [pattern for pattern in patterns if pattern[1] in letters]
    if not patterns:
        return False
    line = _line(answer_tokens(text))
    return any(pattern in line for pattern, _ in patterns)
