"""Views of a passage: the token sequences that identify it, and the prompt that asks a model for each kind of them.

Only this module knows about markers, special tokens and the leading-space rules of tokenizers. The layout of a passage
is

    title TITLE_END body (QUERY_START pseudo-query QUERY_END)* [DOCID_START docid] SEPARATOR

and an identifier is a pair (view, ids): the ids that the model generates under the view's prompt, closing marker
included. In the index it is the pattern `prefix(view) + ids`. Strings are tokenised only once, so an identifier is
the same sequence of ids in the corpus, in training and in a search.

Multi-view identifiers follow MINDER (Li et al., 2023, arXiv 2305.16675) on SEAL (Bevilacqua et al., 2022, arXiv
2204.10628).
"""

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError

View = Literal["title", "substring", "pseudo_query", "docid"]
VIEWS: tuple[str, ...] = get_args(View)

_DEFAULT_PROMPTS = {
    "title": "{query} || title || +",
    "substring": "{query} || body || +",
    "pseudo_query": "{query} || query || +",
    "docid": "{query}",
}
# Words, digits, punctuation and scripts that tokenizers with equal vocabularies but different rules split differently.
_FINGERPRINT_PROBES = (
    "The QUICK brown-fox's 1,234.5 jumps;  over\tthe lazy dog.",
    " Füße, naïve café, ﬁne ½ ２０２６",
    "コーパス 检索 مستند поиск 🔎 @@ || ##",
)


@dataclass(frozen=True)
class IdentifierSettings:
    """The views to use, and the markers and prompts that distinguish them.

    Args:
        views (`tuple[str, ...]`, defaults to `("title", "substring", "pseudo_query")`):
            Views to index and generate: any of `"title"`, `"substring"`, `"pseudo_query"` and `"docid"`.
        title_end (`str`, defaults to `"@@"`): Closes a title.
        query_start (`str`, defaults to `"||"`): Opens a pseudo-query.
        query_end (`str`, defaults to `"@@"`): Closes a pseudo-query.
        docid_start (`str`, defaults to `"##"`):
            Opens a docid in the index. The end-of-sequence token closes it, as in ordinary seq2seq training.
        prompts (`Mapping[str, str]`, *optional*):
            Encoder input of each view, with `{query}` for the query. Views that are not given keep their default.
        max_query_length (`int`, defaults to 64):
            Longest prompt in tokens, special tokens included. Longer queries lose their last words; the marker after
            the query is kept.

    The defaults of the first three views are those of MINDER.

    Raises:
        ValueError: if a view is unknown or repeated, a marker is empty, the two markers of pseudo-queries are equal,
            or a prompt does not contain `{query}` once.
    """

    views: tuple[str, ...] = field(
        default=("title", "substring", "pseudo_query"), metadata={"help": "Kinds of identifiers.", "choices": VIEWS}
    )
    title_end: str = field(default="@@", metadata={"help": "Marker that closes a title."})
    query_start: str = field(default="||", metadata={"help": "Marker before a pseudo-query."})
    query_end: str = field(default="@@", metadata={"help": "Marker after a pseudo-query."})
    docid_start: str = field(default="##", metadata={"help": "Marker before a docid."})
    prompts: Mapping[str, str] = field(default_factory=dict, metadata={"help": "Prompt of each view."})
    max_query_length: int = field(default=64, metadata={"help": "Longest prompt in tokens; longer queries are cut."})

    def __post_init__(self) -> None:
        views = (self.views,) if isinstance(self.views, str) else tuple(self.views)
        unknown = [view for view in views if view not in VIEWS] + [view for view in self.prompts if view not in VIEWS]
        if unknown or not views or len(set(views)) != len(views):
            raise DGRValueError(
                f"views must be one or more of {', '.join(VIEWS)}, each once; got views={list(views)} and prompts for "
                f"{sorted(self.prompts)}."
            )
        for name in ("title_end", "query_start", "query_end", "docid_start"):
            if not getattr(self, name).strip():
                raise DGRValueError(
                    f"{name} is empty: a marker needs at least one visible character, for example '@@'."
                )
        if len(set(map(str.strip, (self.query_start, self.query_end)))) == 1:
            raise DGRValueError(
                f"query_start and query_end are both {self.query_start!r}, so a pseudo-query would look like the "
                "text between two of them. Use two different markers."
            )
        for view, prompt in self.prompts.items():
            if prompt.count("{query}") != 1:
                raise DGRValueError(f"The prompt of view {view!r} must contain '{{query}}' once; got {prompt!r}.")
        object.__setattr__(self, "views", views)
        object.__setattr__(self, "prompts", {**_DEFAULT_PROMPTS, **self.prompts})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "views": list(self.views)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "IdentifierSettings":
        """The settings that `to_dict` wrote. Raises a `ValueError` on names it does not know."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise DGRValueError(
                f"Unknown identifier settings: {', '.join(unknown)}. Was this written by a newer version?"
            )
        return cls(**{**values, "views": tuple(values.get("views", cls.views))})


class PassageSegments(NamedTuple):
    """Token ids of a passage's parts, without markers."""

    title: list[int]
    body: list[int]
    pseudo_queries: list[list[int]]
    docid: list[int]


class Identifiers:
    """Token-level identifiers of passages and prompts of queries, for one tokenizer.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The student's tokenizer, of any family.
        settings ([`IdentifierSettings`], *optional*): Views, markers and prompts.

    Raises:
        ValueError: if the tokenizer has no token that can end a sequence, or turns a marker into unknown tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: IdentifierSettings | None = None) -> None:
        self.tokenizer = tokenizer
        # A fast tokenizer keeps truncation and padding as a state: with those of another thread, ids would be cut.
        self._own_tokenizer = copy.deepcopy(tokenizer)
        self.settings = settings or IdentifierSettings()
        self.views = self.settings.views
        self.vocab_size = len(tokenizer)
        self.eos_token_id = self._ending_token()
        # Ids that represent no text. The end of sequence is not among them: it closes docids.
        specials = ("bos", "pad", "unk", "mask", "cls", "sep")
        ids = {getattr(tokenizer, f"{name}_token_id", None) for name in specials}
        self.forbidden_token_ids = frozenset(ids - {None, self.eos_token_id})
        self._space = self._leading_space()
        self._title_end = self._marker("title_end")
        self._query_start = self._marker("query_start")
        self._query_end = self._marker("query_end")
        self._docid_start = self._marker("docid_start")
        self._fingerprint: str | None = None

    def _ending_token(self) -> int:
        for name in ("eos_token_id", "sep_token_id"):
            token: int | None = getattr(self.tokenizer, name, None)
            if token is not None:
                return token
        raise DGRValueError(
            f"{type(self.tokenizer).__name__} has neither an eos_token nor a sep_token, so nothing can end a sequence."
            " Add one, for example with tokenizer.add_special_tokens({'eos_token': '</s>'}), and resize the model's "
            "embeddings."
        )

    def _leading_space(self) -> str:
        """What to prepend to a text so that its first word gets the ids that it has in the middle of a text."""
        for space in ("", " "):
            once, twice = self._tokenise([f"{space}code", f"{space}code code"])
            if twice == once + once:
                return space
        return ""

    def _marker(self, name: str) -> tuple[int, ...]:
        text = getattr(self.settings, name)
        ids = tuple(self.encode(text))
        if not ids or self.tokenizer.unk_token_id in ids:
            raise DGRValueError(
                f"The tokenizer turns the marker {name}={text!r} into {list(ids)}, which holds unknown tokens or "
                "nothing. Choose a marker in its vocabulary (IdentifierSettings) or add one with tokenizer.add_tokens."
            )
        return ids

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and of some tokenised probe texts; the same after saving and loading."""
        if self._fingerprint is None:
            probes = self._tokenise(list(_FINGERPRINT_PROBES))
            content = json.dumps([sorted(self.tokenizer.get_vocab().items()), probes], ensure_ascii=True)
            self._fingerprint = hashlib.sha256(content.encode()).hexdigest()
        return self._fingerprint

    # Passages

    def encode(self, text: str) -> list[int]:
        """Ids of a text without special tokens; its words get the ids that they have inside a longer text."""
        return self._encode_texts([text])[0]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, without surrounding space."""
        return str(self.tokenizer.decode(list(map(int, ids)), clean_up_tokenization_spaces=False)).strip()

    def text(self, view: str, ids: Sequence[int]) -> str:
        """Text of an identifier, without its closing marker."""
        end = self.end(view)
        ids = tuple(map(int, ids))
        return self.decode(ids[: len(ids) - len(end)] if end and ids[-len(end) :] == end else ids)

    def word_starts(self, text: str, ids: Sequence[int]) -> list[int]:
        """Positions in the ids of a text at which its words (separated by whitespace) start.

        If the tokenizer joins words into tokens, every position is returned.

        Args:
            text (`str`): A text.
            ids (`Sequence[int]`): Its ids, from `encode_segments`.

        Returns:
            `list[int]`: positions, ascending; the ids between two of them are whole words.
        """
        words = [self._without_markers(ids) for ids in self._encode_texts(text.split())]
        starts = [0]
        for word in words[:-1]:
            starts.append(starts[-1] + len(word))
        joined = [token for word in words for token in word]
        # A word without tokens (a lone control character) starts nothing.
        return sorted(set(starts)) if joined == list(ids) else list(range(len(ids)))

    def encode_segments(self, passages: Sequence[Passage]) -> list[PassageSegments]:
        """Ids of each passage's title, body, pseudo-queries and docid; parts that no view uses are empty."""
        texts: list[str] = []
        for passage in passages:
            texts += [passage.title, passage.text, *passage.pseudo_queries]
        encoded = iter([self._without_markers(ids) for ids in self._encode_texts(texts)])
        # A docid does not occur inside a text, so it is tokenised like an ordinary seq2seq target.
        docids = self._tokenise([passage.id if passage.docid is None else passage.docid for passage in passages])
        segments = []
        for passage, docid in zip(passages, docids, strict=True):
            title, body = next(encoded), next(encoded)
            pseudo_queries = [ids for ids in (next(encoded) for _ in passage.pseudo_queries) if ids]
            segments.append(
                PassageSegments(
                    title if "title" in self.views else [],
                    body if "substring" in self.views else [],
                    pseudo_queries if "pseudo_query" in self.views else [],
                    docid if "docid" in self.views else [],
                )
            )
        return segments

    def encode_passages(self, passages: Sequence[Passage]) -> list[list[int]]:
        """Ids of whole passages as the index holds them, without the separator."""
        sequences = []
        for segments in self.encode_segments(passages):
            ids = [*segments.title, *self._title_end] if "title" in self.views else []
            ids += segments.body
            for pseudo_query in segments.pseudo_queries:
                ids += [*self._query_start, *pseudo_query, *self._query_end]
            if segments.docid:
                ids += [*self._docid_start, *segments.docid]
            sequences.append(ids)
        return sequences

    def encode_passage(self, passage: Passage) -> list[int]:
        """Ids of one whole passage; see `encode_passages`."""
        return self.encode_passages([passage])[0]

    # Views

    def prefix(self, view: str) -> tuple[int, ...]:
        """Ids that precede an identifier of a view in the index; they are neither generated nor scored."""
        prefixes = {"title": (self.eos_token_id,), "pseudo_query": self._query_start, "docid": self._docid_start}
        return prefixes.get(self._known(view), ())

    def end(self, view: str) -> tuple[int, ...]:
        """Ids that close an identifier of a view, generated and scored; empty for substrings."""
        ends = {"title": self._title_end, "pseudo_query": self._query_end, "docid": (self.eos_token_id,)}
        return ends.get(self._known(view), ())

    def pattern(self, view: str, ids: Sequence[int]) -> tuple[int, ...]:
        """The sequence of ids that an identifier is in the index."""
        return self.prefix(view) + tuple(ids)

    def target(self, view: str, segment: Sequence[int]) -> tuple[int, ...]:
        """The identifier of a segment of a passage (a title, a span of the body, ...) in a view."""
        return tuple(segment) + self.end(view)

    def prompt(self, query: str, view: str) -> str:
        """Encoder input that asks for identifiers of a view."""
        text = self.settings.prompts[self._known(view)].replace("{query}", " ".join(query.split()))
        return text if view == "docid" else self._space + text

    def encode_prompts(self, queries: Sequence[str], view: str) -> list[list[int]]:
        """Ids of the prompts of many queries, with the tokenizer's special tokens.

        A prompt longer than `max_query_length` loses the last words of its query, but keeps the marker after it.

        Raises:
            ValueError: if that marker alone is longer than `max_query_length`.
        """
        limit = self.settings.max_query_length
        if not queries:
            return []
        *prompts, empty = self._tokenise([self.prompt(q, view) for q in [*queries, ""]], specials=True)
        cut = []
        for ids in prompts:
            if len(ids) > limit:
                tail = _common_suffix_length(ids, empty)
                if tail >= limit:
                    raise DGRValueError(
                        f"max_query_length={limit} leaves no room for a query: the prompt of view {view!r} ends in a "
                        f"marker of {tail} tokens. Raise max_query_length or shorten the prompt."
                    )
                ids = ids[: limit - tail] + ids[len(ids) - tail :]
            cut.append(ids)
        return cut

    # Tokenising

    def _known(self, view: str) -> str:
        if view not in VIEWS:
            raise DGRValueError(f"{view!r} is not a view; the views are {', '.join(VIEWS)}.")
        return view

    def _encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        texts = [" ".join(text.split()) for text in texts]
        return self._tokenise([self._space + text if text else "" for text in texts])

    def _tokenise(self, texts: list[str], specials: bool = False) -> list[list[int]]:
        if not texts:
            return []
        encoded = self._own_tokenizer(
            texts, add_special_tokens=specials, truncation=False, padding=False, verbose=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _without_markers(self, ids: list[int]) -> list[int]:
        """Remove tokens from ids until no marker occurs in them, not even one completed by a marker that follows."""
        markers = [self._title_end, self._query_start, self._query_end]
        if "docid" in self.views:
            markers.append(self._docid_start)
        if not any(marker[0] in ids for marker in markers):
            return ids
        ids = list(ids)
        start = 0
        while start < len(ids):
            for marker in markers:
                # A marker may extend past the end: "@" followed by the marker "@@" would close a title too early.
                if tuple(ids[start : start + len(marker)]) == marker[: len(ids) - start]:
                    del ids[start]
                    start = max(0, start - max(map(len, markers)))
                    break
            else:
                start += 1
        return ids


def _common_suffix_length(a: Sequence[int], b: Sequence[int]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[-1 - length] == b[-1 - length]:
        length += 1
    return length
