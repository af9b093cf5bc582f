"""The views to use, and the markers and prompts that distinguish them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from dgr_trainer.errors import DGRValueError

View = Literal["title", "substring", "pseudo_query", "docid"]
VIEWS: tuple[str, ...] = get_args(View)

_DEFAULT_PROMPTS = {
    "title": "{query} || title || +",
    "substring": "{query} || body || +",
    "pseudo_query": "{query} || query || +",
    "docid": "{query}",
}
# Markers that must differ, the views that use them, and what would be mistaken. A title and a pseudo-query may end
# alike: a title begins where the passage does, a pseudo-query behind its own marker.
_MISTAKEN: dict[tuple[str, str], tuple[set[str], str]] = {
    ("query_start", "query_end"): (set(), "a pseudo-query would look like the text between two of them"),
    ("title_end", "query_start"): ({"title", "pseudo_query"}, "what follows a title would look like a pseudo-query"),
    ("title_end", "docid_start"): ({"title", "docid"}, "what follows a title would look like a docid"),
    ("query_start", "docid_start"): ({"pseudo_query", "docid"}, "a docid would look like a pseudo-query"),
    ("query_end", "docid_start"): ({"pseudo_query", "docid"}, "what follows a pseudo-query would look like a docid"),
}


@dataclass(frozen=True)
class IdentifierSettings:
    """The views to use, and the markers and prompts that distinguish them.

    Args:
        views (`tuple[str, ...]`, defaults to `("title", "substring", "pseudo_query")`):
            Views to index and generate: any of `"title"`, `"substring"`, `"pseudo_query"` and `"docid"`.
        title_end (`str`, defaults to `"@@"`): Closes a title.
        query_start (`str`, defaults to `"||"`): Opens a pseudo-query.
        query_end (`str`, defaults to `"@@"`): Closes a pseudo-query.
        docid_start (`str`, *optional*):
            Opens a docid in the index. The end-of-sequence token closes it, as in ordinary seq2seq training. By
            default `"##"` or, if docids are the only view, nothing (`""`): a docid then stands alone and may hold any
            text.
        prompts (`Mapping[str, str]`, *optional*):
            What the student reads for each view, with `{query}` for the query. Views that are not given keep their
            default.
        chat (`bool`, defaults to `False`):
            Whether the student is a chat model: its prompts are then messages of a user, in the chat template of the
            tokenizer, and an identifier is the answer.
        closed_prompts (`bool`, defaults to `True`):
            Whether a tokenizer that puts special tokens at the end of a text, such as T5's `</s>`, does so with
            prompts. An encoder expects them; for a decoder-only model the prompt would end there, so it needs `False`.
            Has no effect on other tokenizers and on `chat`.
        max_query_length (`int`, defaults to 64):
            Longest prompt in tokens, special tokens and chat template included. Longer queries lose their last words;
            what stands around the query is kept.

    Only views that are used need their markers. The defaults of the first three views are those of MINDER.

    Raises:
        ValueError: if a view is unknown or repeated, a marker is empty, two markers are equal by which one part of a
            passage would be mistaken for another (only `title_end` and `query_end` may be equal), a prompt does not
            contain `{query}` once, `chat` or `closed_prompts` is no `bool`, or `max_query_length` is below 1.
    """

    views: tuple[str, ...] = field(
        default=("title", "substring", "pseudo_query"), metadata={"help": "Kinds of identifiers.", "choices": VIEWS}
    )
    title_end: str = field(default="@@", metadata={"help": "Marker that closes a title."})
    query_start: str = field(default="||", metadata={"help": "Marker before a pseudo-query."})
    query_end: str = field(default="@@", metadata={"help": "Marker after a pseudo-query."})
    docid_start: str | None = field(
        default=None, metadata={"help": "Marker before a docid; by default ##, or none if docids are the only view."}
    )
    prompts: Mapping[str, str] = field(default_factory=dict, metadata={"help": "Prompt of each view."})
    chat: bool = field(
        default=False, metadata={"help": "Whether prompts are messages in the tokenizer's chat template."}
    )
    closed_prompts: bool = field(
        default=True,
        metadata={
            "help": "Whether prompts keep the special tokens that the tokenizer puts at their end; not for "
            "decoder-only models."
        },
    )
    max_query_length: int = field(default=64, metadata={"help": "Longest prompt in tokens; longer queries are cut."})

    def __post_init__(self) -> None:
        views = (self.views,) if isinstance(self.views, str) else tuple(self.views)
        unknown = [view for view in views if view not in VIEWS] + [view for view in self.prompts if view not in VIEWS]
        if unknown or not views or len(set(views)) != len(views):
            raise DGRValueError(
                f"views must be one or more of {', '.join(VIEWS)}, each once; got views={list(views)} and prompts for "
                f"{sorted(self.prompts)}."
            )
        only_docids = views == ("docid",)
        docid_start = ("" if only_docids else "##") if self.docid_start is None else self.docid_start
        for name in ("title_end", "query_start", "query_end", "docid_start"):
            text = docid_start if name == "docid_start" else getattr(self, name)
            if not text.strip() and (name != "docid_start" or text or not only_docids):
                raise DGRValueError(
                    f"{name} is empty: a marker needs at least one visible character, for example '@@'."
                )
        markers = {"title_end": self.title_end, "query_start": self.query_start, "query_end": self.query_end}
        markers["docid_start"] = docid_start
        for (one, other), (used, would_be) in _MISTAKEN.items():
            if used <= set(views) and markers[one].split() == markers[other].split():
                raise DGRValueError(
                    f"{one} and {other} are both {markers[one]!r}, so {would_be}. Use two different markers."
                )
        for view, prompt in self.prompts.items():
            if prompt.count("{query}") != 1:
                raise DGRValueError(f"The prompt of view {view!r} must contain '{{query}}' once; got {prompt!r}.")
        for name in ("chat", "closed_prompts"):
            if not isinstance(getattr(self, name), bool):
                raise DGRValueError(f"{name}={getattr(self, name)!r} must be True or False.")
        if not isinstance(self.max_query_length, int) or self.max_query_length < 1:
            raise DGRValueError(f"max_query_length={self.max_query_length!r} must be a whole number of at least 1.")
        object.__setattr__(self, "views", views)
        object.__setattr__(self, "docid_start", docid_start)
        object.__setattr__(self, "prompts", {**_DEFAULT_PROMPTS, **self.prompts})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "views": list(self.views)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "IdentifierSettings":
        """The settings that `to_dict` wrote. Raises a `ValueError` on names it does not know."""
        check_names(cls, values, "identifier")
        return cls(**{**values, "views": tuple(values.get("views", cls.views))})


def check_names(settings: type[Any], values: Mapping[str, Any], kind: str) -> None:
    """Check that saved settings have no names that this version does not know.

    Args:
        settings (`type`): The dataclass of the settings.
        values (`Mapping[str, Any]`): What was saved.
        kind (`str`): What the settings are of, for the error.

    Raises:
        ValueError: if a name is unknown.
    """
    unknown = sorted(set(values) - {field.name for field in fields(settings)})
    if unknown:
        raise DGRValueError(f"Unknown {kind} settings: {', '.join(unknown)}. Was this written by a newer version?")
