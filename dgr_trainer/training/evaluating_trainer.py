"""Evaluation by a trainer: each row counts once in the loss, and a retriever gives the metrics and predictions."""

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput, speed_metrics

from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.evaluation_rows import NumberingCollator, RowTerms, numbered
from dgr_trainer.training.given_datasets import check_dataset, queries_to_rank
from dgr_trainer.training.pushing_trainer import PushingTrainer
from dgr_trainer.training.unused_arguments import warn_of_generation_arguments

logger = logging.getLogger(__name__)


class EvaluatingTrainer(PushingTrainer):
    """The evaluations of a trainer whose `compute_loss` adds the terms of each row to `_eval_terms`.

    Attributes:
        retrieval_evaluator (`Callable`, *optional*): See [`DistillationGenerativeRetrievalTrainer`].
    """

    args: DistillationTrainingArguments
    retrieval_evaluator: Callable[..., Mapping[str, float]] | None
    _eval_terms: RowTerms
    _retrieval_metrics: dict[str, float]
    _told: set[str]

    # Data

    def create_accelerator_and_postprocess(self) -> None:
        """The parent's; each process reads its rows itself."""
        super().create_accelerator_and_postprocess()
        # By default one process would read a stream and cut its batches for the others: packed identifiers cannot be.
        self.accelerator.dataloader_config.dispatch_batches = False

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The parent's data loader, with the same lists at every evaluation, and with numbered rows."""
        own: Any = self.eval_dataset
        loaders = getattr(self, "_eval_dataloaders", {})
        name = eval_dataset if isinstance(eval_dataset, str) else None
        other = eval_dataset is not None and name is None
        if other:  # The parent keeps one loader, with its workers, for all datasets that have no name.
            loaders.pop("eval", None)
        given = own[name] if name is not None else own if eval_dataset is None else eval_dataset
        with self._evaluation_data():
            try:
                rows = numbered(given, self._remove_unused_columns)
                self.eval_dataset = rows if name is None else {name: rows}
                return super().get_eval_dataloader(name)
            finally:
                self.eval_dataset = own
                if other:
                    getattr(self, "_eval_dataloaders", {}).pop("eval", None)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """The parent's data loader, with the same lists every time, and with numbered rows."""
        with self._evaluation_data():
            return super().get_test_dataloader(numbered(test_dataset, self._remove_unused_columns))

    @contextmanager
    def _evaluation_data(self) -> Iterator[None]:
        """While a data loader of evaluations is made: its collator."""
        collator = self.data_collator
        fixed = collator.for_evaluation() if isinstance(collator, DistillationCollator) else collator
        self.data_collator = NumberingCollator(fixed)
        try:
            yield
        finally:
            self.data_collator = collator

    # Loss

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
            loss = cast(torch.Tensor, self.compute_loss(model, inputs))
        return loss.detach().mean(), None, None

    # Metrics and predictions

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
        return output._replace(predictions=cast(Any, self._rank_lists(test_dataset)))

    def _check_call(self, method: str, gen_kwargs: Mapping[str, Any], name: str, dataset: Any) -> None:
        """Check the arguments of `evaluate` or `predict`; warn once of those that have no effect."""
        if gen_kwargs and method not in self._told and self.args.should_log:
            warn_of_generation_arguments(gen_kwargs, method)
            self._told.add(method)
        if dataset is not None and not isinstance(dataset, str):
            self._check_dataset(name, dataset)
        if method == "evaluate" or self.retrieval_evaluator is None:  # Else the rank lists are what is predicted.
            own = dataset is None or isinstance(dataset, str)
            self._check_evaluated(name, self.eval_dataset if own else dataset)

    def _check_dataset(self, name: str, given: Any) -> None:
        """Refuse a dataset that cannot be read or trained on."""
        check_dataset(name, given, self.data_collator)

    def _check_evaluated(self, name: str, given: Any) -> None:
        """Say what queries lack that are evaluated."""

    def _rank_lists(self, dataset: Any) -> Rankings | None:
        """The rank lists of the queries of a dataset, or a warning that says why there are none."""
        evaluator = cast(Any, self.retrieval_evaluator)
        queries = None if evaluator is None else queries_to_rank(dataset)
        reason = ""
        if evaluator is None:
            reason = "the trainer has no retrieval_evaluator, which has the index to search in"
        elif not hasattr(evaluator, "rank") or "queries" not in inspect.signature(evaluator.rank).parameters:
            reason = "the retrieval_evaluator has no method rank(model, accelerator, queries)"
        elif not queries:
            reason = "the dataset has no queries (columns query_id and query)"
        if reason:
            if self.args.should_log:
                logger.warning("The predictions of predict() are None, because %s.", reason)
            return None
        with self._evaluated_model() as model:
            return cast(Rankings, evaluator.rank(model, self.accelerator, queries))

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the parent's loop; add the loss and its terms, each row counted once, and the retrieval metrics."""
        self._eval_terms.clear()
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
        averages = self._eval_terms.averages(self.accelerator)
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
