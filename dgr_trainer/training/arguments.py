"""Training arguments of the distillation trainer."""

import copy
import json
import math
from dataclasses import dataclass, field
from typing import Any

from transformers import Seq2SeqTrainingArguments

from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.training.losses import RANKING_LOSSES, RankingLoss
from dgr_trainer.training.losses.ranking_loss import PUBLISHED_GENERATION_FACTOR, PUBLISHED_SPREAD

# Arguments that are settings of ranking losses. None leaves a setting at the loss's own default.
_LOSS_SETTINGS = (
    "margin",
    "margin_gap",
    "first_weight",
    "active_pair_mean",
    "temperature",
    "teacher_temperature",
    "first_share",
)
LOSS_ARGUMENTS = (
    "ranking_loss",
    "ranking_loss_kwargs",
    "ranking_weight",
    "generation_weight",
    *_LOSS_SETTINGS,
    "prefix_ranking",
    "score_spread",
    "teacher_spread",
)
"""Arguments that the loss is made of."""

DEFAULT_LOSS, PUBLISHED_LOSS = "kl_divergence", "distilled_ranknet"
PRESETS = ("dgr_paper",)
AUTO = "auto"
_SMALLER_IS_BETTER = ("loss_ranking", "loss_generation", "violated_margins")
FITTED = ("margin", "margin_gap", "temperature", "generation_weight")
"""Arguments that fit the scores of the candidates where they are left out."""


def _default(loss: str, setting: str) -> str:
    """The default of a loss's setting in words, for help texts."""
    on_odds, on_likelihoods = (RANKING_LOSSES[loss].defaults(kind)[setting] for kind in ("log_odds", "log_likelihood"))
    if on_odds == on_likelihoods:
        return f"Default: {on_odds:g}."
    fitted = f"{on_odds:g} x score_spread / {PUBLISHED_SPREAD:g}"
    return f"Default (auto): {fitted} on log-odds, {on_likelihoods:g} on log-likelihoods."


@dataclass
class DistillationTrainingArguments(Seq2SeqTrainingArguments):
    """Arguments of [`DistillationGenerativeRetrievalTrainer`].

    Adds the following to [`~transformers.Seq2SeqTrainingArguments`], all of whose arguments apply as well. The loss is
    `ranking_weight * ranking loss + generation_weight * generation loss`, averaged over queries. How identifiers and
    passages are scored is set at the collator (`ScoringSettings`), since candidates and scoring belong together.

    Args:
        ranking_loss (`str` or [`RankingLoss`], *optional*):
            `"distilled_ranknet"`, `"margin_rank"`, `"ranknet"`, `"margin_mse"`, `"lambda"`, `"listnet"`,
            `"kl_divergence"` or `"listmle"` (see `dgr_trainer.training.losses`), or your own [`RankingLoss`]. The
            first two teach the order of the list, the others the teacher's scores or their order. By default
            `"kl_divergence"`, or `"distilled_ranknet"` with the preset of the publication, whose loss it is.
        ranking_loss_kwargs (`dict[str, Any]` or JSON `str`, *optional*):
            Further settings of the ranking loss by name, such as `{"weighting": "none"}` for `"lambda"`.
        ranking_weight (`float`, *optional*, defaults to 1.0): Weight of the ranking loss; 0 trains generation only.
        generation_weight (`float`, *optional*):
            Weight of the generation loss. By default (or `"auto"`) a sixth of `score_spread` for a margin loss on
            log-odds, five times as much with the preset of the publication, else 1.
        margin (`float`, *optional*):
            Margin between neighbours, for the margin losses. By default (or `"auto"`) half of `score_spread` on
            log-odds, 1 on log-likelihoods.
        margin_gap (`float`, *optional*):
            What each further place between two passages adds to the margin. By default (or `"auto"`) a sixth of
            `score_spread` on log-odds, 0.5 on log-likelihoods.
        first_weight (`float`, *optional*):
            Weight of the pairs of the first passage, for `"distilled_ranknet"`. By default 3.
        temperature (`float`, *optional*):
            Divides the student's scores in the losses without margins. By default (or `"auto"`) a sixth of
            `score_spread` on log-odds, 1 on log-likelihoods.
        teacher_temperature (`float`, *optional*):
            Divides the teacher's scores in `"listnet"` and `"kl_divergence"`. By default (or `"auto"`) a sixth of
            `teacher_spread`, and 1 without rank lists.
        first_share (`float`, *optional*):
            Share of the target of `"kl_divergence"` and `"listnet"` that goes to the relevant passage, which is the
            first of the list; the rest is shared out by the teacher's scores. Lists without a relevant passage, or
            with `relevant_first=False`, have the teacher's scores alone. By default 0.75 for `"kl_divergence"` and 0
            for `"listnet"`.
        active_pair_mean (`bool`, *optional*, defaults to `False`):
            Average `"distilled_ranknet"` over the pairs of the batch that violate their margin, as in the published
            experiments of DGR, instead of over each query's list. Gradient accumulation then changes the loss.
        prefix_ranking (`bool`, *optional*, defaults to `False`):
            Apply the ranking loss to the first token of the identifiers, to the first two, and so on, and average over
            these depths: the relevant passage has to outrank the others at every step of a search, not only at its
            end. For passages with one identifier, such as semantic ids.
        score_spread (`float`, *optional*):
            How far the student scores the best candidate of a query above the median one, in log-odds scores. By
            default (or `"auto"`) the trainer measures it on the candidates, and `trainer.args`, checkpoints and logs
            hold the value. The defaults above are proportional to it: the published margins of 300 and 100 have a
            spread of 600, which is that of a corpus of millions of passages.
        teacher_spread (`float`, *optional*):
            How far the teacher scores its best passage of a query above its median one. By default (or `"auto"`) the
            trainer measures it on the rank lists, as `score_spread`.
        preset (`str`, *optional*):
            `"dgr_paper"`: the loss of the published experiments, whatever the corpus: `score_spread=600`, a
            generation weight of 500, and `"distilled_ranknet"` with `active_pair_mean=True` unless another loss is
            given. Margins and weights that
            are given beside it stay. See `dgr_paper`.
        decoder_tokens_at_once (`int`, *optional*, defaults to 4096):
            Identifier tokens (shared prefixes counted once, padding included; for decoder-only models with their
            prompts) whose activations are kept for the backward pass. A larger batch, such as one with lists of 100
            passages, goes through the decoder in pieces of this size, and all but the last are recomputed in the
            backward pass: the same loss and gradients, in memory that does not grow with the list, for a third more
            time. A smaller number saves memory.

    These defaults differ from [`~transformers.Seq2SeqTrainingArguments`]:

    - `learning_rate`: 1e-5 instead of 5e-5.
    - `logging_nan_inf_filter`: `False` instead of `True`, for which every step waits for the device; a loss that is
      not a number is seen in the logs.

    Raises:
        DGRTypeError: if `ranking_loss` is neither a name nor a [`RankingLoss`].
        DGRValueError: on an unknown loss, malformed `ranking_loss_kwargs`, weights that are negative or all zero, a
            `decoder_tokens_at_once` below 1, or `predict_with_generate`.
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate."})
    # Transformers looks at the loss of every step on the host, which waits for the device, to leave NaN out of logs.
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave NaN and infinite losses out of logs; each step then waits for a GPU."}
    )
    # A RankingLoss is taken as well; the annotation is what HfArgumentParser makes an option of.
    ranking_loss: str | None = field(
        default=None,
        metadata={
            "help": f"The loss between the student's scores and the teacher's. Default: {DEFAULT_LOSS}; "
            f"{PUBLISHED_LOSS} with --preset dgr_paper.",
            "choices": list(RANKING_LOSSES),
        },
    )
    ranking_loss_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Further settings of the ranking loss, as a JSON object."}
    )
    ranking_weight: float = field(default=1.0, metadata={"help": "Weight of the ranking loss; 0 leaves it out."})
    generation_weight: float | str | None = field(
        default=None,
        metadata={
            "help": "Weight of the generation loss. Default (auto): score_spread / 6 for margin losses on log-odds "
            "(500 with --preset dgr_paper), else 1."
        },
    )
    margin: float | str | None = field(
        default=None, metadata={"help": f"Margin between neighbours. {_default(PUBLISHED_LOSS, 'margin')}"}
    )
    margin_gap: float | str | None = field(
        default=None,
        metadata={
            "help": "Margin added by each further place between two passages. "
            f"{_default(PUBLISHED_LOSS, 'margin_gap')}"
        },
    )
    first_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the pairs of the first passage, for distilled_ranknet. "
            f"{_default(PUBLISHED_LOSS, 'first_weight')}"
        },
    )
    temperature: float | str | None = field(
        default=None,
        metadata={
            "help": f"Divides the student's scores in losses without margins. {_default('ranknet', 'temperature')}"
        },
    )
    teacher_temperature: float | str | None = field(
        default=None,
        metadata={
            "help": "Divides the teacher's scores in listnet and kl_divergence. Default (auto): teacher_spread / 6."
        },
    )
    first_share: float | None = field(
        default=None,
        metadata={
            "help": "Share of the target that goes to the relevant passage, if the list has one, in kl_divergence and "
            "listnet; the teacher's scores share out the rest. Default: 0.75 for kl_divergence."
        },
    )
    active_pair_mean: bool = field(
        default=False,
        metadata={"help": "Average distilled_ranknet over the violated pairs of the batch, as the publication did."},
    )
    prefix_ranking: bool = field(
        default=False,
        metadata={"help": "Rank the prefixes of identifiers at every depth; for passages with one identifier."},
    )

    score_spread: float | str | None = field(
        default=None,
        metadata={
            "help": "How far the student scores its best candidate above its median one, which margins fit. Default "
            "(auto): measured on the candidates; 600 for the published margins."
        },
    )
    teacher_spread: float | str | None = field(
        default=None,
        metadata={
            "help": "How far the teacher scores its best passage above its median one. Default (auto): measured on "
            "the rank lists."
        },
    )
    preset: str | None = field(
        default=None,
        metadata={"help": "The loss of the published experiments, whatever the corpus.", "choices": list(PRESETS)},
    )
    decoder_tokens_at_once: int = field(
        default=4096,
        metadata={"help": "Decoder tokens whose activations are kept; larger batches run in pieces, recomputed."},
    )

    # No argument, so without annotation: how the collator scores identifiers, which the trainer finds out.
    _score_kind = "log_odds"

    def __post_init__(self) -> None:
        self.check_loss()
        if self.decoder_tokens_at_once < 1:
            raise DGRValueError(f"decoder_tokens_at_once={self.decoder_tokens_at_once} must be at least 1.")
        if self.predict_with_generate:
            raise DGRValueError(
                "predict_with_generate generates without the index, so it does not retrieve. Give the trainer a "
                "retrieval_evaluator, whose metrics (such as eval_hits@10) come with every evaluation."
            )
        # The parent takes every metric but those that end in "loss" for better when it is greater.
        if self.greater_is_better is None and (self.metric_for_best_model or "").endswith(_SMALLER_IS_BETTER):
            self.greater_is_better = False
        super().__post_init__()  # type: ignore[no-untyped-call]

    def check_loss(self) -> None:
        """Check what the loss is made of; the trainer does so whenever it uses them, since arguments may change.

        Raises:
            DGRTypeError: if `ranking_loss` is neither a name nor a [`RankingLoss`].
            DGRValueError: on an unknown loss, malformed `ranking_loss_kwargs`, or weights that are negative or all
                zero.
        """
        if self.ranking_loss is None:
            self.ranking_loss = DEFAULT_LOSS if self.preset is None else PUBLISHED_LOSS
        _check_ranking_loss(self.ranking_loss)
        self._apply_preset()
        for name in (*FITTED, "teacher_temperature", "score_spread", "teacher_spread"):
            setattr(self, name, _number(name, getattr(self, name)))
        self._read_ranking_loss_kwargs()
        positive = ("first_weight", "temperature", "teacher_temperature", "score_spread", "teacher_spread")
        for name in ("ranking_weight", "generation_weight", "margin", "margin_gap", *positive):
            value = getattr(self, name)
            if value is not None and (value < 0 or (value == 0 and name in positive)):
                raise DGRValueError(f"{name}={value} must be {'greater than' if name in positive else 'at least'} 0.")
        if self.first_share is not None and not 0 <= self.first_share <= 1:
            raise DGRValueError(f"first_share={self.first_share} must be from 0 to 1.")
        if self.ranking_weight == 0 and self.generation_weight == 0:
            raise DGRValueError("ranking_weight and generation_weight are both 0, so there is nothing to train.")
        if self.prefix_ranking and self.ranking_weight == 0:
            raise DGRValueError(
                "prefix_ranking changes the ranking loss, whose ranking_weight is 0. Give it a weight, or leave "
                "prefix_ranking out."
            )

    @classmethod
    def dgr_paper(cls, *args: Any, **kwargs: Any) -> "DistillationTrainingArguments":
        """Arguments with the loss of the published experiments of DGR; takes what the class takes.

        Distilled RankNet: the margins, the gap and the generation weight are those of a corpus of millions of
        passages, and the loss is averaged over the violated pairs of a batch (`preset="dgr_paper"`). The lists of the
        publication are those of `DistillationCollator(..., list_length=6, sampling="dgr_paper")`.
        """
        return cls(*args, **{**kwargs, "preset": "dgr_paper"})

    def _apply_preset(self) -> None:
        if self.preset is None:
            return
        if self.preset not in PRESETS:
            raise DGRValueError(f"preset={self.preset!r} is unknown; use one of {', '.join(PRESETS)}.")
        if self.score_spread in (None, AUTO):
            self.score_spread = PUBLISHED_SPREAD
        # Also after another one was chosen, which has no such setting.
        self.active_pair_mean = self.resolved_ranking_loss is RANKING_LOSSES[PUBLISHED_LOSS]

    def scale_of_defaults(self, score_kind: str) -> tuple[str, float | None]:
        """The kind of scores whose defaults the loss has, and what these are proportional to.

        Standardised scores have a spread of 1, whatever that of the candidates and whatever kind they are; log-odds
        have `score_spread`, `None` where the defaults are as published; those of log-likelihoods stay as they are.
        """
        if self.ranking_loss_settings.get("normalization", "none") != "none":
            return "log_odds", 1.0
        if score_kind != "log_odds" or self.score_spread is None:
            return score_kind, None
        return score_kind, float(self.score_spread)

    def default_generation_weight(self, score_kind: str) -> float:
        """The weight of the generation loss where `generation_weight` is left out."""
        loss, scale = self.resolved_ranking_loss, self.scale_of_defaults(score_kind)
        weight = loss.generation_weight(*scale)
        if self.preset is not None and loss in RANKING_LOSSES.values() and score_kind in loss.generation_weights:
            return weight * PUBLISHED_GENERATION_FACTOR
        return weight

    @property
    def resolved_ranking_loss(self) -> RankingLoss:
        """The ranking loss that `ranking_loss` names or is."""
        if isinstance(self.ranking_loss, RankingLoss):
            return self.ranking_loss
        return RANKING_LOSSES[self._ranking_loss_name]

    @property
    def ranking_loss_settings(self) -> dict[str, Any]:
        """The settings of the ranking loss that were chosen, by name; the others keep the loss's defaults."""
        assert not isinstance(self.ranking_loss_kwargs, str)
        return self._given_settings() | (self.ranking_loss_kwargs or {})

    @property
    def settings_of_teacher(self) -> dict[str, Any]:
        """The settings of the ranking loss that fit `teacher_spread`."""
        name = "teacher_temperature"
        if self.teacher_spread is None or name not in self.resolved_ranking_loss.settings:
            return {}
        return {name: float(f"{float(self.teacher_spread) / 6:.3g}")}

    def _given_settings(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in _LOSS_SETTINGS}
        return {name: value for name, value in values.items() if value is not None and value is not False}

    def for_scores(self, score_kind: str) -> "DistillationTrainingArguments":
        """A copy of the arguments that states (`to_dict`) the defaults for a kind of scores, not those of log-odds.

        Args:
            score_kind (`str`): `"log_odds"` or `"log_likelihood"` (`ScoringSettings.kind` of the collator).
        """
        copied = copy.copy(self)
        copied._score_kind = score_kind
        return copied

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
        """The parent's, as JSON and the trackers of experiments need it.

        A ranking loss is there by its name, and what fits `score_spread` has its value.
        """
        values = {**super().to_dict(), "ranking_loss": self._ranking_loss_name}  # type: ignore[no-untyped-call]
        given = self.ranking_loss_settings
        values |= {name: value for name, value in self.settings_of_teacher.items() if name not in given}
        if self.score_spread is not None:
            loss, scale = self.resolved_ranking_loss, self.scale_of_defaults(self._score_kind)
            fitted = loss.defaults(*scale)
            fitted["generation_weight"] = self.default_generation_weight(self._score_kind)
            values |= {
                name: fitted[name]
                for name in FITTED
                if name in fitted and name not in given and getattr(self, name) is None
            }
        return values

    @property
    def _ranking_loss_name(self) -> str:
        assert self.ranking_loss is not None  # `check_loss` sets it.
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


def _number(name: str, value: object) -> float | None:
    """The number that an argument is; `None` for what is fitted to the candidates."""
    if value is None or value == AUTO:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DGRValueError(
            f"{name}={value!r} is no number. Give one, or 'auto' to fit it to the scores of the candidates."
        )
    return number


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
