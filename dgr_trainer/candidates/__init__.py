"""Candidates: the passages that the student found for each query, with the identifiers that led to each passage.

The full method trains on them: the model scores a candidate's identifiers again in each training step, and their
corpus counts turn the log-likelihoods into log-odds. All data is in flat columns (`rows`) of a memory-mapped
`datasets.Dataset`, so that a hundred thousand queries need little memory and some candidates of a query can be read
without decoding the others.
"""

from dgr_trainer.candidates.candidates import META, Candidates
from dgr_trainer.candidates.matched import Candidate, MatchedIdentifier
from dgr_trainer.candidates.rows import ROW_SCHEMA, IdentifierColumns, identifier_columns, pack, row_of

__all__ = [
    "META",
    "ROW_SCHEMA",
    "Candidate",
    "Candidates",
    "IdentifierColumns",
    "MatchedIdentifier",
    "identifier_columns",
    "pack",
    "row_of",
]
