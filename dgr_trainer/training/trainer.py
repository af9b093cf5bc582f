"""The trainer: a `Seq2SeqTrainer` whose loss teaches a student to rank as its teacher does."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    TrainerCallback,
)
from transformers.trainer_utils import EvalLoopOutput, speed_metrics

from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.sharding import join_embeddings
from dgr_trainer.student.token_scores import sum_by_identifier
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.batches import count_items, pair_losses, score_batch
from dgr_trainer.training.checks import check_columns, check_model, check_trainer_arguments, warn_of_margins
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.epoch_callback import CollatorEpochCallback
from dgr_trainer.training.logged_terms import LoggedTerms
from dgr_trainer.training.losses import RankingLoss
from dgr_trainer.training.objective import (
    RankingObjective,
    generation_losses,
    has_pairs,
    nan_where_absent,
    passage_scores,
)
from dgr_trainer.training.prompts import COLUMN as PROMPTS
from dgr_trainer.training.prompts import with_prompts

logger = logging.getLogger(__name__)

_COLUMNS = ("query_id", "query", PROMPTS, "input_ids", "attention_mask", "labels")
_TERMS = ("loss", "loss_ranking", "loss_generation", "violated_margins", "rank_accuracy", "kendall_tau")


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
        self.objective: RankingObjective | None = None
        if isinstance(self.data_collator, DistillationCollator):
            check_model(cast(nn.Module, self.model), self.data_collator)
            self.objective = RankingObjective.from_arguments(args, self.data_collator.scoring.kind)
            self.add_callback(CollatorEpochCallback(self.data_collator))
        self._tokens_at_once = args.decoder_tokens_at_once
        self._items_per_step: Tensor | None = None
        self._terms = {"train": LoggedTerms(_TERMS), "eval": LoggedTerms(_TERMS)}
        self._retrieval_metrics: dict[str, float] = {}

    # Data

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = [*_COLUMNS]  # type: ignore[assignment]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The parent's data loader, with the same lists at every evaluation."""
        return self._with_fixed_lists(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """The parent's data loader, with the same lists every time."""
        return self._with_fixed_lists(super().get_test_dataloader, test_dataset)

    def _with_fixed_lists(self, make: Callable[[Any], DataLoader[Any]], dataset: Any) -> DataLoader[Any]:
        training_collator = self.data_collator
        if isinstance(training_collator, DistillationCollator):
            self.data_collator = training_collator.for_evaluation()
        try:
            return make(dataset)
        finally:
            self.data_collator = training_collator

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
        terms = self._terms["train" if model.training else "eval"]
        if "segments" in inputs:
            loss = self._distillation_loss(model, inputs, terms, items)
        elif "labels" in inputs and inputs["labels"].dim() == 2:
            loss = self._pair_loss(model, inputs, terms, items)
        else:
            raise DGRValueError(
                f"A batch has the keys {sorted(inputs)}, which is neither a batch of DistillationCollator nor of "
                "pairs with input_ids, attention_mask and labels. Give the trainer "
                "data_collator=DistillationCollator(...)."
            )
        if not model.training:
            terms.add("loss", loss.expand(len(inputs["labels"])))
        return (loss, {}) if return_outputs else loss

    def _distillation_loss(
        self, model: nn.Module, batch: dict[str, Tensor], terms: LoggedTerms, queries: Tensor
    ) -> Tensor:
        assert self.objective is not None and isinstance(self.data_collator, DistillationCollator)
        tokens = score_batch(model, batch, self._tokens_at_once)
        log_likelihoods = sum_by_identifier(
            tokens.log_probabilities, batch["segments"], batch["identifier_counts"].shape[1]
        )
        loss = tokens.log_probabilities.sum() * 0.0  # Every parameter gets a gradient, whatever the weights.
        smoothing = self.args.label_smoothing_factor if model.training else 0.0

        if self.objective.ranking_weight > 0:
            mask, teacher_scores = batch["list_mask"], batch["teacher_scores"]
            scores = passage_scores(
                log_likelihoods, batch, self.data_collator.corpus_tokens, self.data_collator.scoring
            )
            ranking = self.objective.ranking_losses(scores, teacher_scores, mask)
            # One loss of the batch is no sum over queries; everything else is.
            mean = ranking if ranking.dim() == 0 else ranking.sum() / queries
            loss = loss + self.objective.ranking_weight * mean
            terms.add("loss_ranking", ranking if ranking.dim() == 0 else nan_where_absent(ranking, has_pairs(mask)))
            for name, values in self.objective.statistics(scores.detach(), teacher_scores, mask).items():
                terms.add(name, values)

        generation = generation_losses(tokens, batch, smoothing)
        if self.objective.generation_weight > 0:
            loss = loss + self.objective.generation_weight * generation.sum() / queries
        terms.add("loss_generation", nan_where_absent(generation, batch["generation_weights"].sum(-1) > 0))
        return loss

    def _pair_loss(
        self, model: nn.Module, batch: dict[str, Tensor], terms: LoggedTerms, label_tokens: Tensor
    ) -> Tensor:
        smoothing = self.args.label_smoothing_factor if model.training else 0.0
        losses, present = pair_losses(model, batch, smoothing, self._tokens_at_once)
        terms.add("loss_generation", nan_where_absent(losses, present))
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

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as [`~transformers.Trainer.train`] does, after checking what the training queries lack."""
        self._check_coverage()
        self._terms["train"].clear()
        return super().train(*args, **kwargs)

    def _wrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if self.is_fsdp_enabled:
            join_embeddings(self.accelerator.unwrap_model(model))
        return super()._wrap_model(model, *args, **kwargs)

    def _check_coverage(self) -> None:
        collator, dataset = self.data_collator, self.train_dataset
        if not isinstance(collator, DistillationCollator) or not isinstance(dataset, datasets.Dataset):
            return
        if "query_id" not in dataset.column_names:
            return
        query_ids = [as_id(query_id, "query", "Training dataset") for query_id in dataset["query_id"]]
        coverage = collator.coverage(query_ids, progress=self.is_world_process_zero() and not self.args.disable_tqdm)
        if self.objective is not None and self.objective.ranking_weight > 0 and not coverage.rank_lists:
            raise DGRValueError(
                f"None of the {coverage.queries} training queries has two ranked passages with identifiers, so "
                f"there is nothing to distil: {'; '.join(coverage.gaps())}. Were the rankings made for these queries?"
            )
        if self.is_world_process_zero() and coverage.gaps():
            logger.warning(
                "Training queries are incomplete: %s. They are trained on what they have.", "; ".join(coverage.gaps())
            )
        if self.is_world_process_zero() and self.objective is not None:
            warn_of_margins(collator, self.objective, query_ids)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and add the averages of the loss terms since the last log."""
        if "loss" in logs:
            logs.update(self._terms["train"].averages(self.accelerator))
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

        Returns:
            `dict[str, float]`: Metrics with the prefix `metric_key_prefix`, such as `eval_loss` and `eval_hits@10`.
        """
        outermost = not self._retrieval_metrics
        if outermost and self.retrieval_evaluator is not None:
            self._retrieval_metrics = self._evaluate_retrieval(metric_key_prefix)
        try:
            if eval_dataset is None and self.eval_dataset is None and self.retrieval_evaluator is not None:
                metrics = dict(self._retrieval_metrics)
                self.log(metrics)
                self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
                return metrics
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **gen_kwargs)
        finally:
            if outermost:
                self._retrieval_metrics = {}

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the parent's loop; add the loss terms, with every query counted once, and the retrieval metrics."""
        self._terms["eval"].clear()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        averages = self._terms["eval"].averages(self.accelerator)
        metrics = cast(dict[str, float], output.metrics)
        metrics.update({f"{metric_key_prefix}_{name}": value for name, value in averages.items()})
        metrics.update(self._retrieval_metrics)
        return output

    def _evaluate_retrieval(self, prefix: str) -> dict[str, float]:
        assert self.retrieval_evaluator is not None
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=True)
        training = model.training
        start = time.time()
        model.eval()
        try:
            retrieval_metrics = self.retrieval_evaluator(model, accelerator=self.accelerator)
        finally:
            model.train(training)
        metrics = {f"{prefix}_{name.removeprefix(f'{prefix}_')}": value for name, value in retrieval_metrics.items()}
        speed: dict[str, float] = speed_metrics(f"{prefix}_retrieval", start)  # type: ignore[no-untyped-call]
        return metrics | speed


def _with_prompts(dataset: Any, collator: DistillationCollator, args: DistillationTrainingArguments) -> Any:
    if not isinstance(dataset, datasets.Dataset) or not {"query_id", "query"} <= set(dataset.column_names):
        return dataset
    progress = not args.disable_tqdm and args.process_index == 0
    return with_prompts(dataset, collator.identifiers, progress=progress, report=args.process_index == 0)


def _named_datasets(train_dataset: Any, eval_dataset: Any) -> Iterator[tuple[str, Any]]:
    yield "train_dataset", train_dataset
    if isinstance(eval_dataset, dict):
        yield from ((f"eval_dataset[{name!r}]", dataset) for name, dataset in eval_dataset.items())
    else:
        yield "eval_dataset", eval_dataset
