"""Look-ahead: passages that the words of a query point to, scored before the beam search and favoured by it.

The student's scores of the query's words and of single tokens at the start of a substring are known before the search
generates anything. They score passages as all identifiers do after it. In the search, a hypothesis that occurs in one
of the best of these passages gets a bonus, which only decides which hypotheses go on: the best of a query gives
`SearchSettings.lookahead`, the others less in proportion to their scores above that of the first one left out. So the
search stays near passages that are likely, where a few beams would lose them at their first tokens.
"""

from __future__ import annotations

import numpy as np

from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.outlook import PromisingPassages
from dgr_trainer.retrieval.passage_scoring import PassageScorer
from dgr_trainer.retrieval.query_identifiers import QueryIdentifiers
from dgr_trainer.retrieval.settings import SearchSettings

# The values that were measured (docs/search-at-scale.md): passages of a query whose hypotheses get a bonus, and those
# that are scored in full to find them.
PASSAGES = 50
SCORED = 300


def promising_passages(
    index: FMIndex,
    identifiers: Identifiers,
    early: QueryIdentifiers,
    settings: SearchSettings,
    scoring: ScoringSettings,
) -> PromisingPassages:
    """Find the passages that a search looks ahead to.

    Args:
        index ([`FMIndex`]): What the query is searched in.
        identifiers ([`Identifiers`]): The prefixes of the views.
        early ([`QueryIdentifiers`]): What is known of the query before the search, weighted.
        settings ([`SearchSettings`]): The highest bonus, and which identifiers lead to passages.
        scoring ([`ScoringSettings`]): How passages are scored.
    """
    scorer = PassageScorer(index, identifiers, early.weighted, early.unigram_weights, scoring.repetition)
    positions = scorer.find_passages(settings.max_occurrences, SCORED)
    scores = scorer.score(positions)
    best = np.argsort(-scores, kind="stable")[: PASSAGES + 1]
    positions, scores = positions[best[:PASSAGES]], scores[best]
    # Passages that the words do not lead to have no score.
    floor = scores[PASSAGES] if len(scores) > PASSAGES else 0.0
    scores = scores[:PASSAGES]
    spread = scores[0] - floor if len(scores) else 0.0
    bonuses = settings.lookahead * (scores - floor) / spread if spread > 0 else np.zeros(len(scores))
    return PromisingPassages(bonuses.astype(np.float32), *index.extract_batch(positions))
