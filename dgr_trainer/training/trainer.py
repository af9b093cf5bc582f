"""The trainer: a `Seq2SeqTrainer` whose loss teaches a student to rank as its teacher does."""

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    TrainerCallback,
)
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput, speed_metrics

from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRValueError
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.student.likelihoods import sum_by_identifier
from dgr_trainer.student.sharding import join_embeddings
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.batches import count_items, pair_losses, score_batch
from dgr_trainer.training.checkpoints import complete_checkpoint
from dgr_trainer.training.checks import (
    check_columns,
    check_model,
    check_queries,
    check_trainer_arguments,
    warn_of_margins,
)
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.epoch_callback import EpochCallback
from dgr_trainer.training.evaluation_rows import ROW, NumberedRows, NumberedStream, NumberingCollator, RowTerms
from dgr_trainer.training.hyperparameters import (
    default_direction,
    default_objective,
    loss_settings,
    settings_of_trial,
)
from dgr_trainer.training.length_grouping import GroupedByLength, row_lengths
from dgr_trainer.training.logged_terms import LoggedTerms
from dgr_trainer.training.losses import RankingLoss
from dgr_trainer.training.objective import RankingObjective, generation_losses, nan_where_absent, passage_scores
from dgr_trainer.training.prompts import COLUMN as PROMPTS
from dgr_trainer.training.prompts import with_prompts
from dgr_trainer.training.unused_arguments import warn_of_generation_arguments, warn_of_unused_arguments

logger = logging.getLogger(__name__)

_COLUMNS = ("query_id", "query", PROMPTS, "input_ids", "attention_mask", "labels", ROW)
_TERMS = ("loss_ranking", "loss_generation", "violated_margins", "rank_accuracy", "kendall_tau")


class DistillationGenerativeRetrievalTrainer(Seq2SeqTrainer):
    """Trains a sequence-to-sequence model to retrieve by generating identifiers and to rank as its teacher does.

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
        args ([`DistillationTrainingArguments`], *optional*): The arguments of training.
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
            The ranking loss, in place of `args.ranking_loss`: a name, or a loss of your own.
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
        for name, dataset in _named_datasets(train_dataset, eval_dataset):
            check_columns(name, dataset, data_collator)
            check_queries(name, dataset)
        if isinstance(data_collator, DistillationCollator):
            if not data_collator.rankings and args.ranking_weight > 0:
                raise DGRValueError(
                    "The collator has no rankings, so there is no ranking to distil. Give it the teacher's rankings, "
                    "or set ranking_weight=0 to train generation only."
                )
            processing_class = data_collator.tokenizer if processing_class is None else processing_class
            with args.main_process_first(desc="Tokenising queries"):
                train_dataset = _with_prompts(train_dataset, data_collator, args)
                eval_dataset = (
                    {name: _with_prompts(dataset, data_collator, args) for name, dataset in eval_dataset.items()}
                    if isinstance(eval_dataset, dict)
                    else _with_prompts(eval_dataset, data_collator, args)
                )
        elif data_collator is None and processing_class is not None:
            data_collator = DataCollatorForSeq2Seq(processing_class)

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
        if isinstance(self.data_collator, DistillationCollator):
            check_model(cast(nn.Module, self.model), self.data_collator)
        _ = self.ranking_objective  # Raises if the loss has no such settings.
        self.add_callback(EpochCallback(self._set_epoch))
        self._epoch = 0
        self._items_per_step: Tensor | None = None
        self._training_terms = LoggedTerms(_TERMS)
        self._evaluation_terms = RowTerms(("loss", *_TERMS))
        self._terms = {"train": self._training_terms, "eval": self._evaluation_terms}
        self._checked_dataset = train_dataset
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
        return RankingObjective.from_arguments(self.args, collator.scoring.kind)

    # Data

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = [*_COLUMNS]  # type: ignore[assignment]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The parent's data loader, with the same lists at every evaluation, and with numbered rows."""
        named = isinstance(eval_dataset, str)
        if eval_dataset is not None and not named:
            # The parent keeps one loader for all datasets that have no name.
            getattr(self, "_eval_dataloaders", {}).pop("eval", None)
            try:
                return self._with_fixed_lists(super().get_eval_dataloader, self._numbered(eval_dataset))
            finally:
                getattr(self, "_eval_dataloaders", {}).pop("eval", None)
        own = self.eval_dataset
        if named:
            self.eval_dataset = {eval_dataset: self._numbered(own[eval_dataset])}
        elif own is not None:
            self.eval_dataset = self._numbered(own)
        try:
            return self._with_fixed_lists(super().get_eval_dataloader, eval_dataset)
        finally:
            self.eval_dataset = own

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """The parent's data loader, with the same lists every time, and with numbered rows."""
        return self._with_fixed_lists(super().get_test_dataloader, self._numbered(test_dataset))

    def _numbered(self, dataset: Any) -> Any:
        if isinstance(dataset, IterableDataset):
            return NumberedStream(dataset)
        if isinstance(dataset, datasets.Dataset):
            return NumberedRows(self._remove_unused_columns(dataset, description="evaluation"), source=dataset)
        return NumberedRows(dataset)

    def _with_fixed_lists(self, make: Callable[[Any], DataLoader[Any]], dataset: Any) -> DataLoader[Any]:
        training_collator, accelerator = self.data_collator, self.accelerator
        collator = training_collator
        if isinstance(collator, DistillationCollator):
            collator = collator.for_evaluation()
        # Each process reads what it needs: batches of different shapes cannot be dispatched by one process.
        dispatch_batches = accelerator.dispatch_batches
        self.data_collator = NumberingCollator(collator)
        accelerator.dataloader_config.dispatch_batches = False
        try:
            return make(dataset)
        finally:
            self.data_collator = training_collator
            accelerator.dataloader_config.dispatch_batches = dispatch_batches

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
        if "labels" in inputs and not model.training:
            labels = inputs["labels"]
            self._evaluation_terms.add_batch(len(labels), inputs.get(ROW), labels.device)
        if "segments" in inputs:
            loss = self._distillation_loss(model, inputs, items)
        elif "labels" in inputs and inputs["labels"].dim() == 2:
            loss = self._pair_loss(model, inputs, items)
        else:
            raise DGRValueError(
                f"A batch has the keys {sorted(inputs)}, which is neither a batch of DistillationCollator nor of "
                "pairs with input_ids, attention_mask and labels. Give the trainer "
                "data_collator=DistillationCollator(...)."
            )
        return (loss, {}) if return_outputs else loss

    def _distillation_loss(self, model: nn.Module, batch: dict[str, Tensor], queries: Tensor) -> Tensor:
        objective = self.ranking_objective
        assert objective is not None and isinstance(self.data_collator, DistillationCollator)
        terms = self._terms["train" if model.training else "eval"]
        tokens = score_batch(model, batch, self.args.decoder_tokens_at_once)
        log_likelihoods = sum_by_identifier(
            tokens.log_probabilities, batch["segments"], batch["identifier_counts"].shape[1]
        )
        loss = tokens.log_probabilities.sum() * 0.0  # Every parameter gets a gradient, whatever the weights.
        smoothing = self.args.label_smoothing_factor if model.training else 0.0
        by_query = torch.zeros(len(batch["labels"]), device=loss.device)  # The loss, for evaluation.

        if objective.ranking_weight > 0:
            lists = batch["teacher_scores"], batch["list_mask"], batch["taught_ranks"]
            scores = passage_scores(
                log_likelihoods, batch, self.data_collator.corpus_tokens, self.data_collator.scoring
            )
            ranking = objective.ranking_losses(scores, *lists)
            # One loss of the batch is no sum over queries; everything else is.
            mean = ranking if ranking.dim() == 0 else ranking.sum() / queries
            loss = loss + objective.ranking_weight * mean
            by_query = by_query + objective.ranking_weight * ranking.detach()
            if ranking.dim() > 0:
                ranking = nan_where_absent(ranking, objective.teaches_something(*lists[1:]))
            terms.add("loss_ranking", ranking)
            for name, values in objective.statistics(scores.detach(), *lists).items():
                terms.add(name, values)

        generation = generation_losses(tokens, batch, smoothing)
        if objective.generation_weight > 0:
            loss = loss + objective.generation_weight * generation.sum() / queries
            by_query = by_query + objective.generation_weight * generation.detach()
        terms.add("loss_generation", nan_where_absent(generation, batch["generation_weights"].sum(-1) > 0))
        if not model.training:
            self._evaluation_terms.add("loss", by_query)
        return loss

    def _pair_loss(self, model: nn.Module, batch: dict[str, Tensor], label_tokens: Tensor) -> Tensor:
        smoothing = self.args.label_smoothing_factor if model.training else 0.0
        losses, present = pair_losses(model, batch, smoothing, self.args.decoder_tokens_at_once)
        by_token = nan_where_absent(losses, present)
        if model.training:
            self._training_terms.add("loss_generation", by_token)
        else:
            for name in ("loss", "loss_generation"):
                self._evaluation_terms.add(name, by_token)
        return losses.sum() / label_tokens

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: Any,
    ) -> tuple[Any, None, None]:
        """Return the loss of a batch and no logits: those of packed identifiers are large, and no metric uses them."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach().mean(), None, None

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
        self._training_terms.clear()
        return super().train(checkpoint, *args, **kwargs)

    def _wrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if self.is_fsdp_enabled:
            join_embeddings(self.accelerator.unwrap_model(model))
        return super()._wrap_model(model, *args, **kwargs)

    def _check_coverage(self) -> None:
        collator, dataset = self.data_collator, self.train_dataset
        if dataset is not self._checked_dataset:
            check_columns("train_dataset", dataset, collator)
            check_queries("train_dataset", dataset)
        objective = self.ranking_objective
        if objective is None or not isinstance(collator, DistillationCollator):
            return
        if not isinstance(dataset, datasets.Dataset) or "query_id" not in dataset.column_names:
            return
        query_ids = [as_id(query_id, "query", "Training dataset") for query_id in dataset["query_id"]]
        coverage = collator.coverage(query_ids, progress=self.is_world_process_zero() and not self.args.disable_tqdm)
        if objective.ranking_weight > 0 and not coverage.rank_lists:
            raise DGRValueError(
                f"None of the {coverage.queries} training queries has two ranked passages with identifiers that the "
                f"teacher tells apart, so there is nothing to distil: {'; '.join(coverage.gaps())}. Were the rankings "
                "made for these queries?"
            )
        if self.is_world_process_zero() and coverage.gaps():
            logger.warning(
                "Training queries are incomplete: %s. They are trained on what they have.", "; ".join(coverage.gaps())
            )
        if self.is_world_process_zero():
            warn_of_margins(collator, objective, query_ids)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and add the averages of the loss terms since the last log."""
        if "loss" in logs:
            logs.update(self._training_terms.averages(self.accelerator))
        super().log(logs, *args, **kwargs)

    # Evaluation

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: Any,
    ) -> dict[str, float]:
        """Evaluate the loss on `eval_dataset` (if there is one) and retrieval with `retrieval_evaluator` (if given).

        Every query (every label token of pairs) counts once in the loss, whatever the batch size and the number of
        processes.

        Returns:
            `dict[str, float]`: Metrics with the prefix `metric_key_prefix`, such as `eval_loss` and `eval_hits@10`.
        """
        self._check_call("evaluate", gen_kwargs, "eval_dataset", eval_dataset)
        outermost = not self._retrieval_metrics
        if outermost and self.retrieval_evaluator is not None:
            self._retrieval_metrics = self._evaluate_retrieval(metric_key_prefix)
        try:
            if eval_dataset is None and self.eval_dataset is None and self.retrieval_evaluator is not None:
                metrics = dict(self._retrieval_metrics)
                self.log(metrics)
                self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
                return metrics
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            if outermost:
                self._retrieval_metrics = {}

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: Any,
    ) -> PredictionOutput:
        """Compute the loss of a dataset, and rank passages for its queries.

        Returns:
            `PredictionOutput`: In `predictions`, the [`Rankings`] of the queries: what the retriever of the
            `retrieval_evaluator` finds (ids and scores, the evaluator's `k` passages a query). Without an evaluator
            that can rank other queries, or for pairs, `None`; a warning says so. `label_ids` are always `None`.
        """
        self._check_call("predict", gen_kwargs, "test_dataset", test_dataset)
        output = super().predict(test_dataset, ignore_keys, metric_key_prefix)
        return output._replace(predictions=self._rank_lists(test_dataset))

    def _check_call(self, method: str, gen_kwargs: Mapping[str, Any], name: str, dataset: Any) -> None:
        """Check the arguments of `evaluate` or `predict`; warn once of those that have no effect."""
        if gen_kwargs and method not in self._told and self.args.should_log:
            warn_of_generation_arguments(gen_kwargs, method)
            self._told.add(method)
        for dataset_name, given in _named(name, None if isinstance(dataset, str) else dataset):
            check_columns(dataset_name, given, self.data_collator)
            check_queries(dataset_name, given)

    def _rank_lists(self, dataset: Any) -> Rankings | None:
        """The rank lists of the queries of a dataset, or a warning that says why there are none."""
        rank = getattr(self.retrieval_evaluator, "rank", None)
        missing = ""
        queries: Any = None
        if self.retrieval_evaluator is None:
            missing = "the trainer has no retrieval_evaluator, which has the index to search in"
        elif rank is None or "queries" not in inspect.signature(rank).parameters:
            missing = "the retrieval_evaluator has no method rank(model, accelerator, queries)"
        else:
            queries = _queries_of(dataset)
            if not queries:
                missing = "the dataset has no queries (columns query_id and query)"
        if missing:
            if self.args.should_log:
                logger.warning("The predictions of predict() are None, because %s.", missing)
            return None
        with self._evaluated_model() as model:
            return cast(Rankings, cast(Any, rank)(model, self.accelerator, queries))

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the parent's loop; add the loss and its terms, each row counted once, and the retrieval metrics."""
        self._evaluation_terms.clear()
        # The loss is gathered by row at the end; the parent gathers those of batches, repeated rows included.
        self.gather_function = lambda values, **_: values
        # Nobody is given the inputs, and batches of packed identifiers, which have many shapes, cannot be joined.
        included, self.args.include_for_metrics = self.args.include_for_metrics, []
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        finally:
            self.args.include_for_metrics = included
        averages = self._evaluation_terms.averages(self.accelerator)
        metrics = cast(dict[str, float], output.metrics)
        metrics.update({f"{metric_key_prefix}_{name}": value for name, value in averages.items()})
        metrics.update(self._retrieval_metrics)
        return output

    def _evaluate_retrieval(self, prefix: str) -> dict[str, float]:
        assert self.retrieval_evaluator is not None
        start = time.time()
        with self._evaluated_model() as model:
            retrieval_metrics = self.retrieval_evaluator(model, accelerator=self.accelerator)
        metrics = {f"{prefix}_{name.removeprefix(f'{prefix}_')}": value for name, value in retrieval_metrics.items()}
        speed: dict[str, float] = speed_metrics(f"{prefix}_retrieval", start)  # type: ignore[no-untyped-call]
        return metrics | speed

    @contextmanager
    def _evaluated_model(self) -> Iterator[nn.Module]:
        """The unwrapped model, in evaluation mode for the time of a search."""
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=True)
        training = model.training
        model.eval()
        try:
            yield model
        finally:
            model.train(training)

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
        collator = getattr(self, "data_collator", None)
        if isinstance(collator, DistillationCollator):
            check_model(model, collator)
        return model


def _with_prompts(dataset: Any, collator: DistillationCollator, args: DistillationTrainingArguments) -> Any:
    if not isinstance(dataset, datasets.Dataset) or not {"query_id", "query"} <= set(dataset.column_names):
        return dataset
    progress = not args.disable_tqdm and args.process_index == 0
    return with_prompts(dataset, collator.identifiers, progress=progress)


def _named_datasets(train_dataset: Any, eval_dataset: Any) -> Iterator[tuple[str, Any]]:
    yield "train_dataset", train_dataset
    yield from _named("eval_dataset", eval_dataset)


def _named(name: str, dataset: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(dataset, dict):
        yield from ((f"{name}[{key!r}]", value) for key, value in dataset.items())
    else:
        yield name, dataset


def _queries_of(dataset: Any) -> Any:
    """The queries of a dataset, by id; none if it holds pairs."""
    if isinstance(dataset, datasets.Dataset):
        return dataset if {"query_id", "query"} <= set(dataset.column_names) else None
    return {row["query_id"]: row["query"] for row in dataset if isinstance(row, Mapping) and "query_id" in row}
