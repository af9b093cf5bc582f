"""The rounds of a training: search, lesson, training, evaluation; each step is kept, so that a killed run goes on."""

from __future__ import annotations

import copy
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from datasets import Dataset
from transformers import TrainerCallback

from dgr_trainer.candidates import Candidates
from dgr_trainer.data.queries import Qrels, check_qrels, queries_mapping
from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.evaluator import RetrievalEvaluator
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS
from dgr_trainer.processes import Processes, from_main, is_main_process, wait
from dgr_trainer.processes.jobs import in_every_process, job_lock
from dgr_trainer.reporting.pipeline_record import PipelineRecord
from dgr_trainer.retrieval.adapter_storage import describe_adapters
from dgr_trainer.retrieval.retriever import GenerativeRetriever
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.rounds.call_record import (
    call_arguments,
    check_call,
    describe_evaluator,
    describe_retriever,
    digest,
)
from dgr_trainer.rounds.history import (
    Round,
    RoundsResult,
    best_round,
    read_history,
    retrieval_metrics,
    round_folder,
    rounds_without_gain,
)
from dgr_trainer.rounds.stages import Lesson, Stage, seed_of
from dgr_trainer.rounds.student_files import restore_student, save_student
from dgr_trainer.rounds.teacher_scores import new_shares
from dgr_trainer.student.weights import weights_digest
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.checkpoints import checkpoints, complete_checkpoint
from dgr_trainer.training.trainer import DistillationGenerativeRetrievalTrainer

logger = logging.getLogger(__name__)

METRIC = "ndcg@10"
Evaluator = Callable[..., Mapping[str, float]]


@dataclass(kw_only=True)
class Rounds:
    """What rounds of either stage are made of; see [`distil_in_rounds`] for the fields."""

    retriever: GenerativeRetriever
    stage: Stage
    queries: Dataset | Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]] | None
    args: DistillationTrainingArguments
    rounds: int
    output_dir: str | os.PathLike[str] | None
    eval_queries: Dataset | Mapping[str, str] | None
    eval_qrels: Mapping[str, Mapping[str, int]] | None
    retrieval_evaluator: Evaluator | None
    metric: str
    patience: int
    min_gain: float
    k: int
    search: SearchSettings | None
    ignore_identical_ids: bool
    leave_out_own_text: bool
    callbacks: Sequence[TrainerCallback | type[TrainerCallback]]
    folder: Path = field(init=False)
    evaluator: Evaluator | None = field(init=False)
    checked_qrels: Qrels = field(init=False)
    processes: Processes | None = field(init=False)
    # The round whose student the model is now.
    _at: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._check_numbers()
        _check_arguments(self.args)
        self.folder = Path(self.output_dir or self.args.output_dir or "rounds")
        self.texts = queries_mapping(self.queries)
        self.checked_qrels = {}
        if self.qrels is not None:
            self.checked_qrels = check_qrels(self.qrels, self.retriever.index.passage_ids, self.texts)
        self.evaluator = self._evaluator()
        _ = self.args.device  # Connects to the processes that were launched together.
        self.processes = PartialState() if self.args.world_size > 1 else None

    def _check_numbers(self) -> None:
        for name, least in (("rounds", 1), ("patience", 1), ("k", 1), ("min_gain", 0)):
            if getattr(self, name) < least:
                raise DGRValueError(f"{name}={getattr(self, name)} has to be at least {least}.")

    def _evaluator(self) -> Evaluator | None:
        given = self.eval_queries is not None
        if given != (self.eval_qrels is not None):
            raise DGRValueError("eval_queries and eval_qrels go together. Give both or neither.")
        evaluator = self.retrieval_evaluator
        if given and evaluator is not None:
            raise DGRValueError("retrieval_evaluator has its queries already, so leave out eval_queries.")
        if self.eval_queries is not None and self.eval_qrels is not None:
            evaluator = RetrievalEvaluator(
                self.retriever.index,
                self.retriever.identifiers,
                self.eval_queries,
                self.eval_qrels,
                metrics=tuple(dict.fromkeys([*DEFAULT_METRICS, self.metric])),
                settings=self.retriever.settings,
                scoring=self.retriever.scoring,
                ignore_identical_ids=self.ignore_identical_ids,
            )
        if isinstance(evaluator, RetrievalEvaluator):
            self._check_metric(evaluator.metrics)
        return evaluator

    def _check_metric(self, names: Sequence[str]) -> None:
        if self.metric not in names:
            raise DGRValueError(
                f"metric={self.metric!r} is not among the metrics of the evaluator, {', '.join(names)}. Choose one of "
                "them, or let the evaluator compute it."
            )

    # The loop

    def run(self) -> RoundsResult:
        """Train the rounds that are not finished yet, and give the retriever the student of the best one."""
        if is_main_process(self.processes):
            self.folder.mkdir(parents=True, exist_ok=True)
        wait(self.processes)
        with job_lock(self.folder / ".rounds.lock", str(self.folder), self.processes):
            model: Any = self.retriever.model
            describe_adapters(model)  # Raises an error if it could not be saved after a round.
            if not getattr(model, "is_quantized", False) and getattr(model, "hf_device_map", None) is None:
                model.to(self.args.device)
            model.eval()
            self._check_call()
            history = from_main(read_history(self.folder), self.processes)
            if not history:
                history = [self._start()]
            if self.evaluator is not None:
                self._check_metric(list(history[0].metrics))
            while (used := self._used(history)) is None:
                history.append(self._round(history))
                self._write_record(history)
            history = history[:used]
            best = best_round(history, self.metric if self.evaluator is not None else None)
            self._bring(history[best])
            self._write_record(history)
        result = RoundsResult(self.retriever, history, best)
        if is_main_process(self.processes):
            logger.info("rounds in %s:\n%s", self.folder, result.to_markdown())
            if best == 0:
                logger.warning(
                    "No round was better than the student before the first one, by %s on the dev queries, so this is "
                    "the result.",
                    self.metric,
                )
        return result

    def _used(self, history: Sequence[Round]) -> int | None:
        """How many entries of the history belong to the result; `None` if another round is to be trained."""
        for count in range(1, len(history) + 1):
            if count > self.rounds:
                return count
            if self.evaluator is not None and (
                rounds_without_gain(history[:count], self.metric, self.min_gain) >= self.patience
            ):
                return count
        return None

    def _check_call(self) -> None:
        main = is_main_process(self.processes)
        in_every_process(lambda: check_call(self.folder, self._call()) if main else None, self.processes)

    def _call(self) -> dict[str, Any]:
        """What the rounds depend on, in JSON types."""
        return {
            "stage": self.stage.name,
            **describe_retriever(self.retriever, self._search_settings),
            "queries": digest(list(self.texts.items())),
            "qrels": digest(self.checked_qrels),
            "k": self.k,
            "ignore_identical_ids": self.ignore_identical_ids,
            "leave_out_own_text": self.leave_out_own_text,
            **self.stage.call(),
            "args": call_arguments(self.args),
            "evaluation": describe_evaluator(self.evaluator),
        }

    @property
    def _search_settings(self) -> SearchSettings:
        return self.search or self.retriever.settings

    # A round

    def _start(self) -> Round:
        """Round 0: the student as it is given."""
        seconds: dict[str, float] = {}
        metrics: dict[str, float] = {}
        student = None
        if self.evaluator is not None:
            with _timed(seconds, "evaluation"):
                found = self.evaluator(self.retriever.model, accelerator=self.processes)
            metrics = {name.removeprefix("eval_"): float(value) for name, value in found.items()}
            self._check_metric(list(metrics))
            student = self._save_student(0)
        return self._finished(Round(0, metrics, seconds=seconds, student=student))

    def _round(self, history: Sequence[Round]) -> Round:
        number = len(history)
        self._bring(history[-1])
        folder = round_folder(self.folder, number)
        main = is_main_process(self.processes)
        if main:
            logger.info("round %d of at most %d: %s", number, self.rounds, folder)
            folder.mkdir(parents=True, exist_ok=True)
        wait(self.processes)
        seconds: dict[str, float] = {}
        with _timed(seconds, "search"):
            candidates = self._candidates(folder)
        shares: tuple[float, float] | None = None
        if main:
            shares = new_shares(candidates, [self._candidates_of(one) for one in range(1, number)])
        new_candidates, new_scores = from_main(shares, self.processes) or (None, None)
        with _timed(seconds, self.stage.step):
            lesson = self.stage.lesson(folder, candidates, number, self.processes, main and not self.args.disable_tqdm)
        metrics = self._train(number, folder, lesson, history[0], seconds)
        return self._finished(
            Round(
                number,
                metrics,
                lesson.agreement,
                new_candidates,
                new_scores if self.stage.scores else None,
                seconds,
                self._save_student(number),
            )
        )

    def _candidates(self, folder: Path) -> Candidates:
        """Search for candidates with the student as it is now, unless an earlier run has done so."""
        path = folder / "candidates"
        if not from_main((path / "candidates.json").is_file(), self.processes):
            retriever = self.retriever
            searcher = GenerativeRetriever(
                retriever.model,
                retriever.identifiers,
                retriever.index,
                settings=self._search_settings,
                scoring=retriever.scoring,
            )
            searcher.save_candidates(
                path,
                self.texts,
                self.k,
                self.checked_qrels,
                self.processes,
                ignore_identical_ids=self.ignore_identical_ids,
                leave_out_own_text=self.leave_out_own_text,
            )
            wait(self.processes)
        return Candidates.load_from_disk(path, tokenizer_fingerprint=self.retriever.identifiers.fingerprint)

    def _candidates_of(self, number: int) -> Candidates:
        return Candidates.load_from_disk(round_folder(self.folder, number) / "candidates")

    def _train(
        self, number: int, folder: Path, lesson: Lesson, start: Round, seconds: dict[str, float]
    ) -> dict[str, float]:
        """Train the student on a lesson, from the last checkpoint if there is one; returns its metrics."""
        model: Any = self.retriever.model
        use_cache = getattr(model.config, "use_cache", None)
        # They may count, such as EarlyStoppingCallback; each round begins with those that were given.
        callbacks = [one if isinstance(one, type) else copy.copy(one) for one in self.callbacks]
        trainer = DistillationGenerativeRetrievalTrainer(
            model=model,
            args=self._arguments(number, folder),
            data_collator=lesson.collator,
            train_dataset=lesson.dataset,
            processing_class=self.retriever.identifiers.tokenizer,
            callbacks=cast(list[TrainerCallback], callbacks),
            retrieval_evaluator=self.evaluator,
        )
        metrics: dict[str, float] = {}
        with _timed(seconds, "training"):
            trainer.train(resume_from_checkpoint=_resumable(folder, self.processes))
        self._at = -1
        if self.evaluator is not None:
            with _timed(seconds, "evaluation"):
                metrics = retrieval_metrics(trainer.evaluate(), list(start.metrics))
        # The next round starts as it would with a model that was just loaded: without wrappers, hooks and buffers.
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        trainer.accelerator.free_memory()
        del trainer
        gc.collect()
        model.zero_grad(set_to_none=True)
        model.eval()
        if use_cache is not None:
            model.config.use_cache = use_cache
        return metrics

    def _arguments(self, number: int, folder: Path) -> DistillationTrainingArguments:
        """The arguments of a round: they draw other lists and another order of queries than those of other rounds."""
        args = copy.copy(self.args)
        args.output_dir = str(folder)
        args.seed = seed_of(self.args.seed, number)
        if args.data_seed is not None:
            args.data_seed = seed_of(args.data_seed, number)
        if args.run_name:
            args.run_name = f"{args.run_name}-round-{number}"
        return args

    def _save_student(self, number: int) -> str:
        """Write the student of a round; returns the digest of its weights."""
        model: Any = self.retriever.model
        weights: str | None = None
        if is_main_process(self.processes):
            save_student(model, self.retriever.identifiers.tokenizer, self._student_folder(number))
            weights = weights_digest(model)
        self._at = number
        return str(from_main(weights, self.processes))

    def _bring(self, one: Round) -> None:
        """Give the model the student of a round."""
        if self._at != one.number:
            assert one.student is not None
            folder, weights = self._student_folder(one.number), one.student
            in_every_process(lambda: restore_student(self.retriever.model, folder, weights), self.processes)
            self._at = one.number

    def _student_folder(self, number: int) -> Path:
        return round_folder(self.folder, number) / "student"

    def _finished(self, one: Round) -> Round:
        one = from_main(one, self.processes)
        if is_main_process(self.processes):
            one.save(round_folder(self.folder, one.number))
        wait(self.processes)
        return one

    def _write_record(self, history: Sequence[Round]) -> None:
        """Write what `dgr report` reads of all rounds together."""
        if not is_main_process(self.processes):
            return
        best = best_round(history, self.metric if self.evaluator is not None else None)
        record = PipelineRecord(
            f"Rounds of {self.stage.name}",
            "In each round the student searches for candidates of the training queries again, and trains on them.",
            {"rounds": len(history) - 1, "best_round": best, "k": self.k}
            | ({"metric": self.metric, "patience": self.patience} if self.evaluator is not None else {}),
        )
        for one in history[1:]:
            record.training(f"round {one.number}", round_folder(self.folder, one.number).name)
            for step, seconds in one.seconds.items():
                record.finished_stage(f"Round {one.number}: {step}", seconds)
        record.write(self.folder)


def _check_arguments(args: DistillationTrainingArguments) -> None:
    """Refuse arguments that rounds cannot follow."""
    if args.push_to_hub:
        raise DGRValueError(
            "push_to_hub would upload every round. Leave it out, and upload the result with "
            "result.retriever.push_to_hub(...) or `dgr push`."
        )
    if args.resume_from_checkpoint:
        raise DGRValueError(
            "resume_from_checkpoint has no effect: rounds go on by themselves where they were interrupted, with the "
            "same call. Leave it out."
        )
    sharded = [os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() in ("1", "true") for kind in ("FSDP", "DEEPSPEED")]
    if args.deepspeed or args.fsdp or any(sharded):
        raise DGRValueError(
            "Rounds search with the whole student in every process, so they cannot be trained with FSDP or DeepSpeed. "
            "Use DDP (accelerate launch without them), or make the rounds by hand: candidates, teacher.rank, trainer."
        )


def _resumable(folder: Path, processes: Processes | None) -> str | None:
    """The last complete checkpoint in the folder of a round, if there is any."""
    if not from_main(bool(checkpoints(folder)), processes):
        return None
    try:
        return complete_checkpoint(True, str(folder), processes)
    except DGRValueError:  # Killed while it wrote the first one.
        return None


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - begun, 3)
