"""Views of a passage: the token sequences that identify it, and the prompt that asks a model for each kind of them.

The layout of a passage is

    title TITLE_END body (QUERY_START pseudo-query QUERY_END)* [DOCID_START docid] SEPARATOR

without the parts that no view uses, and `docid SEPARATOR` if docids are the only view. An identifier is a pair (view,
ids): the ids that the model generates under the view's prompt, closing marker included. In the index it is the pattern
`prefix(view) + ids`. Strings are tokenised only here, so an identifier is the same sequence of ids in the corpus, in
training and in a search. Titles, bodies and pseudo-queries lose the markers in them, a docid beside other views must
hold none, and no text holds a special token.

Multi-view identifiers follow MINDER (Li et al., 2023, arXiv 2305.16675) on SEAL (Bevilacqua et al., 2022, arXiv
2204.10628).
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers.markers import Markers, docid_of
from dgr_trainer.identifiers.prompts import Prompts, known_view
from dgr_trainer.identifiers.settings import IdentifierSettings
from dgr_trainer.identifiers.text_encoder import TextEncoder
from dgr_trainer.identifiers.words import Words, is_unspaced, split_words

# Words, digits, punctuation and scripts that tokenizers with equal vocabularies but different rules split differently.
_FINGERPRINT_PROBES = (
    "The QUICK brown-fox's 1,234.5 jumps;  over\tthe lazy dog.",
    " Füße, naïve café, ﬁne ½ ２０２６",
    "コーパス 检索 مستند поиск 🔎 @@ || ##",
)


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
        ValueError: if the tokenizer has no token that can end a sequence, turns the marker of a view into unknown
            or special tokens, or has no chat template for prompts that are to be messages.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: IdentifierSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings or IdentifierSettings()
        self.views = self.settings.views
        self.vocab_size = len(tokenizer)
        self.eos_token_id = self._ending_token()
        self._encoder = TextEncoder(tokenizer)
        # Ids that represent no text. The end of sequence is not among them: it closes docids.
        self.forbidden_token_ids = self._encoder.special.ids - {self.eos_token_id}
        self._markers = Markers(self.settings, self._encoder)
        self._prompts = Prompts(self.settings, self._encoder)
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

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and of some tokenised probe texts; the same after saving and loading."""
        if self._fingerprint is None:
            probes = self._encoder.raw(list(_FINGERPRINT_PROBES))
            content = json.dumps([sorted(self.tokenizer.get_vocab().items()), probes], ensure_ascii=True)
            self._fingerprint = hashlib.sha256(content.encode()).hexdigest()
        return self._fingerprint

    # Passages

    def encode(self, text: str) -> list[int]:
        """Ids of a text without special tokens; its words get the ids that they have inside a longer text."""
        return self._encoder.encode([text])[0]

    def encode_substrings(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts as they stand in the body of a passage, after a space and without markers."""
        return [self._markers.removed_from(ids) for ids in self._encoder.encode(texts)]

    def encode_unspaced(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts as they stand in the body of a passage, without a space before them and without markers.

        Args:
            texts (`Sequence[str]`): Words in a script without spaces.

        Returns:
            `list[list[int]]`: ids of each text; none if they cannot be told from those of the text before it.
        """
        return [self._markers.removed_from(ids) for ids in self._encoder.encode_unspaced(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, without surrounding space."""
        tokenizer = self._encoder.tokenizer
        return str(tokenizer.decode(list(map(int, ids)), clean_up_tokenization_spaces=False)).strip()

    def text(self, view: str, ids: Sequence[int]) -> str:
        """Text of an identifier, without its closing marker."""
        end = self.end(view)
        ids = tuple(map(int, ids))
        return self.decode(ids[: len(ids) - len(end)] if end and ids[-len(end) :] == end else ids)

    def word_starts(self, text: str, ids: Sequence[int]) -> list[int]:
        """Positions in the ids of a text at which its words start.

        Words are separated by whitespace; in scripts without it, they are Unicode words, or what the tokenizer joins
        of them. If the tokenizer joins words that are separated by whitespace, every position is returned.

        Args:
            text (`str`): A text.
            ids (`Sequence[int]`): Its ids, from `encode_segments`.

        Returns:
            `list[int]`: positions, ascending; the ids between two of them are whole words.
        """
        words = self.words(text, ids)
        return list(range(len(ids))) if words is None else words.starts

    def words(self, text: str, ids: Sequence[int]) -> Words | None:
        """The words of a text and where they start in its ids; `None` where `word_starts` returns every position."""
        return self.words_of([text], [ids])[0]

    def words_of(self, texts: Sequence[str], encoded: Sequence[Sequence[int]]) -> list[Words | None]:
        """`words` of many texts, which is several times faster than one at a time."""
        return self._encoder.words(texts, encoded, self._markers.removed_from)

    def split_words(self, text: str) -> Words:
        """The words of a text; in scripts without spaces, as far as the tokenizer does not join them."""
        if not is_unspaced(text):
            return split_words(text)
        return self.words(text, self.encode_substrings([text])[0]) or split_words(text)

    def encode_segments(self, passages: Sequence[Passage]) -> list[PassageSegments]:
        """Ids of each passage's title, body, pseudo-queries and docid; parts that no view uses are empty."""
        texts, parts = [], []
        for number, passage in enumerate(passages):
            texts += [passage.title, passage.text, *passage.pseudo_queries]
            parts += [(number, "title"), (number, "text"), *[(number, "pseudo-query")] * len(passage.pseudo_queries)]

        def name(part: int) -> str:
            number, kind = parts[part]
            return f"The {kind} of passage {passages[number].id!r}"

        encoded = iter([self._markers.removed_from(ids) for ids in self._encoder.encode(texts, name)])
        docids: list[list[int]] = [[] for _ in passages]
        if "docid" in self.views:
            # A docid does not occur inside a text, so it is tokenised like an ordinary seq2seq target.
            names = [f"The docid of passage {passage.id!r}" for passage in passages]
            docids = self._encoder.encode([*map(docid_of, passages)], names.__getitem__, spaced=False)
            self._markers.check_docids(passages, docids)
        segments = []
        for passage, docid in zip(passages, docids, strict=True):
            title, body = next(encoded), next(encoded)
            pseudo_queries = [ids for ids in (next(encoded) for _ in passage.pseudo_queries) if ids]
            segments.append(
                PassageSegments(
                    title if "title" in self.views else [],
                    body if "substring" in self.views else [],
                    pseudo_queries if "pseudo_query" in self.views else [],
                    docid,
                )
            )
        return segments

    def encode_passages(self, passages: Sequence[Passage]) -> list[list[int]]:
        """Ids of whole passages as the index holds them, without the separator."""
        return [self.joined(segments) for segments in self.encode_segments(passages)]

    def joined(self, segments: PassageSegments) -> list[int]:
        """Ids of a whole passage, from those of its parts."""
        ids = [*segments.title, *self._markers.ids("title_end")] if "title" in self.views else []
        ids += segments.body
        for pseudo_query in segments.pseudo_queries:
            ids += [*self._markers.ids("query_start"), *pseudo_query, *self._markers.ids("query_end")]
        if segments.docid:
            ids += [*self._markers.ids("docid_start"), *segments.docid]
        return ids

    def encode_passage(self, passage: Passage) -> list[int]:
        """Ids of one whole passage; see `encode_passages`."""
        return self.encode_passages([passage])[0]

    # Views

    def prefix(self, view: str) -> tuple[int, ...]:
        """Ids that precede an identifier of a view in the index; they are neither generated nor scored."""
        match known_view(view):
            case "pseudo_query":
                return self._markers.ids("query_start")
            case "docid":
                return self._markers.ids("docid_start") or (self.eos_token_id,)
            case "title":
                return (self.eos_token_id,)
        return ()

    def end(self, view: str) -> tuple[int, ...]:
        """Ids that close an identifier of a view, generated and scored; empty for substrings."""
        match known_view(view):
            case "title":
                return self._markers.ids("title_end")
            case "pseudo_query":
                return self._markers.ids("query_end")
            case "docid":
                return (self.eos_token_id,)
        return ()

    def pattern(self, view: str, ids: Sequence[int]) -> tuple[int, ...]:
        """The sequence of ids that an identifier is in the index."""
        return self.prefix(view) + tuple(ids)

    def target(self, view: str, segment: Sequence[int]) -> tuple[int, ...]:
        """The identifier of a segment of a passage (a title, a span of the body, ...) in a view."""
        return tuple(segment) + self.end(view)

    def prompt(self, query: str, view: str) -> str:
        """Text that asks for identifiers of a view."""
        return self._prompts.text(query, view)

    def encode_prompts(self, queries: Sequence[str], view: str, warn: bool = True) -> list[list[int]]:
        """Ids of the prompts of many queries, with the tokenizer's special tokens.

        A prompt longer than `max_query_length` loses the last words of its query, but keeps what stands after it.

        Args:
            queries (`Sequence[str]`): The queries.
            view (`str`): The view.
            warn (`bool`, defaults to `True`): Whether a warning says so the first time that a query is cut.

        Raises:
            ValueError: if what stands around the query alone is longer than `max_query_length`, or a query becomes a
                special token.
        """
        return self._prompts.encode(queries, view, warn)

    def prompt_lengths(self, queries: Sequence[str], view: str) -> list[int]:
        """Number of tokens of the prompts of many queries, before `max_query_length` cuts them."""
        return self._prompts.lengths(queries, view)

    @property
    def closes_prompts(self) -> bool:
        """Whether prompts end with special tokens that the tokenizer appends, such as the end of sequence."""
        return self._prompts.is_closed
