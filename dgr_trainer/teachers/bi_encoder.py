"""A bi-encoder as teacher: queries and passages become vectors, each by itself, and near is relevant."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRValueError, MissingPackageError
from dgr_trainer.processes import default_device, is_main_process, launched_processes, map_across_processes
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.student.dtypes import DTYPES
from dgr_trainer.teachers.inputs import candidate_lists, check_depth
from dgr_trainer.teachers.passage_vectors import passage_vectors
from dgr_trainer.teachers.templates import PASSAGE_FIELDS, check_template, fill
from dgr_trainer.teachers.vector_search import nearest

_SIMILARITIES = ("cosine", "dot")
_QUERIES_A_BLOCK = 256


class BiEncoderTeacher:
    """Ranks passages by the similarity of their vectors to the query's.

    The vectors of the passages are computed at the first `rank`, once a corpus. The search is exact. Under
    `accelerate launch`, the processes share passages and queries, and each returns all rankings.

    Args:
        model_name_or_path (`str` or `os.PathLike`): a model of sentence-transformers, or one of transformers, whose
            token vectors are then averaged; a folder or a name on the hub.
        corpus (`Corpus`): the passages.
        query_prefix (`str`, *optional*): what stands before a query, such as `"query: "` for E5; by default the prompt
            that the model has for queries, if any.
        passage_prefix (`str`, *optional*): what stands before a passage, such as `"passage: "` for E5; by default the
            prompt that the model has for passages, if any.
        passage_template (`str`, *optional*, defaults to `"{passage}"`): text of a passage, of `{title}`, `{text}` and
            `{passage}` (`title: text`, or the one that there is).
        vectors (`str` or `os.PathLike`, *optional*): folder in which the vectors of the passages are kept, memory-
            mapped, and gone on with after an interruption; without, they are in memory.
        faiss (`str`, *optional*): search by an index of faiss, by its factory string such as `"HNSW32"` or
            `"IVF1024,Flat"`: faster, and no longer exact. By default all vectors are compared.
        max_length (`int`, *optional*, defaults to the model's): tokens of a text; longer ones are cut.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        batch_size (`int`, *optional*, defaults to 32): texts a forward pass.
        device (`str`, *optional*): such as `"cuda:1"`; by default the accelerator if there is one.
        model_kwargs (`Mapping[str, Any]`, *optional*): further arguments of `SentenceTransformer`, such as `revision`
            or `trust_remote_code`.
        progress (`bool`, *optional*, defaults to `True`): whether to show progress bars.

    Raises:
        ImportError: if sentence-transformers, or faiss where it is asked for, is not installed.
        ValueError: if the model's similarity is neither the cosine nor the inner product, or a setting is out of its
            range.

    Example:

    ```python
    teacher = BiEncoderTeacher(
        "intfloat/e5-base-v2", corpus, query_prefix="query: ", passage_prefix="passage: ", vectors="e5-vectors"
    )
    rankings = teacher.rank(queries, k=100)
    ```
    """

    def __init__(
        self,
        model_name_or_path: str | os.PathLike[str],
        corpus: Corpus,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        passage_template: str = "{passage}",
        vectors: str | os.PathLike[str] | None = None,
        faiss: str | None = None,
        max_length: int | None = None,
        dtype: str = "float32",
        batch_size: int = 32,
        device: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        progress: bool = True,
    ):
        if dtype not in DTYPES:
            raise DGRValueError(f"dtype is {dtype!r}, but the model can be loaded as one of {DTYPES}.")
        if batch_size < 1:
            raise DGRValueError(f"batch_size is {batch_size}, but a batch has at least 1 text.")
        check_template("passage_template", passage_template, PASSAGE_FIELDS, (PASSAGE_FIELDS,))
        if faiss is not None:
            _faiss()
        self.corpus = corpus
        self.batch_size = batch_size
        self.progress = progress
        self._name = os.fspath(model_name_or_path)
        self._template = passage_template
        self._folder = None if vectors is None else Path(vectors)
        self._factory = faiss
        self._dtype = dtype
        self._processes = launched_processes(device)
        self.model = _load(self._name, dtype, device or str(default_device(self._processes)), model_kwargs or {})
        if max_length is not None:
            self.model.max_seq_length = max_length
        similarity = str(self.model.similarity_fn_name)
        if similarity not in _SIMILARITIES:
            raise DGRValueError(
                f"{self._name} compares vectors by the {similarity} distance, but only {' and '.join(_SIMILARITIES)} "
                "are searched for here. Load it with model_kwargs={'similarity_fn_name': 'cosine'} if that suits it."
            )
        self._normalise = similarity == "cosine"
        prompts = {name.lower(): prompt for name, prompt in (self.model.prompts or {}).items()}
        self.query_prefix = prompts.get("query", "") if query_prefix is None else query_prefix
        known = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
        self.passage_prefix = known if passage_prefix is None else passage_prefix
        self._vectors: np.ndarray | None = None
        self._index: Any = None

    @property
    def vectors(self) -> np.ndarray:
        """`np.ndarray` of shape `(len(corpus), d)`, float32: the vectors of the passages, computed when first read."""
        if self._vectors is None:
            self._vectors = passage_vectors(
                self.corpus,
                lambda positions: self._encode(self._passages(positions), self.passage_prefix),
                int(self.model.get_embedding_dimension() or 0),
                self._settings() if self._folder is not None else {},
                self._folder,
                self.progress,
                self._processes,
            )
        return self._vectors

    def rank(self, queries: Dataset | Mapping[str, str], candidates: Rankings | None = None, k: int = 100) -> Rankings:
        """Rank the corpus, or given candidates, for every query.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`, *optional*): where given, just these passages are ranked, and all of them.
            k (`int`, *optional*, defaults to 100): length of a rank list at most.

        Returns:
            `Rankings`: similarities, best first.

        Raises:
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, no query has candidates, or the folder of vectors is of another corpus.
        """
        check_depth(k)
        texts = queries_mapping(queries)
        wanted = None if candidates is None else candidate_lists(texts, candidates, self.corpus)
        vectors = self.vectors

        def search(query_ids: Sequence[str]) -> list[list[tuple[str, float]]]:
            asked = self._encode([texts[query_id] for query_id in query_ids], self.query_prefix)
            if wanted is not None:
                lists = [wanted[query_id] for query_id in query_ids]
                return [self._of_candidates(*of, vectors) for of in zip(asked, lists, strict=True)]
            if self._factory is not None:
                return self._by_faiss(asked, vectors, k)
            return nearest(asked, vectors, self.corpus.ids, k, self.model.device)

        # In the order of their ids, so that the order given changes nothing; and in blocks that are the same for any
        # number of processes.
        query_ids = sorted(texts)
        blocks = [query_ids[start : start + _QUERIES_A_BLOCK] for start in range(0, len(query_ids), _QUERIES_A_BLOCK)]
        hidden = not self.progress or not is_main_process(self._processes) or len(blocks) == 1

        def searched(own: Sequence[list[str]]) -> Iterator[list[list[tuple[str, float]]]]:
            return map(search, tqdm(own, desc="Bi-encoder", unit=f"×{_QUERIES_A_BLOCK} queries", disable=hidden))

        found = chain.from_iterable(map_across_processes(blocks, searched, self._processes))
        lists = dict(zip(query_ids, found, strict=True))
        return Rankings({query_id: lists[query_id] for query_id in texts}, name=self._name).top(k)

    def _of_candidates(
        self, asked: np.ndarray, passage_ids: Sequence[str], vectors: np.ndarray
    ) -> list[tuple[str, float]]:
        import torch

        # By torch, whose memory is laid out in the same way in every process.
        passage_ids = sorted(passage_ids)
        own = torch.tensor(vectors[[self.corpus.position(id) for id in passage_ids]])
        return list(zip(passage_ids, (own @ torch.tensor(asked)).tolist(), strict=True))

    def _by_faiss(self, asked: np.ndarray, vectors: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        faiss = _faiss()
        if self._index is None:
            index = faiss.index_factory(vectors.shape[1], self._factory, faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                index.train(np.ascontiguousarray(vectors))
            for start in range(0, len(vectors), 1 << 16):
                index.add(np.ascontiguousarray(vectors[start : start + (1 << 16)]))
            self._index = index
        scores, positions = self._index.search(asked, min(k, len(vectors)))
        ids = self.corpus.ids
        return [
            [(ids[place], score) for place, score in zip(row, of, strict=True) if place >= 0]
            for row, of in zip(positions.tolist(), scores.tolist(), strict=True)
        ]

    def _passages(self, positions: list[int]) -> list[str]:
        columns = self.corpus.dataset.select_columns(["id", "title", "text"])[positions]
        passages = map(Passage, columns["id"], columns["title"], columns["text"])
        return [fill(self._template, "", passage) for passage in passages]

    def _encode(self, texts: list[str], prefix: str) -> np.ndarray:
        vectors = self.model.encode(
            [prefix + text for text in texts],
            prompt="",
            batch_size=self.batch_size,
            show_progress_bar=False,
            normalize_embeddings=self._normalise,
            convert_to_tensor=True,
        )
        return vectors.float().cpu().numpy()

    def _settings(self) -> dict[str, object]:
        from dgr_trainer.student.weights import weights_digest

        return {
            "weights": weights_digest(self.model),
            "passage_prefix": self.passage_prefix,
            "passage_template": self._template,
            "max_length": self.model.max_seq_length,
            "dtype": self._dtype,
            "normalised": self._normalise,
        }


def _load(name: str, dtype: str, device: str, model_kwargs: Mapping[str, Any]) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingPackageError(
            'BiEncoderTeacher needs sentence-transformers: pip install "dgr-trainer[bi-encoder]".'
        ) from error
    import torch

    from dgr_trainer.student.weights import align_weights

    arguments = dict(model_kwargs)
    arguments["model_kwargs"] = {"dtype": getattr(torch, dtype), **arguments.get("model_kwargs", {})}
    return align_weights(SentenceTransformer(name, device=device, **arguments))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError(
            'Searching by an index of faiss needs it: pip install "dgr-trainer[faiss]".'
        ) from error
    return faiss
