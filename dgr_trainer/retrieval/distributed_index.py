"""One index in the memory of several processes, each of which holds a part of the corpus.

The first process searches: it has the model, and an index that asks all processes and puts their answers together.
The others answer. Counts, continuations and places are exact over all parts, so identifiers weigh and passages score
as with one index of the whole corpus.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NoReturn, overload

import numpy as np
import torch.distributed as dist

from dgr_trainer.index import FMIndex

# Whoever answers waits for questions, and a service may not be asked anything for a long time.
_PATIENCE = timedelta(days=365)


class DistributedIndex(FMIndex):
    """
    The parts of an index in several processes, as one index.

    Every process makes one, of the part of the corpus that it holds. Passages are numbered through: those of the first
    process come first. No passage may be in two parts.

    Args:
        part ([`FMIndex`]): The index of this process.

    Raises:
        `ValueError`: if there are no processes to talk to, or the parts were made with different tokenizers.

    Example, in a script that `accelerate launch` starts:

    ```python
    accelerator = Accelerator()
    index = DistributedIndex(FMIndex.load(f"part-{accelerator.process_index}"))
    if index.is_first:
        retriever = GenerativeRetriever(model, identifiers, index)
        print(retriever.search("who discovered penicillin"))
        index.close()
    else:
        index.answer()
    ```
    """

    def __init__(self, part: FMIndex) -> None:
        # No arrays of its own, so nothing of what FMIndex sets up: all that reads them is replaced below.
        self._part = part
        self._connect()
        own = {
            "vocab_size": part.vocab_size,
            "separator": part.separator,
            "tokenizer_fingerprint": part.tokenizer_fingerprint,
            "num_segments": part.num_segments,
            "num_passages": part.num_passages,
            "num_tokens": part.num_tokens,
            "corpus_fingerprint": part.corpus_fingerprint,
            "num_bytes": part.num_bytes,
        }
        described = self._exchange(own)
        for name in ("vocab_size", "separator", "tokenizer_fingerprint"):
            values = [one[name] for one in described]
            if any(value != values[0] for value in values):
                raise ValueError(
                    f"The parts of the index were made with different tokenizers: their {name} is "
                    f"{', '.join(map(str, values))}. Index all parts of the corpus with the same tokenizer."
                )
        self.vocab_size, self.separator = part.vocab_size, part.separator
        self.tokenizer_fingerprint = part.tokenizer_fingerprint
        self.corpus_fingerprint = "+".join(one["corpus_fingerprint"] for one in described)
        self._segments_before = np.cumsum([0, *(one["num_segments"] for one in described)])
        self._passages_before = np.cumsum([0, *(one["num_passages"] for one in described)])
        self._num_bytes = sum(one["num_bytes"] for one in described)
        self._num_tokens = sum(one["num_tokens"] for one in described)
        self.num_passages = int(self._passages_before[-1])
        self._counts = np.sum(self._exchange(part.token_counts), axis=0)
        self.passage_ids = _PassageIds(self)  # type: ignore[assignment]

    # Processes

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that searches."""
        return self._rank == 0

    def answer(self) -> None:
        """Answer the first process until it closes the index. For all processes but the first."""
        if self.is_first:
            raise ValueError("The first process searches and has nobody to answer. Call answer() on the others only.")
        while (question := self._question()) is not None:
            self._reply(self._answer(*question))
        self._disconnect()

    def close(self) -> None:
        """Let the other processes go on after `answer`. For the first process; the index is of no use afterwards."""
        self._ask_all(None)
        self._disconnect()

    def _connect(self) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise ValueError(
                "There are no processes that could hold parts of the index. Start the script with `accelerate launch` "
                "or `torchrun`, and make an Accelerator (or call torch.distributed.init_process_group) first."
            )
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def _disconnect(self) -> None:
        # A process that ends with the group's threads still at work is aborted.
        dist.barrier(self._group)
        dist.destroy_process_group(self._group)

    def _exchange(self, own: Any) -> list[Any]:
        everything = [None] * self._size
        dist.all_gather_object(everything, own, group=self._group)
        return everything

    def _question(self) -> tuple[str, tuple[Any, ...]] | None:
        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def _reply(self, reply: Any) -> None:
        dist.gather_object(reply, dst=0, group=self._group)

    def _ask_all(self, question: tuple[str, tuple[Any, ...]] | None) -> list[Any]:
        """Put a question to all processes, this one too."""
        dist.broadcast_object_list([question], src=0, group=self._group)
        if question is None:
            return []
        replies: list[Any] = [None] * self._size
        dist.gather_object(self._answer(*question), replies, dst=0, group=self._group)
        return replies

    def _ask(self, name: str, *arguments: Any) -> list[Any]:
        replies = self._ask_all((name, arguments))
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return getattr(self, f"_part_{name}")(*arguments)
        except Exception as error:  # The first process raises it; this one goes on answering.
            return error

    # What each process answers for its part

    def _own(self, ranges: np.ndarray) -> np.ndarray:
        return ranges[..., self._segments_before[self._rank] : self._segments_before[self._rank + 1], :]

    def _part_whole(self) -> np.ndarray:
        return self._part.whole

    def _part_find(self, patterns: Any) -> np.ndarray:
        return self._part.find_batch(patterns)

    def _part_counts(self, ranges: np.ndarray) -> np.ndarray:
        return self._part.counts(self._own(ranges))

    def _part_extend(self, ranges: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        extended = self._part.extend(self._own(ranges), tokens)
        return extended, self._part.counts(extended) > 0

    def _part_continuations(self, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._part.continuations_batch(self._own(ranges))

    def _part_locate(self, ranges: np.ndarray, lengths: Any, limit: int | None) -> tuple[np.ndarray, ...]:
        numbers, passages, offsets = self._part.locate_batch(self._own(ranges), lengths, limit)
        return numbers, passages + self._passages_before[self._rank], offsets

    def _mine(self, passages: np.ndarray) -> np.ndarray:
        """Which passages are in this part."""
        return (passages >= self._passages_before[self._rank]) & (passages < self._passages_before[self._rank + 1])

    def _part_extract(self, passages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._part.extract_batch(passages[self._mine(passages)] - self._passages_before[self._rank])

    def _part_lengths(self) -> np.ndarray:
        return self._part.passage_lengths

    def _part_ids(self, passages: np.ndarray) -> list[str]:
        ids = self._part.passage_ids
        before = self._passages_before[self._rank]
        return [ids[int(passage - before)] for passage in passages[self._mine(passages)]]

    def _part_positions(self, values: list[str]) -> np.ndarray:
        positions = self._part.passage_ids.positions(values)
        return np.where(positions < 0, -1, positions + self._passages_before[self._rank])

    # The index as a whole; descriptions as of FMIndex

    @property
    def num_segments(self) -> int:
        """Number of parts of a range: the segments of all processes."""
        return int(self._segments_before[-1])

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the passages, with a separator for each."""
        return self._num_tokens

    @property
    def whole(self) -> np.ndarray:
        """See [`FMIndex`]."""
        return np.concatenate(self._ask("whole"), axis=0)

    @property
    def token_counts(self) -> np.ndarray:
        """See [`FMIndex`]."""
        return self._counts

    @property
    def passage_lengths(self) -> np.ndarray:
        """See [`FMIndex`]."""
        return np.concatenate(self._ask("lengths"))

    @property
    def num_bytes(self) -> int:
        """Size of all parts together, in bytes."""
        return self._num_bytes

    def save(self, path: str | os.PathLike[str], *, link: bool = False) -> NoReturn:
        """Not of a distributed index: each process has its part."""
        raise ValueError("The parts of a distributed index are in several processes. Save each part by itself.")

    def counts(self, ranges: np.ndarray) -> np.ndarray:
        """See [`FMIndex.counts`]."""
        return np.sum(self._ask("counts", np.asarray(ranges)), axis=0)

    def find_batch(self, patterns: Iterable[Sequence[int]] | np.ndarray) -> np.ndarray:
        """See [`FMIndex.find_batch`]."""
        listed = patterns if isinstance(patterns, np.ndarray) else list(patterns)
        return np.concatenate(self._ask("find", listed), axis=-2)

    def extend(self, ranges: np.ndarray, tokens: Any, enough: int | None = None) -> np.ndarray:
        """See [`FMIndex.extend`]."""
        if enough is not None and enough < 1:
            raise ValueError(
                f"enough is {enough}, but at least 1 token has to be looked for. Give a number from 1 on."
            )
        replies = self._ask("extend", np.asarray(ranges), np.asarray(tokens))
        extended = np.concatenate([part for part, _ in replies], axis=-2)
        if enough is not None and extended.ndim == 4:
            occurs = np.any([part for _, part in replies], axis=0)
            extended[occurs.cumsum(axis=1) - occurs >= enough] = 0
        return extended

    def continuations_batch(self, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See [`FMIndex.continuations_batch`]."""
        ranges = np.asarray(ranges)
        codes, counts = [], []
        for offsets, tokens, of_tokens in self._ask("continuations", ranges):
            codes.append(np.repeat(np.arange(len(ranges)), np.diff(offsets)) * self.vocab_size + tokens)
            counts.append(of_tokens)
        distinct, places = np.unique(np.concatenate(codes), return_inverse=True)
        sums = np.zeros(len(distinct), np.int64)
        np.add.at(sums, places, np.concatenate(counts))
        offsets = np.searchsorted(distinct, np.arange(len(ranges) + 1) * self.vocab_size)
        return offsets.astype(np.int64), distinct % self.vocab_size, sums

    def locate_batch(
        self, ranges: np.ndarray, lengths: Any, limit: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See [`FMIndex.locate_batch`]."""
        replies = self._ask("locate", np.asarray(ranges), lengths, limit)
        numbers, passages, offsets = (np.concatenate(column) for column in zip(*replies, strict=True))
        order = np.argsort(numbers, kind="stable")
        if limit is not None:
            ordered = numbers[order]
            order = order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < limit]
        return numbers[order], passages[order], offsets[order]

    def extract_batch(self, passages: Any) -> tuple[np.ndarray, np.ndarray]:
        """See [`FMIndex.extract_batch`]."""
        passages = np.asarray(passages, dtype=np.int64)
        self._check_passages(passages)
        replies = self._ask("extract", passages)
        # Passages of one part stand in the order asked for; these are the places where each part's go.
        place = np.argsort(np.searchsorted(self._passages_before, passages, side="right"), kind="stable")
        lengths = np.zeros(len(passages), np.int64)
        lengths[place] = np.concatenate([np.diff(indptr) for indptr, _ in replies])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        before = np.repeat(indptr[place] - np.cumsum(lengths[place]) + lengths[place], lengths[place])
        tokens = np.empty(indptr[-1], np.int64)
        tokens[before + np.arange(len(before))] = np.concatenate([of_part for _, of_part in replies])
        return indptr, tokens

    def _check_passages(self, passages: np.ndarray) -> None:
        bad = passages[(passages < 0) | (passages >= self.num_passages)]
        if len(bad):
            raise IndexError(f"There is no passage {bad[0]}: the index holds passages 0 to {self.num_passages - 1}.")


class _PassageIds(Sequence[str]):
    """The passage ids of all parts, asked for where they are."""

    def __init__(self, index: DistributedIndex) -> None:
        self._index = index

    def __len__(self) -> int:
        return self._index.num_passages

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            passages = np.arange(*index.indices(len(self)))
            owners = np.searchsorted(self._index._passages_before, passages, side="right")
            ids = np.empty(len(passages), dtype=object)
            ids[np.argsort(owners, kind="stable")] = [id for part in self._index._ask("ids", passages) for id in part]
            return ids.tolist()
        position = index + len(self) if index < 0 else index
        self._index._check_passages(np.array([position]))
        return next(id for part in self._index._ask("ids", np.array([position])) for id in part)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 4096):
            yield from self[start : start + 4096]

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and bool(self.positions([value])[0] >= 0)

    def positions(self, values: Iterable[str]) -> np.ndarray:
        """Positions of many ids, -1 for an id that is not there."""
        return np.max(self._index._ask("positions", list(values)), axis=0)
