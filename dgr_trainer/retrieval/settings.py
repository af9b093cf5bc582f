"""Limits of a search: beams, lengths of identifiers, and the number of passages that are scored."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers.settings import check_names

_AT_LEAST_ONE = (
    "beam_size",
    "substring_length",
    "title_length",
    "pseudo_query_length",
    "docid_length",
    "max_occurrences",
    "max_passages",
    "query_ngram_words",
    "batch_size",
)
CONSTRAINT_DEVICES = ("auto", "host", "model")
_ANY_LENGTH = ("title_length", "pseudo_query_length", "docid_length")


@dataclass(frozen=True)
class SearchSettings:
    """Limits of a search.

    Args:
        beam_size (`int`, defaults to 15): Beams of each view. Every extension of a beam that the search considers is
            kept as an identifier.
        substring_length (`int`, defaults to 8): Longest substring of a passage that is generated, in tokens.
        title_length (`int`, *optional*):
            Longest title that is generated, in tokens, its closing marker included. By default any title of the index.
        pseudo_query_length (`int`, *optional*):
            Longest pseudo-query that is generated, in tokens, its closing marker included. By default any.
        docid_length (`int`, *optional*):
            Longest docid that is generated, in tokens, the end of sequence included. By default any.
        query_ngrams (`bool`, defaults to `True`):
            Whether words of the query that occur in the corpus are also identifiers (view `"substring"`).
        query_ngram_words (`int`, defaults to 3): Longest sequence of such words.
        unigrams (`int`, defaults to 5000):
            Number of single tokens, the most probable ones at the start of a substring, that add to the score of a
            passage (view `"substring"`); 0 for none.
        max_occurrences (`int`, defaults to 1500):
            Identifiers that occur more often are not used to find passages, only to score them.
        max_passages (`int`, defaults to 1500): Number of passages that are scored in full.
        batch_size (`int`, defaults to 20): Number of queries decoded together.
        constraint_device (`str`, defaults to `"auto"`):
            Where the index is asked which tokens may follow: `"model"`, a copy on the device of the model; `"host"`,
            the host; `"auto"`, the device if it is a GPU and the copy takes at most a quarter of its memory, and half
            of what is free. A copy has 12 bytes a token, or 2 if there is no room for these. The results are the same.
            With `lookahead` it is always the host.
        lookahead (`float`, defaults to 0.0):
            Passages that the words of the query point to are favoured by the beam search: the highest bonus of a
            hypothesis that occurs in one of them, in nats. It decides which hypotheses go on, not what they score. 3
            is what was measured with few beams; 0 for none. Needs `kind="log_odds"`, the view `"substring"` and
            `query_ngrams`.

    Most defaults are MINDER's (arXiv 2305.16675), which generates titles of up to 15 tokens and pseudo-queries of up
    to 30. A title, pseudo-query or docid that is longer than its limit is never found.
    """

    beam_size: int = field(default=15, metadata={"help": "Beams of each view."})
    substring_length: int = field(default=8, metadata={"help": "Longest substring, in tokens."})
    title_length: int | None = field(
        default=None, metadata={"help": "Longest title, in tokens; by default any title of the index."}
    )
    pseudo_query_length: int | None = field(
        default=None, metadata={"help": "Longest pseudo-query, in tokens; by default any."}
    )
    docid_length: int | None = field(default=None, metadata={"help": "Longest docid, in tokens; by default any."})
    query_ngrams: bool = field(
        default=True, metadata={"help": "Whether words of the query that occur in the corpus are identifiers too."}
    )
    query_ngram_words: int = field(default=3, metadata={"help": "Longest sequence of such words."})
    unigrams: int = field(
        default=5000, metadata={"help": "Number of single tokens that score passages on their own; 0 for none."}
    )
    max_occurrences: int = field(
        default=1500, metadata={"help": "Identifiers that occur more often score passages, but do not lead to any."}
    )
    max_passages: int = field(default=1500, metadata={"help": "Number of passages that are scored in full."})
    batch_size: int = field(default=20, metadata={"help": "Queries decoded at once."})
    constraint_device: str = field(
        default="auto",
        metadata={
            "help": "Where a search asks the index: on the host, on the model's device, or on that if it is a GPU.",
            "choices": list(CONSTRAINT_DEVICES),
        },
    )
    lookahead: float = field(
        default=0.0,
        metadata={
            "help": "How much the beam search favours passages that the words of the query point to, in nats; 0 for "
            "not at all."
        },
    )

    def __post_init__(self) -> None:
        if self.constraint_device not in CONSTRAINT_DEVICES:
            choices = ", ".join(map(repr, CONSTRAINT_DEVICES))
            raise DGRValueError(f"constraint_device={self.constraint_device!r} is none of {choices}.")
        for name in (*_AT_LEAST_ONE, "unigrams"):
            value, least = getattr(self, name), 0 if name == "unigrams" else 1
            if value is None and name in _ANY_LENGTH:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise DGRValueError(f"{name}={value!r} must be a whole number of at least {least}.")
        number = isinstance(self.lookahead, (int, float)) and not isinstance(self.lookahead, bool)
        if not number or not 0 <= self.lookahead < math.inf:
            raise DGRValueError(f"lookahead={self.lookahead!r} must be a number of at least 0.")
        if self.lookahead and not self.query_ngrams:
            raise DGRValueError(
                f"lookahead={self.lookahead:g} scores passages by the words of the query before the beam search, but "
                "query_ngrams=False leaves these out. Use query_ngrams=True, or lookahead=0."
            )

    def length(self, view: str) -> int | None:
        """Longest identifier of a view that is generated, in tokens; `None` for any."""
        length: int | None = getattr(self, f"{view}_length")
        return length

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SearchSettings":
        """The settings that `to_dict` wrote. Raises a `ValueError` on names it does not know."""
        check_names(cls, values, "search")
        return cls(**values)


def check_lookahead(settings: SearchSettings, scoring: ScoringSettings, views: Sequence[str]) -> None:
    """Refuse look-ahead where there is nothing to look ahead with.

    Raises:
        ValueError: if passages are scored by log-likelihood, or the view `"substring"` or the words of queries are
            missing.
    """
    if not settings.lookahead:
        return
    found = f"lookahead={settings.lookahead:g} scores passages by the words of the query before the beam search"
    if scoring.kind == "log_likelihood":
        raise DGRValueError(
            f"{found}, but kind='log_likelihood' scores a passage by its one identifier. Use lookahead=0 and more "
            "beams, or ScoringSettings(kind='log_odds')."
        )
    if "substring" not in views:
        raise DGRValueError(
            f"{found}, as identifiers of the view 'substring', but the views are {', '.join(views)}. Use lookahead=0, "
            "or index the corpus with this view, too."
        )


def read_settings(path: str | os.PathLike[str]) -> tuple[SearchSettings, ScoringSettings]:
    """Read the settings that `dgr tune` wrote, or those in a retriever's `retriever.json`.

    Args:
        path (`str` or `os.PathLike`): A JSON file with the objects `search` and `scoring`.

    Returns:
        `tuple[SearchSettings, ScoringSettings]`: the settings.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON, lacks one of the two, or has settings that this version does not know.
    """
    with input_errors(f"{os.fspath(path)} holds no settings", ValueError):
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict) or not all(isinstance(values.get(name), dict) for name in ("search", "scoring")):
        raise DGRValueError(
            f"{os.fspath(path)} holds no settings of a search: it needs the objects 'search' and 'scoring', which "
            "`dgr tune` writes."
        )
    return SearchSettings.from_dict(values["search"]), ScoringSettings.from_dict(values["scoring"])
