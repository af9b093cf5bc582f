"""Generation in rounds: the student learns the identifiers by which it finds the relevant passages itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, TrainerCallback

from dgr_trainer.candidates import Candidates
from dgr_trainer.data.queries import Qrels, queries_mapping
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_folder
from dgr_trainer.processes import Processes, from_main, is_main_process
from dgr_trainer.processes.jobs import in_every_process
from dgr_trainer.retrieval.retriever import GenerativeRetriever
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.rounds.history import RoundsResult
from dgr_trainer.rounds.loop import METRIC, Rounds
from dgr_trainer.rounds.stages import Lesson, seed_of
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.pairs import pairs_from_candidates
from dgr_trainer.training.run_record import dataset_fingerprint


def train_generation_in_rounds(
    retriever: GenerativeRetriever,
    queries: Dataset | Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
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
    k: int = 10,
    search: SearchSettings | None = None,
    ignore_identical_ids: bool = False,
    leave_out_own_text: bool = True,
    identifiers_per_query: int = 10,
    pairs: Dataset | None = None,
    num_proc: int | None = None,
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
) -> RoundsResult:
    """Train the student of a retriever to generate what it finds relevant passages by, in rounds.

    In a round the student searches for the training queries, the identifiers that led it to their relevant passages
    become pairs (`pairs_from_candidates`), and it trains on these. The next round searches with the student that this
    one has trained. Start from a student that has learnt from ordinary pairs (`generation_pairs`): one that finds
    nothing has only titles, pseudo-queries and first words to learn.

    Folders, interruptions, several processes, and arguments that are not named here are as in `distil_in_rounds`. The
    pairs of a round are in `output_dir/round-N/pairs`.

    Args:
        retriever ([`GenerativeRetriever`]): Its student is trained, in place.
        queries (`datasets.Dataset` with columns `query_id` and `query`, or `Mapping[str, str]`): Training queries.
        qrels (`Mapping[str, Mapping[str, int]]`): Their relevant passages.
        args ([`DistillationTrainingArguments`]): Arguments of the training of each round.
        rounds (`int`, *optional*, defaults to 3): Rounds at most.
        output_dir (`str` or `os.PathLike`, *optional*): Folder of the rounds; by default `args.output_dir`.
        eval_queries (`datasets.Dataset` or `Mapping[str, str]`, *optional*): Dev queries.
        eval_qrels (`Mapping[str, Mapping[str, int]]`, *optional*): Their relevant passages.
        retrieval_evaluator ([`RetrievalEvaluator`] or `Callable`, *optional*): In place of dev queries.
        metric (`str`, *optional*, defaults to `"ndcg@10"`): The metric by which rounds are compared.
        patience (`int`, *optional*, defaults to 1): Stop after this many rounds in a row without a gain.
        min_gain (`float`, *optional*, defaults to 0.0): A gain is more than this above the best round before.
        k (`int`, *optional*, defaults to 10): Candidates per query; those that are not relevant are only counted.
        search ([`SearchSettings`], *optional*): How to search; by default as the retriever does.
        ignore_identical_ids (`bool`, *optional*, defaults to `False`): Whether to leave out the passage that has the
            id of the query.
        leave_out_own_text (`bool`, *optional*, defaults to `True`): See `GenerativeRetriever.candidates`.
        identifiers_per_query (`int`, *optional*, defaults to 10): See `pairs_from_candidates`.
        pairs (`datasets.Dataset`, *optional*): Pairs of `generation_pairs`, which every round trains on beside its
            own, so that the student does not forget them.
        num_proc (`int`, *optional*): Number of processes that make pairs.
        callbacks (`Sequence[TrainerCallback]`, *optional*): Callbacks of the trainer; each round has copies.

    Returns:
        [`RoundsResult`]: the retriever with the student of the best round, and the history.

    Raises:
        ValueError: if the arguments do not go together, or `output_dir` holds rounds of another call.
        RuntimeError: if another job is working on the same folder.
    """
    if identifiers_per_query < 1:
        raise DGRValueError(f"identifiers_per_query={identifiers_per_query}: make at least 1 pair for a query.")
    if not qrels:
        raise DGRValueError("qrels is empty: pairs are made of a query and its relevant passages. Give qrels.")
    if pairs is not None and not {"input_ids", "labels"} <= set(pairs.column_names):
        raise DGRValueError(
            f"pairs has the columns {pairs.column_names}, but pairs have input_ids and labels. Make them with "
            "generation_pairs."
        )
    stage = _Generation(retriever, queries_mapping(queries), args, identifiers_per_query, pairs, num_proc)
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
    stage.qrels = training.checked_qrels
    return training.run()


class _Generation:
    """Pairs of the identifiers that led the student to the relevant passages, as a lesson."""

    name, step, scores = "generation", "pairs", False
    qrels: Qrels

    def __init__(
        self,
        retriever: GenerativeRetriever,
        queries: dict[str, str],
        args: DistillationTrainingArguments,
        identifiers_per_query: int,
        pairs: Dataset | None,
        num_proc: int | None,
    ) -> None:
        self.retriever, self.queries, self.args = retriever, queries, args
        self.identifiers_per_query, self.pairs, self.num_proc = identifiers_per_query, pairs, num_proc

    def call(self) -> dict[str, Any]:
        """What the pairs depend on."""
        return {
            "identifiers_per_query": self.identifiers_per_query,
            "pairs": None if self.pairs is None else dataset_fingerprint(self.pairs),
        }

    def lesson(
        self, folder: Path, candidates: Candidates, number: int, processes: Processes | None, progress: bool
    ) -> Lesson:
        """Make the pairs of a round, or open those that an earlier run has made."""
        path, main = folder / "pairs", is_main_process(processes)
        if not from_main((path / "state.json").is_file(), processes):
            in_every_process(
                lambda: self._write_pairs(path, candidates, number, progress) if main else None, processes
            )
        with input_errors(f"The pairs in {path} cannot be read", Exception):
            pairs = cast(Dataset, datasets.load_from_disk(str(path)))
        tokenizer = self.retriever.identifiers.tokenizer
        return Lesson(pairs, DataCollatorForSeq2Seq(tokenizer, model=cast(Any, self.retriever.model)), None)

    def _write_pairs(self, path: Path, candidates: Candidates, number: int, progress: bool) -> None:
        made = pairs_from_candidates(
            candidates,
            self.retriever.identifiers,
            self.queries,
            self.qrels,
            identifiers_per_query=self.identifiers_per_query,
            seed=seed_of(self.args.seed, number),
            num_proc=self.num_proc,
            progress=progress,
        )
        if self.pairs is not None:
            others = self.pairs.select_columns(["input_ids", "labels"]).cast(made.features)
            made = datasets.concatenate_datasets([made, others])
        with atomic_folder(path, marker="state.json") as written:
            made.save_to_disk(str(written))
