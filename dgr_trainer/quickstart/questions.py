"""The quickstart's questions about the Python standard library, judged by hand; `questions.md` is their data card."""

from __future__ import annotations

import builtins
import json
import logging
from collections.abc import Container, Iterator
from importlib.resources import files
from typing import Literal, NamedTuple, get_args

from datasets import Dataset, Features, Value

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.queries import Qrels
from dgr_trainer.errors import DGRValueError

logger = logging.getLogger(__name__)

Split = Literal["train", "test"]
HeldOut = Literal["topic", "passage"]

ANSWER = 2
"""The grade of a passage that answers the question; passages of grade 1 answer a part of it, or indirectly."""


class Question(NamedTuple):
    """A question with its relevant passages (id: grade) and its split."""

    query_id: str
    query: str
    relevant: dict[str, int]
    split: Split


def all_questions() -> Iterator[Question]:
    """Yield all questions of `questions.jsonl`, in their order, also those whose answer this Python lacks."""
    text = files("dgr_trainer.quickstart").joinpath("questions.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        yield Question(**json.loads(line))


def topic(passage_id: str) -> str:
    """Return the top-level module of a passage: `json` for `json.tool`, `builtins` for `str.split`."""
    name = passage_id.partition(".")[0]
    return "builtins" if hasattr(builtins, name) else name


def held_out_by() -> dict[str, HeldOut]:
    """Return for each test question whether its whole topic was held out, or only its passages.

    Returns:
        `dict[str, str]`: for each id of a test question `"topic"` if no passage that is relevant to a training
        question is of the same top-level module as one of its answers, else `"passage"`.
    """
    questions = list(all_questions())
    trained = {
        topic(passage_id) for question in questions if question.split == "train" for passage_id in question.relevant
    }
    return {
        question.query_id: "passage"
        if any(topic(passage_id) in trained for passage_id, grade in question.relevant.items() if grade == ANSWER)
        else "topic"
        for question in questions
        if question.split == "test"
    }


def load_questions(split: Split, corpus: Corpus | Container[str]) -> tuple[Dataset, Qrels]:
    """Load the questions of one split, with those of their relevant passages that are in the corpus.

    The questions are phrased as people ask or search ("how many days has February 2023", "RuntimeError: no running
    event loop") and judged by reading the passages: grade 2 for passages that answer, 1 for passages that help. The
    passages are those of Python 3.11; where 3.12 or 3.13 renamed one, both names are judged.

    About half of the questions are held out. No passage is relevant in both splits, so the test questions ask for
    passages that no training question asked for; two fifths of them ask about modules that no training question is
    about at all (see [`held_out_by`]).

    Questions whose answer is not in the corpus, because the interpreter was built without the module or the platform
    lacks it, are left out and counted in the log.

    Args:
        split (`str`): `"train"` or `"test"`.
        corpus ([`~dgr_trainer.Corpus`]): from [`~dgr_trainer.quickstart.python_docs.python_docs_corpus`], or any
            container of passage ids.

    Returns:
        `tuple[datasets.Dataset, dict[str, dict[str, int]]]`: the queries (columns `query_id` and `query`) and their
        qrels.

    Raises:
        ValueError: if the split is unknown, or the corpus answers none of its questions.
    """
    if split not in get_args(Split):
        raise DGRValueError(
            f"There is no split {split!r}. The questions have the splits {', '.join(get_args(Split))}."
        )
    queries: dict[str, str] = {}
    qrels: Qrels = {}
    unanswered: list[str] = []
    for question in all_questions():
        if question.split != split:
            continue
        relevant = {passage_id: grade for passage_id, grade in question.relevant.items() if passage_id in corpus}
        if ANSWER in relevant.values():
            queries[question.query_id] = question.query
            qrels[question.query_id] = relevant
        else:
            unanswered.append(question.query)
    if not queries:
        raise DGRValueError(
            f"The corpus answers none of the {len(unanswered)} {split} questions, which are about the Python standard "
            "library. Use the corpus that python_docs_corpus() makes."
        )
    if unanswered:
        logger.warning(
            "%d of %d %s questions are left out, because this Python does not document what they ask for: %s",
            len(unanswered),
            len(unanswered) + len(queries),
            split,
            "; ".join(unanswered),
        )
    columns = {"query_id": list(queries), "query": list(queries.values())}
    return Dataset.from_dict(columns, features=Features({name: Value("string") for name in columns})), qrels
