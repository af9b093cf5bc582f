"""Semantic ids: the docid of each passage, made of codes that are learnt from vectors."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.ids import as_id, check_id_collection
from dgr_trainer.errors import DGRKeyError, DGRTypeError, DGRValueError
from dgr_trainer.semantic_ids import storage
from dgr_trainer.semantic_ids.clustering import load_faiss
from dgr_trainer.semantic_ids.paths import NO_CODE, prefix_groups
from dgr_trainer.semantic_ids.quantizers import QUANTIZERS, Quantizer, Training
from dgr_trainer.semantic_ids.statistics import SemanticIdStatistics, neighbour_agreement, path_statistics
from dgr_trainer.semantic_ids.vectors import Vectors, check_finite, open_vectors

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["residual", "hierarchical", "atomic"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_NAME = re.compile(r"[a-z]+")


class SemanticIds(Mapping[str, str]):
    """Docids of passages, made of codes: a mapping from passage ids to strings such as `<c1_17><c2_203><c3_5>`.

    Make them with [`SemanticIds.fit`]; add their tokens to the student with `add_to`, and give them to the collator
    (`DistillationCollator(tokenizer, semantic_ids, rankings)`) and to the corpus (`with_docids`).

    A docid is a **path** of codes, one a level. Passages with the same path are numbered in their order: the first one
    has the path alone, the others a number after it, of tokens `<c_0>`, `<c_1>`, ... that all paths share. So most
    docids have no token too many, a passage that is added later never changes the docid of another one, and any number
    of passages may share a path (numbers beyond the number of these tokens have two of them).

    Args:
        kind (`str`): `"residual"`, `"hierarchical"` or `"atomic"`.
        passage_ids (`Sequence[str]`): Ids of the passages.
        paths (`np.ndarray` of shape `(n, levels)`, int32): Their codes, -1 after the end of a shorter path.
        numbers (`np.ndarray` of shape `(n,)`, int32): How many passages before have the same path.
        sizes (`Sequence[int]`): Codes of each level.
        quantizer ([`Quantizer`], *optional*): Turns further vectors into paths; `None` for atomic ids.
        name (`str`, *optional*, defaults to `"c"`): What the tokens begin with.
    """

    def __init__(
        self,
        kind: Kind,
        passage_ids: Sequence[str],
        paths: np.ndarray,
        numbers: np.ndarray,
        sizes: Sequence[int],
        quantizer: Quantizer | None,
        name: str = "c",
    ) -> None:
        self.kind: Kind = kind
        self.sizes = tuple(sizes)
        self.name = name
        self.paths = paths
        self.numbers = numbers
        self._ids = list(passage_ids)
        self._quantizer = quantizer
        self._positions = {passage_id: position for position, passage_id in enumerate(self._ids)}

    # Making them

    @classmethod
    def fit(
        cls,
        vectors: Vectors,
        passage_ids: Iterable[str] | None = None,
        *,
        kind: Kind = "residual",
        levels: int = 3,
        size: int | Sequence[int] = 256,
        balanced: bool = False,
        seed: int = 42,
        iterations: int = 25,
        sample: int | None = None,
        name: str = "c",
        progress: bool = True,
    ) -> SemanticIds:
        """Learn the codes of passages from their vectors.

        The k-means is that of faiss, on a sample of the vectors; all vectors are then assigned in blocks, so that a
        memory-mapped file may be larger than the memory. The same vectors, settings and seed give the same codes.

        Args:
            vectors (`np.ndarray`, `str`, `os.PathLike` or [`BiEncoderTeacher`]):
                One vector a passage, float16 or float32, `(n, d)`; the path of such a `.npy` file; or a bi-encoder,
                whose vectors of its corpus are taken (and computed, if it has not done so).
            passage_ids (`Iterable[str]`, *optional*): The id of each row. By default those of the bi-encoder's corpus.
            kind (`str`, *optional*, defaults to `"residual"`):
                `"residual"`: each level clusters what the levels before leave of the vectors, with one codebook a
                level. `"hierarchical"`: a tree; a cluster with more members than `size` is divided again, up to
                `levels` times, and its codes mean something only below it. `"atomic"`: one token a passage, whatever
                the vectors are.
            levels (`int`, *optional*, defaults to 3): Codes of a path (the most, in a tree).
            size (`int` or `Sequence[int]`, *optional*, defaults to 256): Codes of a level, or of each level.
            balanced (`bool`, *optional*, defaults to `False`):
                Whether each cluster has at most `ceil(n / size)` members (in a tree: of the members of its parent).
                Passages that are added later do not count.
            seed (`int`, *optional*, defaults to 42): Seed of the samples and of the initial centroids.
            iterations (`int`, *optional*, defaults to 25): Iterations of k-means.
            sample (`int`, *optional*, defaults to `256 * size`): Most vectors that k-means is trained on.
            name (`str`, *optional*, defaults to `"c"`): What the tokens begin with, lower-case letters: a student
                with two kinds of semantic ids needs two names.
            progress (`bool`, *optional*, defaults to `True`): Whether to show progress bars.

        Returns:
            [`SemanticIds`]

        Raises:
            ImportError: if faiss is not installed.
            TypeError: if the vectors are of another type.
            ValueError: if a setting is out of its range, there are fewer vectors than codes of a level, the ids are
                not those of the rows, or a vector is not finite.
        """
        sizes = check_settings(kind, levels=levels, size=size, iterations=iterations, sample=sample, name=name)
        corpus = getattr(vectors, "corpus", None)
        if corpus is not None and kind != "atomic":
            check_count(len(corpus), sizes)  # Before they are encoded.
        opened, ids = open_vectors(vectors, passage_ids)
        if kind == "atomic":
            return cls.atomic(ids, name=name)
        check_count(len(opened), sizes)
        check_finite(opened, ids, progress)
        training = Training(iterations, sample or 256 * max(sizes), balanced, seed, progress)
        quantizer, paths = QUANTIZERS[kind].fit(opened, sizes, training)
        return cls(kind, ids, paths, _numbers(paths), sizes[: paths.shape[1]], quantizer, name)

    @classmethod
    def atomic(cls, passage_ids: Iterable[str], *, name: str = "c") -> SemanticIds:
        """One token a passage, in their order.

        Args:
            passage_ids (`Iterable[str]`): Ids of the passages.
            name (`str`, *optional*, defaults to `"c"`): What the tokens begin with.
        """
        check_id_collection(passage_ids, "passage_ids")
        ids = [as_id(passage_id, "passage", f"row {row}") for row, passage_id in enumerate(passage_ids)]
        if len(set(ids)) < len(ids) or not ids:
            raise DGRValueError("Atomic ids need passage ids, each of them once.")
        paths = np.arange(len(ids), dtype=np.int32)[:, None]
        return cls("atomic", ids, paths, np.zeros(len(ids), np.int32), (len(ids),), None, name)

    def add(self, vectors: Vectors, passage_ids: Iterable[str] | None = None) -> dict[str, str]:
        """Give docids to further passages, without changing any other.

        They get the codes of the nearest centroids, which stay as they are. No token is new, except those of atomic
        ids, for which `add_to` has to be called again.

        Args:
            vectors ([`Vectors`]): Their vectors, from the model that made the others.
            passage_ids (`Iterable[str]`, *optional*): Their ids, see `fit`.

        Returns:
            `dict[str, str]`: the docids of these passages.

        Raises:
            ValueError: if a passage has a docid already, or the vectors are of another length or not finite.
        """
        opened, ids = open_vectors(vectors, passage_ids)
        known = [passage_id for passage_id in ids if passage_id in self._positions]
        if known:
            raise DGRValueError(
                f"{len(known)} of {len(ids)} passages have a docid already, such as {known[0]!r}. Add only new ones."
            )
        first = len(self._ids)
        if self._quantizer is None:
            paths = np.arange(first, first + len(ids), dtype=np.int32)[:, None]
            self.sizes = (first + len(ids),)
        else:
            if opened.shape[1] != self._quantizer.dimensions:
                raise DGRValueError(
                    f"The vectors have {opened.shape[1]} dimensions, but the codes were learnt from vectors of "
                    f"{self._quantizer.dimensions}. Encode the passages with the model that encoded the others."
                )
            check_finite(opened, ids)
            found = self._quantizer.encode(opened)
            paths = np.full((len(ids), len(self.sizes)), NO_CODE, np.int32)
            paths[:, : found.shape[1]] = found
        self.paths = np.concatenate([self.paths, paths])
        # In the order of the passages, so the numbers of the first ones come out as they were.
        self.numbers = _numbers(self.paths)
        self._ids += ids
        self._positions |= {passage_id: first + row for row, passage_id in enumerate(ids)}
        return {passage_id: self[passage_id] for passage_id in ids}

    # Docids

    def __getitem__(self, passage_id: str) -> str:
        return "".join(self.docid_tokens(passage_id))

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def docids(self) -> dict[str, str]:
        """The docid of each passage id, as strings: for a collator, or for the `docid` field of passages."""
        return dict(self)

    def codes(self, passage_id: str) -> tuple[int, ...]:
        """The path of a passage. Raises a `KeyError` if it has none."""
        return tuple(code for code in self.paths[self._position(passage_id)].tolist() if code != NO_CODE)

    def docid_tokens(self, passage_id: str) -> list[str]:
        """The tokens of the docid of a passage. Raises a `KeyError` if it has none."""
        return self._docid(self._position(passage_id))

    def _docid(self, position: int) -> list[str]:
        path, number = self.paths[position].tolist(), int(self.numbers[position])
        tokens = [f"<{self.name}{level}_{code}>" for level, code in enumerate(path, start=1) if code != NO_CODE]
        return tokens + [f"<{self.name}_{digit}>" for digit in _digits(number, max(self.sizes))]

    def _position(self, passage_id: str) -> int:
        if passage_id not in self._positions:
            raise DGRKeyError(
                f"The passage {passage_id!r} has no semantic id. Give it one with add(vectors, passage_ids)."
            )
        return self._positions[passage_id]

    def with_docids(self, corpus: Corpus, *, cache_dir: str | os.PathLike[str] | None = None) -> Corpus:
        """A copy of a corpus in which the semantic ids are the docids.

        Args:
            corpus ([`Corpus`]): The passages.
            cache_dir (`str` or `os.PathLike`, *optional*): Where a large corpus is kept.

        Raises:
            ValueError: if a passage has no semantic id.
        """
        missing = [passage_id for passage_id in corpus.ids if passage_id not in self._positions]
        if missing:
            raise DGRValueError(
                f"{len(missing)} of {len(corpus)} passages have no semantic id, such as {missing[0]!r}. Were the "
                "vectors made from this corpus? add(vectors, passage_ids) gives ids to further passages."
            )
        return Corpus.from_passages(
            (replace(passage, docid=self[passage.id]) for passage in corpus), cache_dir=cache_dir
        )

    # Tokenizer and model

    @property
    def tokens(self) -> list[str]:
        """All tokens: one for each code of each level, and those of the numbers after a path."""
        codes = [f"<{self.name}{level}_{code}>" for level, size in enumerate(self.sizes, 1) for code in range(size)]
        if self.kind == "atomic":
            return codes
        return codes + [f"<{self.name}_{digit}>" for digit in range(max(self.sizes))]

    def add_to(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel | None = None,
        *,
        pad_to_multiple_of: int | None = None,
    ) -> list[int]:
        """Add a token for each code to a tokenizer, and rows for them to a model.

        New rows of the embeddings and of the output projection are the mean of the rows of the tokens before, so that
        a new token is at first neither likely nor unlikely; a model that has rows to spare (T5) keeps its size. Tokens
        that the tokenizer has already keep their rows. Call this before `get_peft_model`; `lora_settings` makes the
        new rows train with LoRA.

        Args:
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The student's tokenizer, changed in place.
            model ([`~transformers.PreTrainedModel`], *optional*): The student of any architecture, changed in place.
            pad_to_multiple_of (`int`, *optional*): Make the number of rows a multiple of this, as
                `resize_token_embeddings` does, for fast matrix products.

        Returns:
            `list[int]`: the ids of all tokens, in the order of `tokens`.

        Raises:
            TypeError: if the model is none of transformers.
            ValueError: if the model has adapters, is sharded, or the tokenizer does not keep the tokens whole.
        """
        from dgr_trainer.semantic_ids.tokens import add_tokens

        ids = add_tokens(self.tokens, tokenizer, model, pad_to_multiple_of)
        self.check_tokenizer(tokenizer)
        return ids

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that a tokenizer makes exactly one token of each code.

        Raises:
            ValueError: if it lacks tokens, or splits or joins them; says what it does.
        """
        from dgr_trainer.semantic_ids.tokens import check_tokens

        order = np.argsort(-self.numbers, kind="stable")[:1000]  # The longest ones among them.
        check_tokens(self.tokens, [self._docid(int(position)) for position in order], tokenizer)

    def lora_settings(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module) -> dict[str, dict[str, list[int]]]:
        """Arguments of `peft.LoraConfig` that make the embeddings of the tokens train beside an adapter.

        Args:
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The tokenizer, after `add_to`.
            model (`nn.Module`): The model, after `add_to` and before `get_peft_model`.

        Returns:
            `dict`: `trainable_token_indices`, for the embeddings, and for an output projection with its own weights.

        Example:

        ```python
        config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=8, **semantic_ids.lora_settings(tokenizer, model))
        model = get_peft_model(model, config)
        ```
        """
        from dgr_trainer.semantic_ids.tokens import trainable_token_indices

        self.check_tokenizer(tokenizer)
        ids = cast("list[int]", tokenizer.convert_tokens_to_ids(self.tokens))
        return {"trainable_token_indices": trainable_token_indices(model, ids)}

    # Statistics

    def statistics(
        self, vectors: Vectors | None = None, *, neighbours: int = 10, sample: int = 1000, seed: int = 42
    ) -> SemanticIdStatistics:
        """Measure how codes are used, and, given the vectors, whether neighbours have codes in common.

        Args:
            vectors ([`Vectors`], *optional*): The vectors of all passages, in their order.
            neighbours (`int`, *optional*, defaults to 10): Nearest neighbours of a passage that are looked at.
            sample (`int`, *optional*, defaults to 1000): Passages whose neighbours are looked at.
            seed (`int`, *optional*, defaults to 42): Seed of that sample.

        Raises:
            ValueError: if the vectors are not those of the passages, or a number is below 1.
        """
        agreement = None
        if neighbours < 1 or sample < 1:
            raise DGRValueError(f"neighbours={neighbours} and sample={sample} have to be at least 1.")
        if vectors is not None:
            opened, _ = open_vectors(vectors, self._ids)
            agreement = neighbour_agreement(opened, self.paths, neighbours, sample, seed)
        lengths, left = (self.paths != NO_CODE).sum(1), self.numbers
        while (left > 0).any():  # A number has a digit for each time that it can be divided.
            lengths = lengths + (left > 0)
            left = (left - 1) // max(self.sizes)
        return SemanticIdStatistics(
            kind=self.kind,
            passages=len(self),
            sizes=self.sizes,
            collisions=int((self.numbers > 0).sum()),
            longest=int(lengths.max()),
            neighbours=None if agreement is None else agreement[0],
            chance=None if agreement is None else agreement[1],
            **path_statistics(self.paths, self.kind == "hierarchical"),
        )

    # Saving and loading

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write codes and codebooks to a folder (JSON and safetensors), which appears only when it is complete.

        Raises:
            FileExistsError: if the folder holds other files.
        """
        arrays = {"paths": self.paths, "numbers": self.numbers}
        arrays |= {} if self._quantizer is None else self._quantizer.arrays()
        description = {"kind": self.kind, "sizes": list(self.sizes), "name": self.name}
        storage.write(Path(path), description, arrays, self._ids)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SemanticIds:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if the folder holds none.
            ValueError: if it is damaged, or another version wrote it.
        """
        description, arrays, ids = storage.read(Path(path))
        kind: Kind = description["kind"]
        quantizer = QUANTIZERS[kind].from_arrays(arrays) if kind in QUANTIZERS else None
        sizes, name = description["sizes"], description["name"]
        return cls(kind, ids, arrays["paths"], arrays["numbers"], sizes, quantizer, name)

    def __repr__(self) -> str:
        return f"SemanticIds({self.kind}, {len(self):,} passages, sizes {' x '.join(map(str, self.sizes))})"


def check_settings(
    kind: str,
    *,
    levels: int = 3,
    size: int | Sequence[int] = 256,
    iterations: int = 25,
    sample: int | None = None,
    name: str = "c",
) -> tuple[int, ...]:
    """Check settings of `SemanticIds.fit`, and that faiss is installed if they need it; returns the sizes."""
    if kind not in KINDS:
        raise DGRValueError(f"kind={kind!r} is unknown; use one of {', '.join(KINDS)}.")
    if not _NAME.fullmatch(name):
        raise DGRValueError(f"name={name!r} cannot begin tokens such as <c1_17>: use lower-case letters only.")
    if levels < 1:
        raise DGRValueError(f"levels={levels}, but a docid needs at least 1 code.")
    if isinstance(size, str) or not isinstance(size, (int, Sequence)):
        raise DGRTypeError(f"size={size!r} is a {type(size).__name__}. Give a number of codes, or one for each level.")
    sizes = (size,) * levels if isinstance(size, int) else tuple(size)
    if len(sizes) != levels:
        raise DGRValueError(
            f"size={size!r} has {len(sizes)} entries, but there are {levels} levels. Give one number for all levels, "
            "or one for each."
        )
    if min(sizes) < 2:
        raise DGRValueError(f"size={size!r}, but a level needs at least 2 codes.")
    if iterations < 1 or (sample is not None and sample < max(sizes)):
        raise DGRValueError(
            f"iterations={iterations} has to be at least 1, and sample={sample} at least the largest size, "
            f"{max(sizes)}: k-means needs a vector for each cluster."
        )
    if kind != "atomic":
        load_faiss()
    return sizes


def check_count(vectors: int, sizes: Sequence[int]) -> None:
    """Check that there are as many vectors as codes of each level."""
    if vectors < max(sizes):
        raise DGRValueError(
            f"There are {vectors} vectors, but a level has {max(sizes)} codes: every cluster needs a passage. "
            f"Give a smaller size, such as {max(2, math.isqrt(vectors))}."
        )


def _numbers(paths: np.ndarray) -> np.ndarray:
    """How many passages before each one have the same path, int32."""
    *_, groups = prefix_groups(paths)
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max() + 1))
    numbers = np.empty(len(paths), np.int32)
    numbers[order] = np.arange(len(paths)) - starts[groups[order]]
    return numbers


def _digits(number: int, base: int) -> list[int]:
    """Digits of the numbers from 1, without a leading zero that would make two of one: none for 0, then 0, 1, ..."""
    digits: list[int] = []
    while number > 0:
        number, digit = divmod(number - 1, base)
        digits.append(digit)
    return digits[::-1]
