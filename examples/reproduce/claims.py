"""Verdicts: whether the stored results support a claim, by paired tests over the questions of each corpus.

A claim compares a row with another one, or with a weighted sum of others ("closes half of the gap between A and B" is
"better than 0.5 A + 0.5 B"). For each corpus the values of a question are averaged over the seeds and compared. The
verdict follows from rules that were fixed before there were results:

- `better`: held where the difference is above 0 with p < 0.05 (paired randomisation test) and in every seed; did not
  hold where the 95 % interval of the difference excludes a gain of `least`; else undecided.
- `no better`, for controls: held where the interval excludes a gain of `least`; did not hold where the row is better
  as above; else undecided.
- `level`: held where the interval excludes a loss of `least`; did not hold where the row is worse, p < 0.05; else
  undecided.

Nothing held on fewer seeds than the claim asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.significance import confidence_interval, paired_test

CLAIMS = Path(__file__).with_name("claims.yaml")
HELD, DID_NOT, UNDECIDED = "held", "did not hold", "undecided"
RELATIONS = ("better", "no better", "level")

SeedValues = Mapping[str, Mapping[str, Sequence[float]]]
"""Values of the test questions, by seed and metric; the seed of a row without chance is `"None"`."""


@dataclass(frozen=True)
class Claim:
    """A claim about rows.

    Args:
        text (`str`): The claim in words.
        row (`str`): The row that it is about.
        than (`dict[str, float]`): What it is compared with: rows and their weights, which sum to 1.
        relation (`str`): `"better"`, `"no better"` or `"level"`.
        metrics (`list[str]`): It has to hold for each of these.
        corpora (`int`): It has to hold on so many corpora.
        of (`list[str]`, *optional*): The corpora that it is about; by default all.
        least (`float`): The smallest gain or loss that matters.
        seeds (`int`): Number of seeds without which it is at best undecided, unless nothing is random in its rows.
    """

    text: str
    row: str
    than: Mapping[str, float]
    relation: str = "better"
    metrics: Sequence[str] = ("ndcg@10",)
    corpora: int = 1
    of: Sequence[str] | None = None
    least: float = 0.01
    seeds: int = 3


@dataclass(frozen=True)
class Comparison:
    """A claim on one corpus with one metric.

    Args:
        corpus, metric (`str`): Which ones.
        difference (`float`): Mean difference over questions and seeds.
        low, high (`float`): Its 95 % bootstrap interval over questions.
        p_value (`float`): Of the paired randomisation test.
        by_seed (`list[float]`): The difference in each seed.
        verdict (`str`): `"held"`, `"did not hold"` or `"undecided"`.
    """

    corpus: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    by_seed: list[float]
    verdict: str


@dataclass(frozen=True)
class Verdict:
    """A claim's verdict over all corpora, with what it is made of."""

    claim: Claim
    verdict: str
    comparisons: list[Comparison]

    def corpora_with(self, verdict: str) -> list[str]:
        """The corpora with a verdict: held if it held for every metric, not if it did not for one of them."""
        return [corpus for corpus, of in _by_corpus(self.comparisons).items() if of == verdict]


def read_claims(path: Path = CLAIMS) -> list[Claim]:
    """Read claims from a YAML file.

    Raises:
        ValueError: if a relation is unknown, or weights do not sum to 1.
    """
    claims = []
    for values in yaml.safe_load(path.read_text(encoding="utf-8")):
        than = values.pop("than")
        claim = Claim(than={than: 1.0} if isinstance(than, str) else than, **values)
        if claim.relation not in RELATIONS:
            raise DGRValueError(f"{claim.text!r} has the relation {claim.relation!r}; use {', '.join(RELATIONS)}.")
        if abs(sum(claim.than.values()) - 1) > 1e-9:
            raise DGRValueError(f"{claim.text!r}: the weights {dict(claim.than)} do not sum to 1.")
        claims.append(claim)
    return claims


def judge(claim: Claim, rows: Mapping[str, Mapping[str, SeedValues]]) -> Verdict | None:
    """Compare a claim with results.

    Args:
        claim ([`Claim`]): The claim.
        rows (`Mapping[str, Mapping[str, SeedValues]]`): By corpus and row, the values of the test questions.

    Returns:
        [`Verdict`], or `None` if no corpus has all rows of the claim.
    """
    comparisons = []
    for corpus, of in rows.items():
        if corpus in (claim.of or [corpus]) and {claim.row, *claim.than} <= of.keys():
            comparisons += [_compare(claim, corpus, metric, of) for metric in claim.metrics]
    if not comparisons:
        return None
    counts = list(_by_corpus(comparisons).values())
    if counts.count(HELD) >= claim.corpora:
        verdict = HELD
    elif len(counts) >= claim.corpora and len(counts) - counts.count(DID_NOT) < claim.corpora:
        verdict = DID_NOT
    else:
        verdict = UNDECIDED
    return Verdict(claim, verdict, comparisons)


def differences(
    row: SeedValues, than: Mapping[str, float], others: Mapping[str, SeedValues], metric: str
) -> dict[str, np.ndarray]:
    """Differences of each question by seed, for the seeds that all rows have; a row without seeds serves for all."""
    parts = [(row, 1.0), *((others[name], -weight) for name, weight in than.items())]
    seeds = [set(of) - {"None"} for of, _ in parts]
    common = set.intersection(*(of for of in seeds if of)) if any(seeds) else {"None"}
    return {
        seed: sum(weight * np.asarray(of.get(seed, of.get("None"))[metric]) for of, weight in parts)  # type: ignore[index]
        for seed in sorted(common)
    }


def _compare(claim: Claim, corpus: str, metric: str, rows: Mapping[str, SeedValues]) -> Comparison:
    by_seed = differences(rows[claim.row], claim.than, rows, metric)
    if not by_seed:
        raise DGRValueError(f"{claim.text!r}: on {corpus} the rows have no seed in common.")
    mean = np.mean(list(by_seed.values()), axis=0)
    low, high = confidence_interval(mean)
    p_value = paired_test(mean, np.zeros_like(mean)).randomisation_p_value
    seeds = [float(values.mean()) for values in by_seed.values()]
    better = p_value < 0.05 and all(value > 0 for value in seeds)
    worse = p_value < 0.05 and float(mean.mean()) < 0
    held, did_not = {
        "better": (better, high < claim.least),
        "no better": (high < claim.least, better),
        "level": (low > -claim.least, worse),
    }[claim.relation]
    enough = len(by_seed) >= claim.seeds or by_seed.keys() == {"None"}
    verdict = HELD if held and enough else DID_NOT if did_not else UNDECIDED
    return Comparison(corpus, metric, float(mean.mean()), low, high, p_value, seeds, verdict)


def _by_corpus(comparisons: Sequence[Comparison]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for comparison in comparisons:
        found.setdefault(comparison.corpus, []).append(comparison.verdict)
    return {corpus: _together(verdicts) for corpus, verdicts in found.items()}


def _together(verdicts: Sequence[str]) -> str:
    if all(verdict == HELD for verdict in verdicts):
        return HELD
    return DID_NOT if DID_NOT in verdicts else UNDECIDED


def values_of(results: Mapping[str, Any], student: str) -> dict[str, dict[str, SeedValues]]:
    """By corpus and row the values of a student, and of the teachers, which have none."""
    return {corpus: {**of["values"].get("", {}), **of["values"].get(student, {})} for corpus, of in results.items()}
