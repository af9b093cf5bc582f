"""Weights of identifiers: the same arithmetic in training and in a search.

The weight of an identifier is its log-odds under the model minus its log-odds in the corpus (SEAL, section 3.3;
MINDER), raised to a power. The score of a passage is the sum over its identifiers, each discounted by the share of it
that the passage's earlier identifiers already cover.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers.settings import check_names

ORIGINS = ("generated", "query", "unigram")
"""Where an identifier comes from: the beam search; words of the query itself, also if the beam search finds them; the
most probable single tokens, which score what no identifier takes."""
_KINDS = ("log_odds", "log_likelihood")
# Upper bound of log-probabilities: the log-odds of probability one are infinite.
_MAX_LOG_PROBABILITY = -1e-6


@dataclass(frozen=True)
class ScoringSettings:
    """How identifiers are weighted.

    Args:
        kind (`str`, defaults to `"log_odds"`):
            `"log_odds"` compares the log-likelihood of an identifier with its frequency in the corpus;
            `"log_likelihood"` uses the log-likelihood alone (one identifier per passage: a docid or a title).
        smoothing (`float`, defaults to 5.0): Added to corpus counts.
        exponent (`float`, defaults to 2.0): Power of the log-odds.
        repetition (`float`, defaults to 0.8):
            Share of an identifier's weight that is lost when all of its tokens are covered already.
        identifiers_per_passage (`int`, defaults to 40): Identifiers of a passage used in training, best first.
        pseudo_query_bonus (`float`, defaults to 14.0):
            Added to the log-likelihood of pseudo-queries, which is low because they are long; the sum is at most -1.
            MINDER's constant.
        query_weight (`float`, defaults to 1.0):
            Multiplies the weight of substrings all of whose tokens are in the query. The other ones are what the
            student makes of the query: the less it is to be trusted, the more the query's own words should count.

    Raises:
        ValueError: if a value is out of its range.
    """

    kind: str = field(
        default="log_odds",
        metadata={
            "help": "Weigh identifiers by log-odds against the corpus, or by log-likelihood.",
            "choices": _KINDS,
        },
    )
    smoothing: float = field(default=5.0, metadata={"help": "Added to corpus counts."})
    exponent: float = field(default=2.0, metadata={"help": "Power of the log-odds."})
    repetition: float = field(
        default=0.8,
        metadata={"help": "Share of an identifier's weight that is lost if all of its tokens are covered already."},
    )
    identifiers_per_passage: int = field(default=40, metadata={"help": "Identifiers of a passage used in training."})
    pseudo_query_bonus: float = field(
        default=14.0, metadata={"help": "Added to the log-likelihood of pseudo-queries."}
    )
    query_weight: float = field(
        default=1.0, metadata={"help": "Multiplies the weight of substrings that consist of the query's own tokens."}
    )

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise DGRValueError(f"kind={self.kind!r} is not a kind of score; use one of {', '.join(_KINDS)}.")
        if not 0.0 <= self.repetition <= 1.0:
            raise DGRValueError(f"repetition={self.repetition} must lie between 0 (no discount) and 1 (no credit).")
        for name in ("smoothing", "exponent", "identifiers_per_passage"):
            if not getattr(self, name) > 0:
                raise DGRValueError(f"{name}={getattr(self, name)} must be greater than 0.")
        for name in ("pseudo_query_bonus", "query_weight"):
            if not getattr(self, name) >= 0:
                raise DGRValueError(f"{name}={getattr(self, name)} must not be negative.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ScoringSettings":
        """The settings that `to_dict` wrote. Raises a `ValueError` on names it does not know."""
        check_names(cls, values, "scoring")
        return cls(**values)


def identifier_weights(
    log_likelihoods: torch.Tensor,
    counts: torch.Tensor,
    corpus_tokens: int,
    settings: ScoringSettings,
    is_pseudo_query: torch.Tensor | None = None,
    origins: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the weight of each identifier.

    w = max(0, logit(e^l) - logit(pi))^alpha with pi = (count + sigma) / (N + sigma); alpha is 1 for unigrams. What
    consists of the query's own words counts `settings.query_weight` times.

    Args:
        log_likelihoods (`torch.Tensor`, any shape, floating): l(i|q), natural logarithm, at most 0.
        counts (`torch.Tensor`, same shape, integer): Occurrences of each identifier in the corpus; 0 gives weight 0.
        corpus_tokens (`int`): N, all tokens of the corpus, separators included.
        settings ([`ScoringSettings`]): Smoothing sigma, exponent alpha, pseudo-query bonus.
        is_pseudo_query (`torch.Tensor`, same shape, bool, *optional*): Where the pseudo-query bonus applies.
        origins (`torch.Tensor`, same shape, integer, *optional*): Position of each one's origin in `ORIGINS`. By
            default all are generated.

    Returns:
        `torch.Tensor` (same shape, float32, or float64 for float64 input): Weights, differentiable in
        `log_likelihoods`. With `kind="log_likelihood"` they are the log-likelihoods.
    """
    dtype = torch.float64 if log_likelihoods.dtype == torch.float64 else torch.float32
    likelihoods = log_likelihoods.to(dtype)
    if settings.kind == "log_likelihood":
        return likelihoods
    if is_pseudo_query is not None:
        # A pseudo-query that is more probable than e^-1 keeps its likelihood.
        boosted = torch.maximum((likelihoods + settings.pseudo_query_bonus).clamp(max=-1.0), likelihoods)
        likelihoods = torch.where(is_pseudo_query, boosted, likelihoods)
    prior = torch.log((counts.to(dtype) + settings.smoothing) / (corpus_tokens + settings.smoothing))
    odds = _logit_of_log(likelihoods) - _logit_of_log(prior)
    positive = odds.clamp(min=0.0)
    weights = positive if settings.exponent == 1.0 else positive**settings.exponent
    if origins is not None:
        weights = torch.where(origins == ORIGINS.index("unigram"), positive, weights)
        if settings.query_weight != 1.0:
            weights = torch.where(origins == ORIGINS.index("query"), settings.query_weight * weights, weights)
    return torch.where(counts > 0, weights, torch.zeros_like(weights))


def _logit_of_log(log_probability: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) from log p, exact for small and for large p."""
    bounded = log_probability.clamp(max=_MAX_LOG_PROBABILITY)
    near_one = bounded > -math.log(2.0)
    # Each branch gets only values for which it is finite, so that neither puts a NaN into the gradient.
    small = torch.log1p(-torch.exp(torch.where(near_one, -1.0, bounded)))
    large = torch.log(-torch.expm1(torch.where(near_one, bounded, -1.0)))
    return bounded - torch.where(near_one, large, small)


def repetition_factors(identifiers: Sequence[Sequence[int]], repetition: float) -> list[float]:
    """Compute the discount of each identifier of a passage.

    rho_k = 1 - beta + beta * |set(g_k) minus C| / |set(g_k)|, where C is the set of tokens of the identifiers before.

    Args:
        identifiers (`Sequence[Sequence[int]]`): Ids of the identifiers, in the order in which they are credited.
        repetition (`float`): beta, from 0 to 1.

    Returns:
        `list[float]`: rho of each identifier.
    """
    covered: set[int] = set()
    factors = []
    for ids in identifiers:
        tokens = set(ids)
        new = len(tokens - covered) / len(tokens) if tokens else 1.0
        factors.append(1.0 - repetition + repetition * new)
        covered |= tokens
    return factors
