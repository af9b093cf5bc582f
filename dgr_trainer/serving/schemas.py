"""What the API answers, field by field; the request is in `api`, since its limits are settings."""

from __future__ import annotations

from pydantic import BaseModel, Field


class IdentifierAnswer(BaseModel):
    """An identifier that a passage contains."""

    view: str = Field(description="Its kind: title, substring, pseudo_query or docid.")
    text: str = Field(description="Its text.")
    count: int = Field(description="How often it occurs in the corpus.")
    score: float = Field(description="What it adds to the score of the passage.")


class OtherIdentifiers(BaseModel):
    """The identifiers of a passage that are not listed."""

    count: int
    score: float = Field(description="What they add to the score together.")


class TextPiece(BaseModel):
    """A piece of a text."""

    text: str
    identifiers: list[int] = Field(description="Positions, in the list of identifiers, of those that it belongs to.")


class MarkedPassage(BaseModel):
    """The texts of a passage in pieces, divided where identifiers start and end."""

    title: list[TextPiece]
    text: list[TextPiece]
    pseudo_queries: list[list[TextPiece]] = Field(description="Those in which an identifier occurs.")


class HitAnswer(BaseModel):
    """A passage that was found."""

    passage_id: str
    score: float = Field(description="Higher is better; comparable within a query.")
    title: str | None = Field(description="Its title; null without texts, or if they were not asked for.")
    text: str | None = Field(description="Its text; null without texts, or if they were not asked for.")
    identifiers: list[IdentifierAnswer] = Field(description="The best identifiers, the highest score first.")
    other_identifiers: OtherIdentifiers = Field(description="The identifiers that are not listed.")
    marked: MarkedPassage | None = Field(description="Where the listed identifiers stand, if asked for.")


class QueryAnswer(BaseModel):
    """What was found for a query."""

    query: str
    hits: list[HitAnswer] = Field(description="The passages, best first.")
    note: str | None = Field(description="Why there can be no hits, if that is known.")


class SearchAnswer(BaseModel):
    """What was found."""

    system: str = Field(description="Name of the system that searched.")
    seconds: float = Field(description="Time from the request to the answer.")
    results: list[QueryAnswer] = Field(description="One for each query, in their order.")


class PassageAnswer(BaseModel):
    """A passage of the corpus."""

    id: str
    title: str
    text: str
    pseudo_queries: list[str]
    docid: str | None


class HealthAnswer(BaseModel):
    """Whether the server answers searches."""

    ready: bool
    systems: dict[str, str] = Field(description="State of each system: loading, ready, failing, stuck or stopped.")


class SystemAnswer(BaseModel):
    """Something that the server searches with."""

    name: str
    kind: str = Field(description="retriever, run or teacher.")
    views: list[str] = Field(description="Views of its identifiers; empty until it is loaded.")
    texts: bool = Field(description="Whether its answers have titles and texts.")
    examples: list[str] = Field(description="Queries that it knows, the first ones of a run.")


class LimitsAnswer(BaseModel):
    """Limits of a request."""

    max_k: int
    max_queries: int
    max_query_length: int
    max_ids: int
    max_body_bytes: int


class InfoAnswer(BaseModel):
    """What this server is."""

    version: str
    systems: list[SystemAnswer]
    limits: LimitsAnswer


class ErrorAnswer(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="A sentence: what was found, and what to do.")
