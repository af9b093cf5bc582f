"""The trainer: a `Seq2SeqTrainer` whose loss teaches a student to rank as its teacher does."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import datasets
import torch
from torch import Tensor, nn
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.sharding import join_embeddings
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.batch_loss import TERMS, distillation_loss, pair_loss
from dgr_trainer.training.batches import count_items
from dgr_trainer.training.checkpoints import complete_checkpoint
from dgr_trainer.training.checks import (
    check_coverage,
    check_evaluation_coverage,
    check_model,
    check_pairs,
    check_prefix_ranking,
    check_trainer_arguments,
)
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.epoch_callback import EpochCallback
from dgr_trainer.training.evaluating_trainer import EvaluatingTrainer
from dgr_trainer.training.evaluation_rows import ROW, NumberedRows, NumberingCollator, RowTerms
from dgr_trainer.training.given_datasets import check_dataset, named_datasets, query_ids_of, with_tokenised_queries
from dgr_trainer.training.hyperparameters import (
    default_direction,
    default_objective,
    loss_settings,
    settings_of_trial,
)
from dgr_trainer.training.length_grouping import GroupedByLength, row_lengths
from dgr_trainer.training.logged_terms import LoggedTerms
from dgr_trainer.training.losses import RankingLoss
from dgr_trainer.training.objective import RankingObjective
from dgr_trainer.training.prompts import COLUMN as PROMPTS
from dgr_trainer.training.run_record import RunRecord
from dgr_trainer.training.score_spread import fitted_arguments
from dgr_trainer.training.student_check import try_student
from dgr_trainer.training.student_ranks import compare, compare_with_metrics, share_found
from dgr_trainer.training.unused_arguments import warn_of_unused_arguments

logger = logging.getLogger(__name__)

_COLUMNS = ("query_id", "query", PROMPTS, "input_ids", "attention_mask", "labels", ROW)


class DistillationGenerativeRetrievalTrainer(EvaluatingTrainer):
    """Trains a student to retrieve by generating identifiers and to rank as its teacher does.

    The student is an encoder-decoder such as BART or T5, or a decoder-only model such as Qwen3 or Llama.

    A drop-in replacement for [`~transformers.Seq2SeqTrainer`]: full fine-tuning or a `PeftModel`, one process or many.
    With a [`DistillationCollator`] the loss is the ranking loss of `args.ranking_loss` plus the generation loss; a
    batch of ordinary pairs (`input_ids`, `labels`) gives the generation loss alone. Each step is one forward pass of
    the wrapped model.

    The loss is a mean over queries (over label tokens for pairs). Gradient accumulation and several processes give the
    loss and the gradients of one large batch.

    Logged beside `loss`: `loss_ranking` and `loss_generation` (unweighted), `rank_accuracy` and `kendall_tau` (how far
    the student agrees with the teacher), and for margin losses `violated_margins`; at evaluation with the prefix
    `eval_`.

    Args:
        model ([`~transformers.PreTrainedModel`] or `PeftModel`, *optional*): The student. Or give `model_init`.
        args ([`DistillationTrainingArguments`], *optional*):
            The arguments of training. If they leave `score_spread` out and there are candidates, `trainer.args` is a
            copy that has it.
        data_collator ([`DistillationCollator`], *optional*):
            Makes the batches. Optional, or any other collator, for training on ordinary pairs.
        train_dataset (`datasets.Dataset`, *optional*): Queries, columns `query_id` and `query`; or pairs.
        eval_dataset (`datasets.Dataset` or `dict`, *optional*): The same, for the loss on other queries.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Saved with the model. By default the collator's tokenizer.
        model_init (`Callable`, *optional*): Makes the model.
        callbacks (`list`, *optional*): Callbacks.
        optimizers (`tuple`, *optional*): Optimizer and scheduler.
        ranking_loss (`str` or [`RankingLoss`], *optional*):
            The ranking loss, in place of `args.ranking_loss`: a name, or a loss of your own. `trainer.args` is then a
            copy of `args`.
        retrieval_evaluator (`Callable`, *optional*):
            Called as `retrieval_evaluator(model, accelerator=...)` in every process at every evaluation, with the
            unwrapped model in evaluation mode; returns metrics such as `{"hits@10": 0.5}`, which then serve
            `metric_for_best_model="eval_hits@10"` and early stopping. See [`RetrievalEvaluator`]. It makes
            `eval_dataset` optional.

    Raises:
        TypeError, ValueError: if the arguments, data and model cannot be trained together; before training starts.
    """

    # Trainer divides the loss by the number of accumulation steps (read by transformers 5.23 and later).
    loss_is_scaled_for_ga = False
    args: DistillationTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: DistillationTrainingArguments | None = None,
        data_collator: Callable[..., Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., Any] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        ranking_loss: str | RankingLoss | None = None,
        retrieval_evaluator: Callable[..., Mapping[str, float]] | None = None,
    ) -> None:
        # Arguments
        args = DistillationTrainingArguments() if args is None else args
        if ranking_loss is not None:
            args = args.with_ranking_loss(ranking_loss)
        check_trainer_arguments(args, compute_loss_func, compute_metrics, preprocess_logits_for_metrics)

        # Data
        check_dataset("train_dataset", train_dataset, data_collator)
        check_dataset("eval_dataset", eval_dataset, data_collator)
        if isinstance(data_collator, DistillationCollator):
            if not data_collator.rankings and args.ranking_weight > 0:
                raise DGRValueError(
                    "The collator has no rankings, so there is no ranking to distil. Give it the teacher's rankings, "
                    "or set ranking_weight=0 to train generation only."
                )
            processing_class = data_collator.tokenizer if processing_class is None else processing_class
            with args.main_process_first(desc="Tokenising queries"):
                train_dataset = with_tokenised_queries(train_dataset, data_collator, args)
                eval_dataset = with_tokenised_queries(eval_dataset, data_collator, args)
        elif data_collator is None and processing_class is not None:
            data_collator = DataCollatorForSeq2Seq(processing_class)

        args = fitted_arguments(args, data_collator, train_dataset)

        # Evaluating retrieval alone needs no dataset, but the parent class requires one.
        placeholder = eval_dataset is None and retrieval_evaluator is not None
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=datasets.Dataset.from_dict({}) if placeholder else eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if placeholder:
            self.eval_dataset = None

        # Loss
        self.model_accepts_loss_kwargs = False
        self.retrieval_evaluator = retrieval_evaluator
        self._check_model(cast(nn.Module, self.model))
        _ = self.ranking_objective  # Raises if the loss has no such settings.
        self.add_callback(EpochCallback(self._set_epoch))
        self.run_record = RunRecord(self)
        self.add_callback(self.run_record)
        self._epoch = 0
        self._items_per_step: Tensor | None = None
        self._train_terms, self._eval_terms = LoggedTerms(TERMS), RowTerms(("loss", *TERMS))
        self._checked_dataset = train_dataset
        self._checked_evaluation: Any = None
        self._settings_before_search: dict[str, Any] = {}
        self._retrieval_metrics: dict[str, float] = {}
        self._told: set[str] = set()
        if args.should_log:
            warn_of_unused_arguments(args)

    @property
    def ranking_objective(self) -> RankingObjective | None:
        """The ranking loss and the weights of the terms, as `args` are now; `None` without a [`DistillationCollator`].

        So a search over hyperparameters, and a script that changes `trainer.args`, change the loss.
        """
        collator = self.data_collator
        if not isinstance(collator, DistillationCollator):
            return None
        if self.args.prefix_ranking:
            check_prefix_ranking(collator)
        return RankingObjective.from_arguments(self.args, collator.scoring.kind)

    # Data

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = [*_COLUMNS]  # type: ignore[assignment]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        strategy = str(self.args.train_sampling_strategy)
        if strategy not in ("group_by_length", "batch_rebalance"):
            return super()._get_train_sampler(train_dataset)
        # Not of `train_dataset`, from which the column of lengths is gone.
        lengths = self._row_lengths(self.train_dataset)
        if lengths is None:
            return super()._get_train_sampler(train_dataset)
        if strategy == "batch_rebalance":
            column = datasets.Dataset.from_dict({self.args.length_column_name: lengths})
            return super()._get_train_sampler(column)
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return GroupedByLength(rows, lengths, self._data_seed, lambda: self._epoch)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        if str(self.args.train_sampling_strategy) == "group_by_length" and isinstance(eval_dataset, NumberedRows):
            lengths = self._row_lengths(eval_dataset.source)
            if lengths is not None:
                return GroupedByLength(self.args.eval_batch_size, lengths, self._data_seed, lambda: 0)
        return super()._get_eval_sampler(eval_dataset)

    def _row_lengths(self, dataset: Any) -> list[int] | None:
        collator = self.data_collator
        collator = collator.collator if isinstance(collator, NumberingCollator) else collator
        identifiers = collator.identifiers if isinstance(collator, DistillationCollator) else None
        return row_lengths(dataset, identifiers, self.args.length_column_name)

    @property
    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _set_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        if isinstance(self.data_collator, DistillationCollator):
            self.data_collator.set_epoch(epoch)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Return the micro-batches of a step; count their queries (or label tokens), the divisor of the loss."""
        if self.state.global_step >= self.state.max_steps:
            # Of a checkpoint that has all of them, the parent would train one step more.
            self.control.should_training_stop = True
            return [], None
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            total = torch.stack([count_items(batch).to(device) for batch in batches]).sum()
            if self.accelerator.num_processes > 1:
                total = self.accelerator.reduce(total, reduction="sum")
            self._items_per_step = total / (len(batches) * self.accelerator.num_processes)
        return batches, None

    # Loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Compute the loss of a batch of the collator, or of ordinary pairs, by one forward pass of `model`."""
        counted = model.training and self._items_per_step is not None
        items = cast(Tensor, self._items_per_step) if counted else count_items(inputs)
        smoothing = self.args.label_smoothing_factor if model.training else 0.0
        pieces = self.args.decoder_tokens_at_once
        if "segments" in inputs:
            objective, collator = self.ranking_objective, self.data_collator
            assert objective is not None and isinstance(collator, DistillationCollator)
            batch_loss = distillation_loss(
                model, inputs, objective, collator, items, smoothing=smoothing, tokens_at_once=pieces
            )
        elif "labels" in inputs and inputs["labels"].dim() == 2:
            batch_loss = pair_loss(model, inputs, items, smoothing=smoothing, tokens_at_once=pieces)
        else:
            raise DGRValueError(
                f"A batch has the keys {sorted(inputs)}, which is neither a batch of DistillationCollator nor of "
                "pairs with input_ids, attention_mask and labels. Give the trainer "
                "data_collator=DistillationCollator(...)."
            )
        terms: LoggedTerms | RowTerms = self._train_terms
        if not model.training:
            terms = self._eval_terms
            terms.add_batch(len(batch_loss.parts), inputs.get(ROW), batch_loss.parts.device)
            terms.add("loss", batch_loss.parts)
        for name, values in batch_loss.terms.items():
            terms.add(name, values)
        return (batch_loss.loss, {}) if return_outputs else batch_loss.loss

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as [`~transformers.Trainer.train`] does, after checking what the training queries lack.

        `resume_from_checkpoint=True` resumes the last complete checkpoint in `args.output_dir`. A path that is the
        last checkpoint of its folder (`get_last_checkpoint`), and was cut off when its process was killed, gives way
        to the last complete one before it. A warning names the file that is cut off.

        Raises:
            ValueError: if there is no complete checkpoint to resume from, or there is nothing to distil.
        """
        checkpoint = complete_checkpoint(resume_from_checkpoint, self.args.output_dir, self.accelerator)
        self._check_coverage()
        if self.args.eval_strategy != "no":
            self._check_evaluated("eval_dataset", self.eval_dataset)
        self._train_terms.clear()
        try:
            return super().train(checkpoint, *args, **kwargs)
        finally:
            self._items_per_step = None  # It is that of the last step; whoever calls `compute_loss` has other batches.

    def _wrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if self.is_fsdp_enabled:
            join_embeddings(self.accelerator.unwrap_model(model))
        return super()._wrap_model(model, *args, **kwargs)

    # Checks

    def _check_coverage(self) -> None:
        collator, dataset, objective = self.data_collator, self.train_dataset, self.ranking_objective
        if dataset is not self._checked_dataset:
            self._check_dataset("train_dataset", dataset)
        query_ids = query_ids_of(dataset)
        if objective is None or query_ids is None:
            return
        first = self.is_world_process_zero()
        check_coverage(
            cast(DistillationCollator, collator),
            objective,
            query_ids,
            progress=first and not self.args.disable_tqdm,
            tell=first,
        )
        others = query_ids_of(self.eval_dataset)
        if first and others is not None:
            shares = [share_found(cast(DistillationCollator, collator), ids, 1) for ids in (query_ids, others)]
            if shares[0] is not None and shares[1] is not None:
                compare(shares[0], shares[1], 1, "the queries of eval_dataset")
                self._told.add("ranks")

    def _check_dataset(self, name: str, given: Any) -> None:
        super()._check_dataset(name, given)
        for full_name, dataset in named_datasets(name, given):
            check_pairs(cast(nn.Module, self.model), full_name, dataset)

    def _check_evaluated(self, name: str, given: Any) -> None:
        collator, objective = self.data_collator, self.ranking_objective
        if objective is None or given is self._checked_evaluation:
            return
        for full_name, dataset in named_datasets(name, given):
            query_ids = query_ids_of(dataset)
            if query_ids:
                check_evaluation_coverage(
                    cast(DistillationCollator, collator),
                    objective,
                    full_name,
                    query_ids,
                    only_loss=self.retrieval_evaluator is None,
                    tell=self.is_world_process_zero(),
                )
        self._checked_evaluation = given

    def _evaluate_retrieval(self, prefix: str) -> dict[str, float]:
        """The parent's; the first metrics are compared with the candidates of the training queries."""
        metrics = super()._evaluate_retrieval(prefix)
        collator = self.data_collator
        if "ranks" in self._told or not isinstance(collator, DistillationCollator):
            return metrics
        self._told.add("ranks")
        if self.is_world_process_zero():
            query_ids = query_ids_of(self.train_dataset)
            queries = getattr(self.retrieval_evaluator, "queries", None)
            if query_ids is not None:
                compare_with_metrics(collator, query_ids, metrics, None if queries is None else len(queries))
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and add the averages of the loss terms since the last log."""
        if "loss" in logs:
            logs.update(self._train_terms.averages(self.accelerator))
        super().log(logs, *args, **kwargs)

    # Search for hyperparameters

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Search for hyperparameters as [`~transformers.Trainer.hyperparameter_search`] does, also for the loss.

        The defaults differ: the objective is `args.metric_for_best_model`, or `eval_loss` if that is not set, and the
        direction is that of `args.greater_is_better`. A loss with other weights or margins is another measure, so
        compare them by a retrieval metric. A trial that leaves out a setting of the loss has the value that it had
        before the search, not that of the last trial.
        """
        if compute_objective is None:
            compute_objective = default_objective(self.args, self.eval_dataset)
            direction = direction or default_direction(self.args)
        self._settings_before_search = loss_settings(self.args)
        return super().hyperparameter_search(
            hp_space, compute_objective, n_trials, direction or "minimize", *args, **kwargs
        )

    def _hp_search_setup(self, trial: Any) -> None:
        searches = trial is not None and self.hp_search_backend is not None
        with settings_of_trial(self.args, self._settings_before_search if searches else {}):
            super()._hp_search_setup(trial)

    def call_model_init(self, trial: Any = None) -> Any:
        """Make a model with `model_init`, and check it as the one that a trainer is given."""
        model = super().call_model_init(trial)
        self._check_model(model)
        return model

    def _check_model(self, model: nn.Module) -> None:
        collator = getattr(self, "data_collator", None)
        if isinstance(collator, DistillationCollator):
            check_model(model, collator)
        for dataset_name in ("train_dataset", "eval_dataset"):
            for name, dataset in named_datasets(dataset_name, getattr(self, dataset_name, None)):
                check_pairs(model, name, dataset)
        if not isinstance(collator, DistillationCollator):
            try_student(model, pairs=True)
