"""Markers between the parts of a passage, and the texts that must not hold them."""

from collections.abc import Sequence

from dgr_trainer.data.passages import Passage
from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers.settings import IdentifierSettings
from dgr_trainer.identifiers.text_encoder import TextEncoder

_OF_VIEW = {
    "title": ("title_end",),
    "substring": (),
    "pseudo_query": ("query_start", "query_end"),
    "docid": ("docid_start",),
}


class Markers:
    """The token ids of markers. Those of views that are not used need not be in the vocabulary.

    Args:
        settings ([`IdentifierSettings`]): The views and their markers.
        encoder ([`TextEncoder`]): Encodes them.

    Raises:
        ValueError: if the tokenizer turns a marker of a view into unknown or special tokens.
    """

    def __init__(self, settings: IdentifierSettings, encoder: TextEncoder) -> None:
        self.settings = settings
        self.encoder = encoder
        self._ids: dict[str, tuple[int, ...]] = {}
        self._used = [ids for view in settings.views for ids in map(self.ids, _OF_VIEW[view]) if ids]
        self._first = sorted({marker[0] for marker in self._used})

    def ids(self, name: str) -> tuple[int, ...]:
        """Ids of a marker, by the name of its setting; none for docids that need no marker."""
        if name not in self._ids:
            self._ids[name] = self._encoded(name, getattr(self.settings, name))
        return self._ids[name]

    def _encoded(self, name: str, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        (ids,) = self.encoder.raw([self.encoder.space + " ".join(text.split())])
        if not ids or not self.encoder.special.ids.isdisjoint(ids):
            raise DGRValueError(
                f"The tokenizer turns the marker {name}={text!r} into {ids}, which holds unknown tokens, "
                "special tokens or nothing. Choose a marker in its vocabulary (IdentifierSettings) or add one with "
                "tokenizer.add_tokens."
            )
        return tuple(ids)

    def removed_from(self, ids: list[int]) -> list[int]:
        """Remove tokens from ids until no marker occurs in them, not even one completed by a marker that follows."""
        markers = self._used
        for first in self._first:
            if first in ids:
                break
        else:
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

    def check_docids(self, passages: Sequence[Passage], docids: Sequence[list[int]]) -> None:
        """Refuse docids that hold a marker, by which they would hold another docid or a pseudo-query."""
        before = self.ids("docid_start")
        views = {"docid_start": "docid", "query_start": "pseudo_query"}
        names = [name for name, view in views.items() if view in self.settings.views and self.ids(name)]
        for passage, docid in zip(passages, docids, strict=True):
            if not docid:
                raise DGRValueError(
                    f"The docid of passage {passage.id!r}, {docid_of(passage)!r}, has no tokens, so nothing can be "
                    "generated for it. Give the passage another docid, or use a tokenizer that knows its script."
                )
            for name in names:
                marker = self.ids(name)
                start = 1 if name == "docid_start" else 0
                if marker[0] in docid and _occurs(marker, [*before, *docid], start):
                    raise DGRValueError(
                        f"The docid of passage {passage.id!r}, {docid_of(passage)!r}, holds the marker "
                        f"{name}={getattr(self.settings, name)!r}, behind which another identifier would begin. "
                        f"Choose a marker that no docid holds, IdentifierSettings({name}=...), or use docids as the "
                        "only view."
                    )


def docid_of(passage: Passage) -> str:
    """The docid of a passage: by default its id."""
    return passage.id if passage.docid is None else passage.docid


def _occurs(pattern: Sequence[int], ids: Sequence[int], start: int) -> bool:
    size = len(pattern)
    return any(tuple(ids[i : i + size]) == tuple(pattern) for i in range(start, len(ids) - size + 1))
