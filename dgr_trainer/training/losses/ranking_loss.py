"""A ranking loss as the trainer takes it: a function, what it is taught, its settings and their default scales."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from dgr_trainer.errors import DGRTypeError, DGRValueError

SCORE_KINDS = ("log_odds", "log_likelihood")
# Student temperatures that bring the scores of a list to a few units.
TEMPERATURES = {"log_odds": {"temperature": 100.0}, "log_likelihood": {"temperature": 1.0}}
# Not settings: the trainer takes the mean over the lists of all micro-batches and processes, and knows the ties.
_NOT_SETTINGS = ("reduction", "num_lists", "taught_ranks", "teacher_scores", "judged")
PUBLISHED_SPREAD = 600.0
"""Distance of the best candidate's log-odds score from the median one's, for which scales are stated."""
PUBLISHED_GENERATION_FACTOR = 5.0
"""How much heavier the generation loss is beside the margins of the published experiments than by default."""


@dataclass(frozen=True)
class RankingLoss:
    """A loss between the student's scores and the teacher's order or scores, with everything the trainer needs of it.

    Give it to the trainer, `DistillationGenerativeRetrievalTrainer(..., ranking_loss=RankingLoss(my_loss))`, or to its
    arguments, `DistillationTrainingArguments(ranking_loss=RankingLoss(my_loss))`. It trains, logs and resumes as the
    losses of the library do.

    Args:
        function (`Callable`): `function(scores, mask, **settings)` if the loss is taught the order of the list,
            `function(scores, teacher_scores, mask, **settings)` if it is taught the teacher's scores. `scores` and
            `teacher_scores` are floating tensors of shape `(B, M)`, one row a rank list in the order to be taught (the
            best passage first); `mask` is a bool tensor of the same shape, `True` where there is a passage. If it has
            an argument `taught_ranks`, it is given an integer tensor of that shape, too: the rank of each passage in
            the order to be taught, 0 the best, equal where the teacher gives equal scores; and a loss of the order
            that has an argument `teacher_scores` is given these, too. With an argument `judged`, it is given a
            bool tensor of shape `(B,)`: whether the first passage of the list is the relevant one. It returns
            the loss of each list, shape `(B,)`, 0 for lists with fewer than two passages; or, if the loss is no mean
            over lists, one loss of the whole batch, shape `()`, which gradient accumulation then changes.
        teaches (`str`, *optional*, defaults to `"scores"`): `"order"` or `"scores"`.
        name (`str`, *optional*): The name in logs and saved arguments. By default that of the function, without
            `_loss` at its end.
        settings (`Mapping[str, Any]`, *optional*): Keyword arguments of the function and their values. The trainer's
            arguments of the same names (`temperature`, `margin`, ...) and `ranking_loss_kwargs` replace them.
        scales (`Mapping[str, Mapping[str, Any]]`, *optional*): Settings whose values are proportional to the
            student's scores, such as margins and temperatures: by kind of scores, `"log_odds"` (hundreds to thousands)
            and `"log_likelihood"` (a few nats), then by name. Those of log-odds are stated for scores of which the
            best of a query's candidates is 600 above the median one; the trainer measures this distance
            (`score_spread`) and multiplies them by its share of 600.
        generation_weights (`Mapping[str, float]`, *optional*): The default weight of the generation loss for each kind
            of scores, proportional to the scores in the same way; 1 where a kind is left out.

    Raises:
        DGRTypeError: if `function` cannot be called.
        DGRValueError: if `teaches` is unknown, a setting is not an argument of the function, or a kind of scores is
            unknown.

    Example:

    ```python
    >>> import torch
    >>> from dgr_trainer.training.losses import RankingLoss
    >>> def hinge_loss(scores, mask, *, margin):
    ...     hinges = torch.relu(margin - scores[:, :1] + scores[:, 1:])
    ...     return (hinges * mask[:, 1:]).sum(-1) / mask[:, 1:].sum(-1).clamp(min=1)
    >>> scales = {"log_odds": {"margin": 300.0}, "log_likelihood": {"margin": 1.0}}
    >>> loss = RankingLoss(hinge_loss, teaches="order", scales=scales)
    >>> loss.name, loss.defaults("log_odds")
    ('hinge', {'margin': 300.0})

    ```
    """

    function: Callable[..., Tensor]
    teaches: Literal["order", "scores"] = "scores"
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    generation_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise DGRTypeError(f"function is a {type(self.function).__name__}, but a ranking loss has to be callable.")
        if self.teaches not in ("order", "scores"):
            raise DGRValueError(f"teaches={self.teaches!r} is unknown; use 'order' or 'scores'.")
        if not self.name:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            object.__setattr__(self, "name", name.removesuffix("_loss"))
        unknown_kinds = sorted({*self.scales, *self.generation_weights} - set(SCORE_KINDS))
        if unknown_kinds:
            raise DGRValueError(
                f"{self.name}: {', '.join(unknown_kinds)} is no kind of scores; use {' and '.join(SCORE_KINDS)}."
            )
        self._check_names({*self.settings, *(name for scale in self.scales.values() for name in scale)})

    def __copy__(self) -> "RankingLoss":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "RankingLoss":
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # Trainer pickles its arguments beside every checkpoint: they record the name, whatever the function is.
        return str, (self.name,)

    def defaults(self, score_kind: str, spread: float | None = None) -> dict[str, Any]:
        """The settings for a kind of scores (`ScoringSettings.kind`), perhaps of another spread than the published."""
        scales = self.scales.get(score_kind, {})
        if spread is not None:
            scales = {name: value * (spread / PUBLISHED_SPREAD) for name, value in scales.items()}
        return {**self.settings, **scales}

    def generation_weight(self, score_kind: str, spread: float | None = None) -> float:
        """The default weight of the generation loss for a kind of scores."""
        if score_kind not in self.generation_weights:
            return 1.0
        return self.generation_weights[score_kind] * (1.0 if spread is None else spread / PUBLISHED_SPREAD)

    def with_settings(self, score_kind: str, chosen: Mapping[str, Any], spread: float | None = None) -> dict[str, Any]:
        """The settings for a kind of scores, with some of them chosen.

        Args:
            score_kind (`str`): `"log_odds"` or `"log_likelihood"`.
            chosen (`Mapping[str, Any]`): Settings by name, in place of the defaults.
            spread (`float`, *optional*): How far the student scores the best candidate of a query above the median
                one, to which `scales` are fitted. By default they are as stated.

        Raises:
            DGRValueError: if the loss has no such setting, or one without a default has no value.
        """
        self._check_names(chosen)
        settings = {**self.defaults(score_kind, spread), **chosen}
        missing = [
            parameter.name
            for parameter in self._parameters()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            and parameter.name not in (*settings, *_NOT_SETTINGS)
        ]
        if missing:
            raise DGRValueError(
                f"The ranking loss {self.name!r} needs a value for {', '.join(missing)}. Give it in "
                "RankingLoss(settings={...}) or in ranking_loss_kwargs."
            )
        return settings

    def has_margins(self, settings: Mapping[str, Any]) -> bool:
        """Whether the loss separates passages by `margin` and `margin_gap`."""
        return self.teaches == "order" and {"margin", "margin_gap"} <= set(settings)

    def knows_ties(self) -> bool:
        """Whether the loss is told which passages share a place, so that `tie_margin` changes what it teaches."""
        return self.teaches == "order" or any(one.name == "taught_ranks" for one in self._parameters())

    def __call__(
        self,
        scores: Tensor,
        teacher_scores: Tensor,
        mask: Tensor,
        settings: Mapping[str, Any],
        taught_ranks: Tensor | None = None,
        judged: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            scores (`torch.Tensor` of shape `(B, M)`): Student scores, in the order to be taught.
            teacher_scores (`torch.Tensor` of shape `(B, M)`): Teacher scores, higher is better.
            mask (`torch.BoolTensor` of shape `(B, M)`): `True` where there is a passage.
            settings (`Mapping[str, Any]`): What `with_settings` returned.
            taught_ranks (`torch.Tensor` of shape `(B, M)`, *optional*):
                Rank of each passage in the order to be taught, for functions with an argument of this name.
            judged (`torch.BoolTensor` of shape `(B,)`, *optional*):
                Lists whose first passage is the relevant one, for functions with an argument of this name.

        Returns:
            `torch.Tensor` of shape `(B,)`, or `()` for a loss that is no mean over lists.

        Raises:
            DGRTypeError: if the function returns no tensor.
            DGRValueError: if the tensor has another shape.
        """
        taught = (scores, mask) if self.teaches == "order" else (scores, teacher_scores, mask)
        settings = dict(settings)
        names = {parameter.name for parameter in self._parameters()}
        if "taught_ranks" in names:
            settings["taught_ranks"] = taught_ranks
        if "teacher_scores" in names:
            settings["teacher_scores"] = teacher_scores
        if "judged" in names:
            settings["judged"] = judged
        losses = self.function(*taught, **settings)
        if not isinstance(losses, Tensor):
            raise DGRTypeError(f"The ranking loss {self.name!r} returned a {type(losses).__name__}, not a tensor.")
        if losses.shape not in ((), (len(scores),)):
            raise DGRValueError(
                f"The ranking loss {self.name!r} returned a tensor of shape {tuple(losses.shape)} for "
                f"{len(scores)} rank lists. Return one loss a list, shape ({len(scores)},), or one for the batch, ()."
            )
        return losses

    def _parameters(self) -> list[inspect.Parameter]:
        """The arguments of the function after the tensors."""
        tensors = 2 if self.teaches == "order" else 3
        return list(inspect.signature(self.function).parameters.values())[tensors:]

    def _check_names(self, names: Iterable[str]) -> None:
        parameters = self._parameters()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return
        known = [parameter.name for parameter in parameters if parameter.name not in _NOT_SETTINGS]
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise DGRValueError(
                f"{', '.join(unknown)} is no setting of the ranking loss {self.name!r}, which has "
                f"{', '.join(known) or 'none'}. Leave it out, or choose another ranking_loss."
            )
