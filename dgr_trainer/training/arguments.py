"""Training arguments of the distillation trainer."""

import copy
import json
from dataclasses import dataclass, field
from typing import Any

from transformers import Seq2SeqTrainingArguments

from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.training.losses import RANKING_LOSSES, RankingLoss

LOSS_ARGUMENTS = (
    "ranking_loss",
    "ranking_loss_kwargs",
    "ranking_weight",
    "generation_weight",
    "margin",
    "margin_gap",
    "first_weight",
    "active_pair_mean",
    "temperature",
    "teacher_temperature",
)
"""Arguments that the loss is made of."""

# Arguments that are settings of ranking losses. None leaves a setting at the loss's own default.
_LOSS_SETTINGS = ("margin", "margin_gap", "first_weight", "active_pair_mean", "temperature", "teacher_temperature")


def _default(loss: str, setting: str) -> str:
    """The default of a loss's setting in words, for help texts."""
    on_odds, on_likelihoods = (RANKING_LOSSES[loss].defaults(kind)[setting] for kind in ("log_odds", "log_likelihood"))
    if on_odds == on_likelihoods:
        return f"Default: {on_odds:g}."
    return f"Default: {on_odds:g} on log-odds, {on_likelihoods:g} on log-likelihoods."


@dataclass
class DistillationTrainingArguments(Seq2SeqTrainingArguments):
    """Arguments of [`DistillationGenerativeRetrievalTrainer`].

    Adds the following to [`~transformers.Seq2SeqTrainingArguments`], all of whose arguments apply as well. The loss is
    `ranking_weight * ranking loss + generation_weight * generation loss`, averaged over queries. How identifiers and
    passages are scored is set at the collator (`ScoringSettings`), since candidates and scoring belong together.

    Args:
        ranking_loss (`str` or [`RankingLoss`], *optional*, defaults to `"distilled_ranknet"`):
            `"distilled_ranknet"`, `"margin_rank"`, `"ranknet"`, `"margin_mse"`, `"lambda"`, `"listnet"`,
            `"kl_divergence"` or `"listmle"` (see `dgr_trainer.training.losses`), or your own [`RankingLoss`]. The
            first two teach the order of the list, the others the teacher's scores or their order.
        ranking_loss_kwargs (`dict[str, Any]` or JSON `str`, *optional*):
            Further settings of the ranking loss by name, such as `{"weighting": "none"}` for `"lambda"`.
        ranking_weight (`float`, *optional*, defaults to 1.0): Weight of the ranking loss; 0 trains generation only.
        generation_weight (`float`, *optional*):
            Weight of the generation loss. By default 500 for a margin loss on log-odds (their scale is hundreds), else
            1.
        margin (`float`, *optional*):
            Margin between neighbours, for the margin losses. By default 300 on log-odds, 1 on log-likelihoods.
        margin_gap (`float`, *optional*):
            What each further place between two passages adds to the margin. By default 100 on log-odds, 0.5 on
            log-likelihoods.
        first_weight (`float`, *optional*):
            Weight of the pairs of the first passage, for `"distilled_ranknet"`. By default 3.
        temperature (`float`, *optional*):
            Divides the student's scores in the losses without margins. By default 100 on log-odds, 1 on
            log-likelihoods.
        teacher_temperature (`float`, *optional*):
            Divides the teacher's scores in `"listnet"` and `"kl_divergence"`. By default 1.
        active_pair_mean (`bool`, *optional*, defaults to `False`):
            Average `"distilled_ranknet"` over the pairs of the batch that violate their margin, as in the published
            experiments of DGR, instead of over each query's list. Gradient accumulation then changes the loss.
        decoder_tokens_at_once (`int`, *optional*, defaults to 4096):
            Identifier tokens (shared prefixes counted once, padding included; for decoder-only models with their
            prompts) whose activations are kept for the backward pass. A larger batch, such as one with lists of 100
            passages, goes through the decoder in pieces of this size, and all but the last are recomputed in the
            backward pass: the same loss and gradients, in memory that does not grow with the list, for a third more
            time. A smaller number saves memory.

    These defaults differ from [`~transformers.Seq2SeqTrainingArguments`]:

    - `learning_rate`: 1e-5 instead of 5e-5.

    Raises:
        DGRTypeError: if `ranking_loss` is neither a name nor a [`RankingLoss`].
        DGRValueError: on an unknown loss, malformed `ranking_loss_kwargs`, weights that are negative or all zero, a
            `decoder_tokens_at_once` below 1, or `predict_with_generate`.
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate."})
    # A RankingLoss is taken as well; the annotation is what HfArgumentParser makes an option of.
    ranking_loss: str = field(
        default="distilled_ranknet",
        metadata={"help": "The loss between the student's scores and the teacher's.", "choices": list(RANKING_LOSSES)},
    )
    ranking_loss_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Further settings of the ranking loss, as a JSON object."}
    )
    ranking_weight: float = field(default=1.0, metadata={"help": "Weight of the ranking loss; 0 leaves it out."})
    generation_weight: float | None = field(
        default=None,
        metadata={"help": "Weight of the generation loss. Default: 500 for margin losses on log-odds, else 1."},
    )
    margin: float | None = field(
        default=None, metadata={"help": f"Margin between neighbours. {_default('distilled_ranknet', 'margin')}"}
    )
    margin_gap: float | None = field(
        default=None,
        metadata={
            "help": "Margin added by each further place between two passages. "
            f"{_default('distilled_ranknet', 'margin_gap')}"
        },
    )
    first_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the pairs of the first passage, for distilled_ranknet. "
            f"{_default('distilled_ranknet', 'first_weight')}"
        },
    )
    temperature: float | None = field(
        default=None,
        metadata={
            "help": f"Divides the student's scores in losses without margins. {_default('ranknet', 'temperature')}"
        },
    )
    teacher_temperature: float | None = field(
        default=None,
        metadata={
            "help": "Divides the teacher's scores in listnet and kl_divergence. "
            f"{_default('listnet', 'teacher_temperature')}"
        },
    )
    active_pair_mean: bool = field(
        default=False,
        metadata={"help": "Average distilled_ranknet over the violated pairs of the batch, as the publication did."},
    )

    decoder_tokens_at_once: int = field(
        default=4096,
        metadata={"help": "Decoder tokens whose activations are kept; larger batches run in pieces, recomputed."},
    )

    def __post_init__(self) -> None:
        self.check_loss()
        if self.decoder_tokens_at_once < 1:
            raise DGRValueError(f"decoder_tokens_at_once={self.decoder_tokens_at_once} must be at least 1.")
        if self.predict_with_generate:
            raise DGRValueError(
                "predict_with_generate generates without the index, so it does not retrieve. Give the trainer a "
                "retrieval_evaluator, whose metrics (such as eval_hits@10) come with every evaluation."
            )
        super().__post_init__()  # type: ignore[no-untyped-call]

    def check_loss(self) -> None:
        """Check what the loss is made of; the trainer does so whenever it uses them, since arguments may change.

        Raises:
            DGRTypeError: if `ranking_loss` is neither a name nor a [`RankingLoss`].
            DGRValueError: on an unknown loss, malformed `ranking_loss_kwargs`, or weights that are negative or all
                zero.
        """
        _check_ranking_loss(self.ranking_loss)
        self._read_ranking_loss_kwargs()
        positive = ("first_weight", "temperature", "teacher_temperature")
        for name in ("ranking_weight", "generation_weight", "margin", "margin_gap", *positive):
            value = getattr(self, name)
            if value is not None and (value < 0 or (value == 0 and name in positive)):
                raise DGRValueError(f"{name}={value} must be {'greater than' if name in positive else 'at least'} 0.")
        if self.ranking_weight == 0 and self.generation_weight == 0:
            raise DGRValueError("ranking_weight and generation_weight are both 0, so there is nothing to train.")

    @property
    def resolved_ranking_loss(self) -> RankingLoss:
        """The ranking loss that `ranking_loss` names or is."""
        return self.ranking_loss if isinstance(self.ranking_loss, RankingLoss) else RANKING_LOSSES[self.ranking_loss]

    @property
    def ranking_loss_settings(self) -> dict[str, Any]:
        """The settings of the ranking loss that were chosen, by name; the others keep the loss's defaults."""
        assert not isinstance(self.ranking_loss_kwargs, str)
        return self._given_settings() | (self.ranking_loss_kwargs or {})

    def _given_settings(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in _LOSS_SETTINGS}
        return {name: value for name, value in values.items() if value is not None and value is not False}

    def with_ranking_loss(self, ranking_loss: str | RankingLoss) -> "DistillationTrainingArguments":
        """A copy of the arguments with another ranking loss.

        Raises:
            DGRTypeError: if it is neither a name nor a [`RankingLoss`].
            DGRValueError: if the name is unknown.
        """
        _check_ranking_loss(ranking_loss)
        copied = copy.copy(self)
        copied.ranking_loss = ranking_loss  # type: ignore[assignment]  # Annotated for HfArgumentParser.
        return copied

    def to_dict(self) -> dict[str, Any]:
        """The parent's, with a ranking loss by its name, as JSON and the trackers of experiments need it."""
        return {**super().to_dict(), "ranking_loss": self._ranking_loss_name}  # type: ignore[no-untyped-call]

    @property
    def _ranking_loss_name(self) -> str:
        return self.ranking_loss.name if isinstance(self.ranking_loss, RankingLoss) else self.ranking_loss

    def _read_ranking_loss_kwargs(self) -> None:
        if isinstance(self.ranking_loss_kwargs, str):
            try:
                self.ranking_loss_kwargs = json.loads(self.ranking_loss_kwargs)
            except ValueError as error:
                raise DGRValueError(
                    f"ranking_loss_kwargs={self.ranking_loss_kwargs!r} is no JSON ({error}). Give an object such as "
                    '{"weighting": "none"}.'
                ) from None
        if self.ranking_loss_kwargs is not None and not isinstance(self.ranking_loss_kwargs, dict):
            raise DGRValueError(f"ranking_loss_kwargs={self.ranking_loss_kwargs!r} is no mapping of settings by name.")
        twice = [name for name in self._given_settings() if name in (self.ranking_loss_kwargs or {})]
        if twice:
            raise DGRValueError(
                f"ranking_loss_kwargs sets {', '.join(twice)}, which is an argument as well. Set it once."
            )


def _check_ranking_loss(ranking_loss: object) -> None:
    if not isinstance(ranking_loss, (str, RankingLoss)):
        raise DGRTypeError(
            f"ranking_loss is a {type(ranking_loss).__name__}. Give the name of a loss, or "
            "dgr_trainer.training.losses.RankingLoss(your_function)."
        )
    if isinstance(ranking_loss, str) and ranking_loss not in RANKING_LOSSES:
        raise DGRValueError(
            f"ranking_loss={ranking_loss!r} is unknown; use one of {', '.join(RANKING_LOSSES)}, or a RankingLoss."
        )
