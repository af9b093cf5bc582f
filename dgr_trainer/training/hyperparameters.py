"""Settings of the loss in a search over hyperparameters: what is compared, and what a trial begins with."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from dgr_trainer.errors import DGRValueError
from dgr_trainer.training.arguments import LOSS_ARGUMENTS, DistillationTrainingArguments

_NO_MEASURE = ("epoch", "runtime", "per_second", "preparation_time")


def loss_settings(args: DistillationTrainingArguments) -> dict[str, Any]:
    """The arguments that the loss is made of, by name."""
    return {name: getattr(args, name) for name in LOSS_ARGUMENTS}


@contextmanager
def settings_of_trial(args: DistillationTrainingArguments, before: Mapping[str, Any]) -> Iterator[None]:
    """While a trial sets arguments: those of the loss that it leaves out get the values from before the search.

    They are `None` meanwhile, because transformers casts a value to the type of the one that it replaces, which cuts a
    margin of 1.5 to 1 where it was the integer 2, and makes no loss of a name.
    """
    for name in before:
        setattr(args, name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            if getattr(args, name) is None:
                setattr(args, name, value)


def default_objective(args: DistillationTrainingArguments, eval_dataset: Any) -> Callable[[dict[str, float]], float]:
    """What trials are compared by: `metric_for_best_model`, or `eval_loss` if there is none.

    Args:
        args ([`DistillationTrainingArguments`]): The arguments.
        eval_dataset (`Any`): The dataset, or the datasets by name, of evaluations.

    Raises:
        ValueError: if there is no metric, and no loss of a single dataset either.
    """
    name = args.metric_for_best_model or "loss"
    name = name if name.startswith("eval_") else f"eval_{name}"
    hint = "Name a metric of the evaluation as metric_for_best_model, or give compute_objective."
    if name == "eval_loss" and (eval_dataset is None or isinstance(eval_dataset, dict)):
        losses = ", ".join(f"eval_{key}_loss" for key in eval_dataset or ())
        found = f"eval_dataset has several, and their losses are {losses}" if losses else "there is no eval_dataset"
        raise DGRValueError(f"hyperparameter_search compares trials by eval_loss, but {found}. {hint}")

    def objective(metrics: dict[str, float]) -> float:
        if name not in metrics:
            measures = ", ".join(sorted(metric for metric in metrics if not metric.endswith(_NO_MEASURE)))
            raise DGRValueError(f"hyperparameter_search: the evaluation has no {name}, only {measures}. {hint}")
        return metrics[name]

    return objective


def default_direction(args: DistillationTrainingArguments) -> str:
    """Whether more is better of what `default_objective` compares."""
    return "maximize" if args.metric_for_best_model and args.greater_is_better else "minimize"
