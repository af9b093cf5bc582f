"""Hits by answer, as in DPR's evaluation: a passage is relevant if one of the question's answers stands in it."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import regex
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.queries import Qrels
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.evaluation.metrics import Metric
from dgr_trainer.runs.rankings import Rankings

logger = logging.getLogger(__name__)

ANSWER_METRICS = ("hits@1", "hits@5", "hits@20", "hits@100")
"""What is reported of answers by default."""
_KINDS = ("hits", "mrr")  # The others would need to know the relevant passages that no run has found.

_SPACES = dict.fromkeys([*range(33), 127])  # All ASCII characters that no token holds.
# A run of letters, digits and marks, or any other character that is neither space nor control character.
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


def answer_tokens(text: str) -> tuple[str, ...]:
    """Cut a text as DPR's evaluation does, in lower case.

    Args:
        text (`str`): a passage or an answer.

    Returns:
        `tuple[str, ...]`: its tokens: of the text in normal form D, runs of letters, digits and marks, and single
        other characters that are neither spaces nor control characters.
    """
    return tuple(token.lower() for token in _TOKEN.findall(unicodedata.normalize("NFD", text)))


def has_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers stands in a text: its tokens, one after the other.

    Args:
        text (`str`): the text.
        answers (`Iterable[str]`): the answers. One without a token is nowhere.
    """
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

    The result is for [`evaluate_run`] and [`compare_runs`] with `hits@k` or `mrr@k`. Every question counts once, and
    one without a rank list, or whose answers no run has found, counts as 0.

    Args:
        queries (`datasets.Dataset` or `Mapping[str, Sequence[str]]`): questions with the columns `query_id` and
            `answers` (as [`read_queries`] gives them), or answers by query id.
        corpus ([`Corpus`]): the passages.
        runs (`Rankings` or `Iterable[Rankings]`): what is to be judged. Judge runs that are compared in one call.
        k (`int`, *optional*, defaults to 100): how many passages of each list are judged.
        with_title (`bool`, *optional*, defaults to `False`): whether an answer counts that stands in the title, or
            begins in it. DPR looks at the text alone, SEAL and MINDER at title and text.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Returns:
        `dict[str, dict[str, int]]`: for each question the passages that hold an answer, with relevance 1.

    Raises:
        TypeError: if the answers of a question are no list of strings.
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
    given = [runs] if isinstance(runs, Rankings) else runs
    known = [run.top(k).check_corpus(corpus.ids) for run in given]
    # Straight from the columns, which is many times faster than passage by passage.
    columns = [corpus.dataset.data.column(name) for name in (("title", "text") if with_title else ("text",))]

    def text(id: str) -> str:
        position = corpus.position(id)
        return " ".join(column[position].as_py() for column in columns)

    qrels: Qrels = {}
    for query_id in tqdm(answers, desc="Looking for answers", unit=" questions", disable=not progress, delay=2):
        patterns = _patterns(answers[query_id])
        passages = dict.fromkeys(id for run in known if query_id in run for id in run[query_id].passage_ids)
        qrels[query_id] = {id: 1 for id in passages if _has_any(text(id), patterns)}
    hopeless = sum(not _patterns(of) for of in answers.values())
    if hopeless:
        logger.warning("%d of %d questions have no answer with a letter or sign in it.", hopeless, len(answers))
    return qrels


def check_answer_metrics(metrics: Sequence[str]) -> None:
    """Raise a `ValueError` if a metric cannot be told from the answers of questions."""
    wrong = [name for name in metrics if Metric.parse(name).kind not in _KINDS]
    if wrong:
        raise DGRValueError(
            f"{', '.join(wrong)} cannot be told from answers, since it asks for all relevant passages, and only those "
            "in the runs were judged. Of answers there are hits@k and mrr@k."
        )


def _answers(queries: Dataset | Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    if isinstance(queries, Dataset):
        missing = [name for name in ("query_id", "answers") if name not in queries.column_names]
        if missing:
            raise DGRValueError(
                f"The questions have no column {' and no column '.join(map(repr, missing))}; their columns are "
                f"{queries.column_names}. Hits by answer need the answers of every question."
            )
        table = queries.select_columns(["query_id", "answers"]).with_format(None)[:]
        found = dict(zip(table["query_id"], table["answers"], strict=True))
    else:
        found = dict(queries)
    for query_id, of in found.items():
        if isinstance(of, str) or not isinstance(of, Sequence) or not all(isinstance(one, str) for one in of):
            raise DGRTypeError(
                f"Query {query_id!r}: the answers are {of!r:.80}, but they have to be a list of strings."
            )
    if not any(found.values()):
        raise DGRValueError("No question has an answer. Hits by answer need the answers of every question.")
    return found


def _patterns(answers: Iterable[str]) -> list[tuple[str, str]]:
    """Answers as they look in a text of [`_line`], and without spaces."""
    return [(_line(tokens), "".join(tokens)) for tokens in dict.fromkeys(map(answer_tokens, answers)) if tokens]


def _line(tokens: Sequence[str]) -> str:
    """Tokens in one string in which a sequence of whole tokens can be found; none of them holds a space."""
    return f" {' '.join(tokens)} "


def _has_any(text: str, patterns: Sequence[tuple[str, str]]) -> bool:
    if text.isascii():
        # Most passages do not even have the letters of an answer in a row, and are not worth cutting into tokens.
        letters = text.lower().translate(_SPACES)
        patterns = [pattern for pattern in patterns if pattern[1] in letters]
    if not patterns:
        return False
    line = _line(answer_tokens(text))
    return any(pattern in line for pattern, _ in patterns)
