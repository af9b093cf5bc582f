"""Distillation in rounds: the teacher ranks what the student finds now, and the student trains on that."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from dgr_trainer.candidates import Candidates
from dgr_trainer.data.queries import Qrels, queries_mapping
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.processes import Processes, from_main, is_main_process
from dgr_trainer.retrieval.retriever import GenerativeRetriever
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.rounds.call_record import describe_teacher, plain
from dgr_trainer.rounds.history import RoundsResult
from dgr_trainer.rounds.loop import METRIC, Rounds
from dgr_trainer.rounds.stages import Lesson, as_dataset, seed_of
from dgr_trainer.rounds.teacher_scores import mean_agreement, rank_candidates
from dgr_trainer.teachers.teacher import Teacher
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.collator import DistillationCollator

# What the collator is given by the rounds themselves.
_OF_ROUNDS = ("tokenizer", "identifiers", "rankings", "qrels", "scoring", "ignore_identical_ids")


def distil_in_rounds(
    retriever: GenerativeRetriever,
    teacher: Teacher,
    queries: Dataset | Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]] | None,
    args: DistillationTrainingArguments,
    *,
    rounds: int = 3,
    output_dir: str | os.PathLike[str] | None = None,
    eval_queries: Dataset | Mapping[str, str] | None = None,
    eval_qrels: Mapping[str, Mapping[str, int]] | None = None,
    retrieval_evaluator: Callable[..., Mapping[str, float]] | None = None,
    metric: str = METRIC,
    patience: int = 1,
    min_gain: float = 0.0,
    k: int = 100,
    search: SearchSettings | None = None,
    ignore_identical_ids: bool = False,
    leave_out_own_text: bool = True,
    list_settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
) -> RoundsResult:
    """Distil a teacher into the student of a retriever, in rounds.

    In a round the student searches for the candidates of the training queries, the teacher ranks them, the student
    trains on these lists as [`DistillationGenerativeRetrievalTrainer`] does, and is evaluated on the dev queries. The
    next round searches with the student that this one has trained. A teacher that can keep its scores
    (`CrossEncoderTeacher(..., cache=...)`) scores only pairs that no round before had; without a `cache` of its own it
    keeps them in `output_dir/teacher-scores`.

    Each round has the folder `output_dir/round-N`: `candidates/`, `teacher.jsonl`, the trainer's checkpoints and
    `dgr_run.json`, `student/`, and `round.json` at the end. After an interruption, in or between rounds, the same call
    with the same student goes on where it was, with the same result. A call with more `rounds` adds to them.

    Under `accelerate launch`, all processes call this: they share the search and the teacher's work, and train with
    DDP. `output_dir` has to be on a disk that all of them see.

    Args:
        retriever ([`GenerativeRetriever`]): Its student is trained, in place: the whole model, or the adapter of a
            `PeftModel`, which goes on being trained in every round.
        teacher ([`Teacher`]): Ranks the candidates.
        queries (`datasets.Dataset` with columns `query_id` and `query`, or `Mapping[str, str]`): Training queries.
        qrels (`Mapping[str, Mapping[str, int]]`, *optional*): Their relevant passages, which are always among the
            candidates.
        args ([`DistillationTrainingArguments`]): Arguments of the training of each round. Round N has the seed
            `args.seed + N - 1`, so the first one is what a training with these arguments would be; learning rate and
            schedule start again in each round.
        rounds (`int`, *optional*, defaults to 3): Rounds at most.
        output_dir (`str` or `os.PathLike`, *optional*): Folder of the rounds; by default `args.output_dir`.
        eval_queries (`datasets.Dataset` or `Mapping[str, str]`, *optional*): Dev queries. Without them, or an
            evaluator, all rounds are trained and the last one is the result.
        eval_qrels (`Mapping[str, Mapping[str, int]]`, *optional*): Their relevant passages.
        retrieval_evaluator ([`RetrievalEvaluator`] or `Callable`, *optional*): In place of dev queries, as the trainer
            takes it.
        metric (`str`, *optional*, defaults to `"ndcg@10"`): The metric on the dev queries, higher is better, by which
            rounds are compared.
        patience (`int`, *optional*, defaults to 1): Stop after this many rounds in a row without a gain.
        min_gain (`float`, *optional*, defaults to 0.0): A gain is more than this above the best round before.
        k (`int`, *optional*, defaults to 100): Candidates per query.
        search ([`SearchSettings`], *optional*): How to search for candidates; by default as the retriever does.
        ignore_identical_ids (`bool`, *optional*, defaults to `False`): Whether to leave out the passage that has the
            id of the query.
        leave_out_own_text (`bool`, *optional*, defaults to `True`): See `GenerativeRetriever.candidates`.
        list_settings (`Mapping[str, Any]`, *optional*): Further arguments of [`DistillationCollator`], such as
            `{"list_length": 10, "sampling": "hard"}`. The `seed`, by default `args.seed`, grows with the rounds.
        callbacks (`Sequence[TrainerCallback]`, *optional*): Callbacks of the trainer; each round has copies.

    Returns:
        [`RoundsResult`]: the retriever with the student of the best round, and the history. If no round is better than
        the student before the first one, that is the best.

    Raises:
        TypeError: if the teacher has no `rank`.
        ValueError: if the arguments do not go together, or `output_dir` holds rounds of another call.
        RuntimeError: if another job is working on the same folder.

    Example:

    ```python
    result = distil_in_rounds(
        retriever, teacher, queries, qrels, args, rounds=3, eval_queries=dev_queries, eval_qrels=dev_qrels
    )
    print(result.to_markdown())
    result.retriever.save_pretrained("distilled")
    ```
    """
    if not callable(getattr(teacher, "rank", None)):
        raise DGRTypeError(
            f"teacher is a {type(teacher).__name__}, which has no method rank(queries, candidates, k=)."
        )
    settings = dict(list_settings or {})
    taken = [name for name in _OF_ROUNDS if name in settings]
    if taken:
        raise DGRValueError(
            f"list_settings has {taken[0]}, which the rounds give the collator themselves. Leave it out."
        )
    stage = _Distillation(retriever, teacher, as_dataset(queries), args, settings, ignore_identical_ids)
    training = Rounds(
        retriever=retriever,
        stage=stage,
        queries=queries,
        qrels=qrels,
        args=args,
        rounds=rounds,
        output_dir=output_dir,
        eval_queries=eval_queries,
        eval_qrels=eval_qrels,
        retrieval_evaluator=retrieval_evaluator,
        metric=metric,
        patience=patience,
        min_gain=min_gain,
        k=k,
        search=search,
        ignore_identical_ids=ignore_identical_ids,
        leave_out_own_text=leave_out_own_text,
        callbacks=callbacks,
    )
    stage.qrels = training.checked_qrels or None
    stage.cache = training.folder / "teacher-scores"
    return training.run()


class _Distillation:
    """The teacher's rank lists of the candidates, as a lesson."""

    name, step, scores = "distillation", "teacher", True
    qrels: Qrels | None
    cache: Path

    def __init__(
        self,
        retriever: GenerativeRetriever,
        teacher: Teacher,
        queries: Dataset,
        args: DistillationTrainingArguments,
        settings: dict[str, Any],
        ignore_identical_ids: bool,
    ) -> None:
        self.retriever, self.teacher, self.queries, self.args = retriever, teacher, queries, args
        self.ignore_identical_ids = ignore_identical_ids
        self.seed = int(settings.pop("seed", args.seed))
        self.settings = settings
        self.texts = queries_mapping(queries)

    def call(self) -> dict[str, Any]:
        """The teacher and the settings of lists."""
        return {"teacher": describe_teacher(self.teacher), "lists": {**plain(self.settings), "seed": self.seed}}

    def lesson(
        self, folder: Path, candidates: Candidates, number: int, processes: Processes | None, progress: bool
    ) -> Lesson:
        """Let the teacher rank the candidates."""
        rankings = rank_candidates(
            self.teacher, self.texts, candidates, folder / "teacher.jsonl", self.cache, processes
        )
        agreement = mean_agreement(candidates, rankings) if is_main_process(processes) else None
        collator = DistillationCollator(
            self.retriever.identifiers,
            candidates,
            rankings,
            self.qrels,
            scoring=self.retriever.scoring,
            seed=seed_of(self.seed, number),
            ignore_identical_ids=self.ignore_identical_ids,
            **self.settings,
        )
        return Lesson(self.queries, collator, from_main(agreement, processes))
