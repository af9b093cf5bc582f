"""Options that several subcommands share."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class IdentifierOptions:
    """Options of `IdentifierSettings`; what is not given keeps the library's default."""

    _argument_group_name = "identifiers"

    views: list[str] | None = field(
        default=None,
        metadata={
            "help": "Kinds of identifiers: title, substring, pseudo_query, docid. (default: the first three)",
            "choices": ["title", "substring", "pseudo_query", "docid"],
        },
    )
    title_end: str | None = field(default=None, metadata={"help": "Marker that closes a title. (default: @@)"})
    query_start: str | None = field(default=None, metadata={"help": "Marker before a pseudo-query. (default: ||)"})
    query_end: str | None = field(default=None, metadata={"help": "Marker after a pseudo-query. (default: @@)"})
    docid_start: str | None = field(default=None, metadata={"help": "Marker before a docid. (default: ##)"})
    title_prompt: str | None = field(
        default=None, metadata={"help": "Prompt for titles. (default: '{query} || title || +')"}
    )
    substring_prompt: str | None = field(
        default=None, metadata={"help": "Prompt for substrings. (default: '{query} || body || +')"}
    )
    pseudo_query_prompt: str | None = field(
        default=None, metadata={"help": "Prompt for pseudo-queries. (default: '{query} || query || +')"}
    )
    docid_prompt: str | None = field(default=None, metadata={"help": "Prompt for docids. (default: '{query}')"})
    max_query_length: int | None = field(
        default=None, metadata={"help": "Longest prompt in tokens; longer queries are cut. (default: 64)"}
    )

    def given(self) -> dict[str, Any]:
        """Arguments of `IdentifierSettings` for the options that were given."""
        values = _given(self)
        prompts = {name.removesuffix("_prompt"): values.pop(name) for name in list(values) if name.endswith("_prompt")}
        if "views" in values:
            values["views"] = tuple(values["views"])
        return values | ({"prompts": prompts} if prompts else {})


@dataclass
class SearchOptions:
    """Options of `SearchSettings`; what is not given is as it was saved with the retriever."""

    _argument_group_name = "search (by default as saved with the retriever)"

    beam_size: int | None = field(default=None, metadata={"help": "Beams of each view."})
    substring_length: int | None = field(default=None, metadata={"help": "Longest substring, in tokens."})
    title_length: int | None = field(default=None, metadata={"help": "Longest title, in tokens."})
    pseudo_query_length: int | None = field(default=None, metadata={"help": "Longest pseudo-query, in tokens."})
    docid_length: int | None = field(default=None, metadata={"help": "Longest docid, in tokens."})
    query_ngrams: bool | None = field(
        default=None, metadata={"help": "Whether words of the query that occur in the corpus are identifiers too."}
    )
    query_ngram_words: int | None = field(default=None, metadata={"help": "Longest of these, in words."})
    unigrams: int | None = field(
        default=None, metadata={"help": "How many single tokens score passages by their own; 0 for none."}
    )
    max_occurrences: int | None = field(
        default=None, metadata={"help": "An identifier that occurs more often does not lead to passages."}
    )
    max_passages: int | None = field(default=None, metadata={"help": "Passages that are scored in full."})
    batch_size: int | None = field(default=None, metadata={"help": "Queries decoded at once."})

    def given(self) -> dict[str, Any]:
        """Arguments of `SearchSettings` for the options that were given."""
        return _given(self)


@dataclass
class ScoringOptions:
    """Options of `ScoringSettings`; what is not given is as saved with the retriever, or the library's default."""

    _argument_group_name = "scoring of passages (by default as saved with the retriever, or the value in brackets)"

    scoring_smoothing: float | None = field(default=None, metadata={"help": "Added to corpus counts. (5)"})
    scoring_exponent: float | None = field(default=None, metadata={"help": "Power of the log-odds. (2)"})
    scoring_repetition: float | None = field(
        default=None, metadata={"help": "Share of an identifier's weight lost where its tokens are covered. (0.8)"}
    )
    scoring_identifiers_per_passage: int | None = field(
        default=None, metadata={"help": "Identifiers of a passage used in training. (40)"}
    )
    scoring_pseudo_query_bonus: float | None = field(
        default=None, metadata={"help": "Added to the log-likelihood of pseudo-queries. (14)"}
    )

    def given(self) -> dict[str, Any]:
        """Arguments of `ScoringSettings` for the options that were given."""
        return {name.removeprefix("scoring_"): value for name, value in _given(self).items()}


@dataclass
class DeviceOptions:
    """Where a retriever runs."""

    _argument_group_name = "device"

    device: str | None = field(
        default=None, metadata={"help": "Such as cpu or cuda:1. (default: a GPU if there is one)"}
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "Precision of the model.", "choices": ["float32", "bfloat16", "float16"]},
    )


@dataclass
class PairOptions:
    """Options of `generation_pairs`."""

    _argument_group_name = "generation pairs"

    titles_per_query: int = field(
        default=3, metadata={"help": "Title examples a query and relevant passage; docids likewise."}
    )
    substrings_per_query: int = field(default=10, metadata={"help": "Substrings a query and relevant passage."})
    pseudo_queries_per_query: int = field(
        default=5, metadata={"help": "Pseudo-queries a query and relevant passage, at most those that there are."}
    )
    samples_per_passage: int = field(
        default=1, metadata={"help": "Examples of every view from each passage alone; 0 for none."}
    )
    substring_words: int = field(default=10, metadata={"help": "Length of a substring in words."})
    substring_temperature: float = field(
        default=1.0, metadata={"help": "How evenly substrings are drawn from a passage; higher is more even."}
    )

    def arguments(self) -> dict[str, Any]:
        """Arguments of `generation_pairs`."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return values | {"temperature": values.pop("substring_temperature")}


def _given(options: Any) -> dict[str, Any]:
    values = {one.name: getattr(options, one.name) for one in fields(options)}
    return {name: value for name, value in values.items() if value is not None}
