"""Training arguments of the distillation trainer."""

from dataclasses import dataclass, field

from transformers import Seq2SeqTrainingArguments

from dgr_trainer.errors import DGRValueError
from dgr_trainer.training.losses import RANKING_LOSSES


@dataclass
class DistillationTrainingArguments(Seq2SeqTrainingArguments):
    """Arguments of [`DistillationGenerativeRetrievalTrainer`].

    Holds what is added to [`~transformers.Seq2SeqTrainingArguments`]; all of its arguments apply as well. The loss is
    `ranking_weight * ranking loss + generation_weight * generation loss`, averaged over queries. How identifiers and
    passages are scored is set at the collator (`ScoringSettings`), since candidates and scoring belong together.

    Args:
        ranking_loss (`str`, *optional*, defaults to `"distilled_ranknet"`):
            `"distilled_ranknet"`, `"margin_rank"`, `"ranknet"`, `"margin_mse"`, `"lambda"`, `"listnet"`,
            `"kl_divergence"` or `"listmle"`; see `dgr_trainer.training.losses`. The first two teach the order of the
            list, the others the teacher's scores or their order.
        ranking_weight (`float`, *optional*, defaults to 1.0): Weight of the ranking loss; 0 trains generation only.
        generation_weight (`float`, *optional*):
            Weight of the generation loss. By default 500 for a margin loss on log-odds (their scale is hundreds), else
            1.
        margin (`float`, *optional*):
            Margin between neighbours, for the margin losses. By default 300 on log-odds, 1 on log-likelihoods.
        margin_gap (`float`, *optional*):
            What each place further apart adds to the margin. By default 100 on log-odds, 0.5 on log-likelihoods.
        first_weight (`float`, *optional*, defaults to 3.0): Weight of the pairs of the first passage, for
            `"distilled_ranknet"`.
        temperature (`float`, *optional*):
            Divides the student's scores in the other losses. By default 100 on log-odds, 1 on log-likelihoods.
        teacher_temperature (`float`, *optional*, defaults to 1.0):
            Divides the teacher's scores in `"listnet"` and `"kl_divergence"`.
        active_pair_mean (`bool`, *optional*, defaults to `False`):
            Average `"distilled_ranknet"` over the violated pairs of the batch, as the published experiments did, and
            not over each query's list. Gradient accumulation then changes the loss.
        decoder_tokens_at_once (`int`, *optional*, defaults to 4096):
            Tokens of identifiers, shared prefixes counted once and padding included, whose activations are kept for
            the backward pass. A batch that has more, such as one with lists of 100 passages, goes through the decoder
            in pieces of this size, and all but the last are computed again in the backward pass: the same loss and
            gradients in memory that does not grow with the list, for a third more time. Less saves memory.

    These defaults differ from [`~transformers.Seq2SeqTrainingArguments`]:

    - `learning_rate`: 1e-5 instead of 5e-5.

    Raises:
        ValueError: on an unknown loss, weights that are negative or all zero, no tokens at once, or
            `predict_with_generate`.
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate."})
    ranking_loss: str = field(
        default="distilled_ranknet",
        metadata={"help": "The loss between the student's scores and the teacher's.", "choices": list(RANKING_LOSSES)},
    )
    ranking_weight: float = field(default=1.0, metadata={"help": "Weight of the ranking loss; 0 leaves it out."})
    generation_weight: float | None = field(
        default=None,
        metadata={"help": "Weight of the generation loss. Default: 500 for margin losses on log-odds, else 1."},
    )
    margin: float | None = field(
        default=None, metadata={"help": "Margin between neighbours. Default: 300 on log-odds, 1 on log-likelihoods."}
    )
    margin_gap: float | None = field(
        default=None,
        metadata={"help": "Margin added by each place apart. Default: 100 on log-odds, 0.5 on log-likelihoods."},
    )
    first_weight: float = field(
        default=3.0, metadata={"help": "Weight of the pairs of the first passage, for distilled_ranknet."}
    )
    temperature: float | None = field(
        default=None,
        metadata={
            "help": "Divides the student's scores in losses without margins. Default: 100 on log-odds, 1 on "
            "log-likelihoods."
        },
    )
    teacher_temperature: float = field(
        default=1.0, metadata={"help": "Divides the teacher's scores in listnet and kl_divergence."}
    )
    active_pair_mean: bool = field(
        default=False,
        metadata={"help": "Average distilled_ranknet over the violated pairs of the batch, as the publication did."},
    )

    decoder_tokens_at_once: int = field(
        default=4096,
        metadata={"help": "Decoder tokens whose activations are kept; beyond them, pieces are computed again."},
    )

    def __post_init__(self) -> None:
        if self.ranking_loss not in RANKING_LOSSES:
            raise DGRValueError(
                f"ranking_loss={self.ranking_loss!r} is unknown; use one of {', '.join(RANKING_LOSSES)}."
            )
        positive = ("first_weight", "temperature", "teacher_temperature")
        for name in ("ranking_weight", "generation_weight", "margin", "margin_gap", *positive):
            value = getattr(self, name)
            if value is not None and (value < 0 or (value == 0 and name in positive)):
                raise DGRValueError(f"{name}={value} must be {'greater than' if name in positive else 'at least'} 0.")
        if self.decoder_tokens_at_once < 1:
            raise DGRValueError(f"decoder_tokens_at_once={self.decoder_tokens_at_once} must be at least 1.")
        if self.ranking_weight == 0 and self.generation_weight == 0:
            raise DGRValueError("ranking_weight and generation_weight are both 0, so there is nothing to train.")
        if self.active_pair_mean and self.ranking_loss != "distilled_ranknet":
            raise DGRValueError(
                f"active_pair_mean is an average over the pairs of distilled_ranknet; ranking_loss is "
                f"{self.ranking_loss!r}. Leave one of the two out."
            )
        if self.predict_with_generate:
            raise DGRValueError(
                "predict_with_generate generates without the index, so it does not retrieve. Give the trainer a "
                "retrieval_evaluator, whose metrics (such as eval_hits@10) come with every evaluation."
            )
        super().__post_init__()
