"""One index in the memory of several processes, each of which holds a part of the corpus.

The first process searches: it has the model, and an index that asks all processes and puts their answers together.
The others answer. Counts, continuations and places are exact over all parts, so identifiers weigh and passages score
as with one index of the whole corpus.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import torch.distributed as dist

from dgr_trainer.errors import DGRIndexError, DGRValueError
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.distributed_ids import DistributedIds, check_ids

logger = logging.getLogger(__name__)

# Whoever answers waits for questions, and a service may not be asked anything for a long time.
_PATIENCE = timedelta(days=365)


class DistributedIndex(FMIndex):
    """The parts of an index in several processes, as one index.

    Every process makes one, of the part of the corpus that it holds. Passages are numbered through: those of the first
    process come first. No passage may be in two parts.

    Use it as a context manager: the others wait for questions, for as long as it takes, and end of the block in the
    first process, be it by an error, lets them go on. An error in one of the others ends the first one's block, too.

    Args:
        part ([`FMIndex`]): The index of this process.

    Raises:
        ValueError: if there are no processes to talk to, the parts were made with different tokenizers, or a
            passage id is in two of them; in all processes.

    Example, in a script that `accelerate launch` starts:

    ```python
    accelerator = Accelerator()
    with DistributedIndex(FMIndex.load(f"part-{accelerator.process_index}")) as index:
        if index.is_first:
            retriever = GenerativeRetriever(model, identifiers, index)
            print(retriever.search("who discovered penicillin"))
        else:
            index.answer()
    ```
    """

    def __init__(self, part: FMIndex) -> None:
        # No arrays of its own, so nothing of what FMIndex sets up: all that reads them is replaced below.
        self._part = part
        self._asking = False
        self._connect()
        self._open = True
        try:
            self._describe()
            check_ids(part.passage_ids, self._rank, self._size, self._exchange, self._collect)
        except ValueError:  # In all processes.
            self._disconnect()
            raise

    def _describe(self) -> None:
        part = self._part
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
                raise DGRValueError(
                    f"The parts of the index were made with different tokenizers: their {name} is "
                    f"{', '.join(map(str, values))}. Index all parts of the corpus with the same tokenizer."
                )
        self.vocab_size, self.separator = part.vocab_size, part.separator
        self.tokenizer_fingerprint = part.tokenizer_fingerprint
        self.corpus_fingerprint = "+".join(one["corpus_fingerprint"] for one in described)
        self._segments_before = np.cumsum([0, *(one["num_segments"] for one in described)])
        self.passages_before = np.cumsum([0, *(one["num_passages"] for one in described)])
        self._num_bytes = sum(one["num_bytes"] for one in described)
        self._num_tokens = sum(one["num_tokens"] for one in described)
        self.num_passages = int(self.passages_before[-1])
        self._counts = np.sum(self._exchange(part.token_counts), axis=0)
        self.passage_ids = DistributedIds(self)  # type: ignore[assignment]

    # Processes

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that searches."""
        return self._rank == 0

    def answer(self) -> None:
        """Answer the first process until it closes the index. For all processes but the first."""
        if self.is_first:
            raise DGRValueError(
                "The first process searches and has nobody to answer. Call answer() on the others only."
            )
        while (question := self._question()) is not None:
            self._reply(self._answer(*question))
        self._disconnect()

    def close(self) -> None:
        """Let the other processes go on after `answer`. For the first process; the index is of no use afterwards."""
        if not self._open:
            return
        if self._asking:  # It was stopped between a question and the replies, so no other can be put.
            self._abandon()
            return
        self._ask_all(None)
        self._disconnect()

    def __enter__(self) -> DistributedIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        if not self.is_first:
            self._abandon()
            return
        try:
            self.close()
        except RuntimeError:
            if kind is None:
                raise
            logger.warning("The other processes of the index are gone already.")

    def _connect(self) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise DGRValueError(
                "There are no processes that could hold parts of the index. Start the script with `accelerate launch` "
                "or `torchrun`, and make an Accelerator (or call torch.distributed.init_process_group) first."
            )
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)

    def _disconnect(self) -> None:
        """End the connection in order, in all processes at the same moment."""
        # A process that ends with the group's threads still at work is aborted.
        dist.barrier(self._group)
        self._abandon()

    def _abandon(self) -> None:
        """End the connection here, which the other processes meet with an error if they wait for this one."""
        self._open = False
        dist.destroy_process_group(self._group)

    def _exchange(self, own: Any) -> list[Any]:
        everything = [None] * self._size
        dist.all_gather_object(everything, own, group=self._group)
        return everything

    def _collect(self, own: Any, rank: int) -> list[Any] | None:
        """What all processes give, in the process `rank`; `None` in the others."""
        everything = [None] * self._size if rank == self._rank else None
        dist.gather_object(own, everything, dst=rank, group=self._group)
        return everything

    def _question(self) -> tuple[str, tuple[Any, ...]] | None:
        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def _reply(self, reply: Any) -> None:
        dist.gather_object(reply, dst=0, group=self._group)

    def _ask_all(self, question: tuple[str, tuple[Any, ...]] | None) -> list[Any]:
        """Put a question to all processes, this one too."""
        self._asking = True
        dist.broadcast_object_list([question], src=0, group=self._group)
        replies: list[Any] = [None] * self._size
        if question is not None:
            dist.gather_object(self._answer(*question), replies, dst=0, group=self._group)
        self._asking = False
        return replies

    def ask(self, name: str, *arguments: Any) -> list[Any]:
        """What each process answers; raises what one of them raised."""
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
        return numbers, passages + self.passages_before[self._rank], offsets

    def _mine(self, passages: np.ndarray) -> np.ndarray:
        """Which passages are in this part."""
        return (passages >= self.passages_before[self._rank]) & (passages < self.passages_before[self._rank + 1])

    def _part_extract(self, passages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._part.extract_batch(passages[self._mine(passages)] - self.passages_before[self._rank])

    def _part_lengths(self) -> np.ndarray:
        return self._part.passage_lengths

    def _part_ids(self, passages: np.ndarray) -> list[str]:
        return self._part.passage_ids.take(passages[self._mine(passages)] - self.passages_before[self._rank])

    def _part_positions(self, values: list[str]) -> np.ndarray:
        positions = self._part.passage_ids.positions(values)
        return np.where(positions < 0, -1, positions + self.passages_before[self._rank])

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
        return np.concatenate(self.ask("whole"), axis=0)

    @property
    def token_counts(self) -> np.ndarray:
        """See [`FMIndex`]."""
        return self._counts

    @property
    def passage_lengths(self) -> np.ndarray:
        """See [`FMIndex`]."""
        return np.concatenate(self.ask("lengths"))

    @property
    def num_bytes(self) -> int:
        """Size of all parts together, in bytes."""
        return self._num_bytes

    def save(self, path: str | os.PathLike[str], *, link: bool = False) -> NoReturn:
        """Not of a distributed index: each process has its part."""
        raise DGRValueError("The parts of a distributed index are in several processes. Save each part by itself.")

    def counts(self, ranges: np.ndarray) -> np.ndarray:
        """See [`FMIndex.counts`]."""
        return np.sum(self.ask("counts", np.asarray(ranges)), axis=0)

    def find_batch(self, patterns: Iterable[Sequence[int]] | np.ndarray) -> np.ndarray:
        """See [`FMIndex.find_batch`]."""
        listed = patterns if isinstance(patterns, np.ndarray) else list(patterns)
        return np.concatenate(self.ask("find", listed), axis=-2)

    def extend(self, ranges: np.ndarray, tokens: Any, enough: int | None = None) -> np.ndarray:
        """See [`FMIndex.extend`]."""
        if enough is not None and enough < 1:
            raise DGRValueError(
                f"enough is {enough}, but at least 1 token has to be looked for. Give a number from 1 on."
            )
        replies = self.ask("extend", np.asarray(ranges), np.asarray(tokens))
        extended = np.concatenate([part for part, _ in replies], axis=-2)
        if enough is not None and extended.ndim == 4:
            occurs = np.any([part for _, part in replies], axis=0)
            extended[occurs.cumsum(axis=1) - occurs >= enough] = 0
        return extended

    def continuations_batch(self, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See [`FMIndex.continuations_batch`]."""
        ranges = np.asarray(ranges)
        codes, counts = [], []
        for offsets, tokens, of_tokens in self.ask("continuations", ranges):
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
        replies = self.ask("locate", np.asarray(ranges), lengths, limit)
        numbers, passages, offsets = (np.concatenate(column) for column in zip(*replies, strict=True))
        order = np.argsort(numbers, kind="stable")
        if limit is not None:
            ordered = numbers[order]
            order = order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < limit]
        return numbers[order], passages[order], offsets[order]

    def extract_batch(self, passages: Any) -> tuple[np.ndarray, np.ndarray]:
        """See [`FMIndex.extract_batch`]."""
        passages = np.asarray(passages, dtype=np.int64)
        self.check_passages(passages)
        replies = self.ask("extract", passages)
        # Passages of one part stand in the order asked for; these are the places where each part's go.
        place = np.argsort(np.searchsorted(self.passages_before, passages, side="right"), kind="stable")
        lengths = np.zeros(len(passages), np.int64)
        lengths[place] = np.concatenate([np.diff(indptr) for indptr, _ in replies])
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        before = np.repeat(indptr[place] - np.cumsum(lengths[place]) + lengths[place], lengths[place])
        tokens = np.empty(indptr[-1], np.int64)
        tokens[before + np.arange(len(before))] = np.concatenate([of_part for _, of_part in replies])
        return indptr, tokens

    def check_passages(self, passages: np.ndarray) -> None:
        """Raise an `IndexError` if one of these numbers is no passage's."""
        bad = passages[(passages < 0) | (passages >= self.num_passages)]
        if len(bad):
            raise DGRIndexError(
                f"There is no passage {bad[0]}: the index holds passages 0 to {self.num_passages - 1}."
            )
