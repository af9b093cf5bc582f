"""A bi-encoder as teacher: queries and passages are encoded separately, and ranked by their similarity."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRValueError, MissingPackageError, input_errors, one_line
from dgr_trainer.files.progress import elapsed_time, kept_moving
from dgr_trainer.processes import (
    Processes,
    ResultsOn,
    check_results_on,
    default_device,
    gets_results,
    is_main_process,
    launched_processes,
    map_across_processes,
)
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.student.dtypes import DTYPES
from dgr_trainer.teachers.batches import (
    BATCH_TOKENS_HELP,
    CPU_TOKENS,
    default_batch_tokens,
    plan_batches,
)
from dgr_trainer.teachers.digests import modules_digest, tokenizer_digest
from dgr_trainer.teachers.inputs import candidate_lists, check_depth, rank_without_identical_ids
from dgr_trainer.teachers.lengths import checked_max_length, position_limit, position_offset
from dgr_trainer.teachers.pair_teacher import check_model_settings
from dgr_trainer.teachers.passage_vectors import VECTOR_DTYPES, compute_passage_vectors
from dgr_trainer.teachers.templates import PASSAGE_FIELDS, check_template, fill
from dgr_trainer.teachers.vector_search import nearest

logger = logging.getLogger(__name__)

_SIMILARITIES = ("cosine", "dot")
_BLOCK_QUERIES = 256
_QUERY, _PASSAGE = "query", "document"  # what sentence-transformers calls the tasks


@dataclass(eq=False, repr=False)
class BiEncoderTeacher:
    """Ranks passages by the similarity of their vectors to the query's.

    Queries and passages are encoded as by `encode_query` and `encode_document` of sentence-transformers. The vectors
    of the passages are computed once, at the first `rank`. The search is exact. Under `accelerate launch`, the
    processes share passages and queries, and each returns all rankings unless `results_on` says otherwise.

    Args:
        model_name_or_path (`str` or `os.PathLike`): A model of sentence-transformers, or one of transformers, whose
            token vectors are then averaged; a folder or a name on the hub.
        corpus (`Corpus`): The passages.
        query_prefix (`str`, *optional*): Text before a query, such as `"query: "` for E5; by default the prompt that
            the model has for queries, if any.
        passage_prefix (`str`, *optional*): Text before a passage, such as `"passage: "` for E5; by default the prompt
            that the model has for passages, if any.
        passage_template (`str`, *optional*, defaults to `"{passage}"`): Text of a passage, of `{title}`, `{text}` and
            `{passage}` (`title: text`, or whichever of the two is not empty).
        vectors (`str` or `os.PathLike`, *optional*): Folder that keeps the vectors of the passages, memory-mapped, and
            from which an interrupted computation resumes; by default they are kept in memory.
        faiss (`str`, *optional*): Search with a faiss index of this factory string, such as `"HNSW32"` or
            `"IVF1024,Flat"`: faster, but not exact. By default all vectors are compared.
        max_length (`int`, *optional*, defaults to the model's): Number of tokens at which texts are cut, prefix
            included.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"`, `"bfloat16"` or `"float16"`.
        vectors_dtype (`str`, *optional*, defaults to `"float32"`): Precision in which the vectors of the passages are
            kept. `"float16"` needs half the memory and disk, and changes similarities in the fourth digit.
        batch_size (`int`, *optional*, defaults to 256): Maximum number of texts of a batch.
        batch_tokens (`int`, *optional*, defaults to 2048 on a CPU, else 16384): Maximum number of tokens of a batch,
            padding included. Texts of similar length share a batch.
        device (`str`, *optional*): Such as `"cuda:1"`; by default the accelerator if there is one.
        model_kwargs (`Mapping[str, Any]`, *optional*): Additional arguments of `SentenceTransformer`, such as
            `revision` or `trust_remote_code`.
        progress (`bool`, *optional*, defaults to `True`): Whether to show progress bars.
        results_on (`str`, *optional*, defaults to `"all"`): Which of several processes return the rankings: `"all"`,
            or only the `"main"` one; the others then return none and need no memory for them.

    Raises:
        ImportError: if sentence-transformers is not installed, or faiss if it is to be used.
        ValueError: if the model's similarity is neither the cosine nor the inner product, it takes fewer than
            `max_length` tokens, it does not know the tasks "query" and "document", a setting is out of its range, or
            weights are missing.

    Example:

    ```python
    teacher = BiEncoderTeacher(
        "intfloat/e5-base-v2", corpus, query_prefix="query: ", passage_prefix="passage: ", vectors="e5-vectors"
    )
    rankings = teacher.rank(queries, k=100)
    ```
    """

    needs_candidates: ClassVar[bool] = False
    shares_work: ClassVar[bool] = True

    model_name_or_path: str | os.PathLike[str] = field(
        metadata={"option": "model", "metavar": "MODEL", "help": "The model: a folder or a name on the hub."}
    )
    corpus: Corpus
    query_prefix: str | None = field(default=None, metadata={"help": "Text before a query, such as 'query: '."})
    passage_prefix: str | None = field(default=None, metadata={"help": "Text before a passage, such as 'passage: '."})
    passage_template: str = field(
        default="{passage}", metadata={"help": "Text of a passage, of {passage}, {title} and {text}."}
    )
    vectors: str | os.PathLike[str] | None = field(
        default=None, metadata={"metavar": "DIR", "help": "Folder that keeps the vectors of the passages."}
    )
    faiss: str | None = field(
        default=None, metadata={"metavar": "FACTORY", "help": "Search with a faiss index, such as HNSW32."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens at which inputs are cut; by default the maximum of the model."}
    )
    dtype: str = field(default="float32", metadata={"help": "Precision of the model.", "choices": DTYPES})
    vectors_dtype: str = field(
        default=VECTOR_DTYPES[0],
        metadata={
            "help": "Precision in which the vectors of the passages are kept; float16 needs half the memory and disk.",
            "choices": VECTOR_DTYPES,
        },
    )
    batch_size: int = field(default=256, metadata={"help": "Texts per batch, at most."})
    batch_tokens: int | None = field(default=None, metadata={"help": BATCH_TOKENS_HELP})
    device: str | None = field(default=None, metadata={"help": "Such as cuda:1; by default a GPU if there is one."})
    model_kwargs: Mapping[str, Any] | None = None
    progress: bool = True
    results_on: ResultsOn = "all"

    def __post_init__(self) -> None:
        check_model_settings(self.dtype, self.batch_tokens, self.max_length)
        check_results_on(self.results_on)
        if self.vectors_dtype not in VECTOR_DTYPES:
            raise DGRValueError(
                f"vectors_dtype is {self.vectors_dtype!r}, but vectors are kept as one of {VECTOR_DTYPES}."
            )
        if self.batch_size < 1:
            raise DGRValueError(f"batch_size is {self.batch_size}, but a batch has at least 1 text.")
        check_template("passage_template", self.passage_template, PASSAGE_FIELDS, (PASSAGE_FIELDS,))
        if self.faiss is not None:
            _faiss()
        self.name = os.fspath(self.model_name_or_path)
        self.processes: Processes | None = launched_processes(self.device)
        device = self.device or str(default_device(self.processes))
        self.model = _load(self.name, self.dtype, device, self.model_kwargs or {})
        if self.batch_tokens is None:
            self.batch_tokens = default_batch_tokens(self.model.device.type)
        self._limit_lengths()
        similarity = str(self.model.similarity_fn_name)
        if similarity not in _SIMILARITIES:
            raise DGRValueError(
                f"{self.name} compares vectors by the {similarity} distance, but only {' and '.join(_SIMILARITIES)} "
                "are supported. Load it with model_kwargs={'similarity_fn_name': 'cosine'} if that suits the model."
            )
        self._normalise = similarity == "cosine"
        prompts = {name.lower(): prompt for name, prompt in (self.model.prompts or {}).items()}
        if self.query_prefix is None:
            self.query_prefix = prompts.get("query", "")
        if self.passage_prefix is None:
            names = ("document", "passage", "corpus")
            self.passage_prefix = next((prompts[name] for name in names if prompts.get(name)), "")
        for task in (_QUERY, _PASSAGE):
            # Some models have tasks of other names, and routers other routes.
            with input_errors(f"{self.name} cannot encode texts for the task {task!r}", ValueError, TypeError):
                self._encode(["a few words"], task, lambda _: None)
        self._vectors: np.ndarray | None = None
        self._index: Any = None

    @property
    def passage_vectors(self) -> np.ndarray:
        """`np.ndarray` of shape `(len(corpus), d)`: The vectors of the passages, computed on first use."""
        if self._vectors is None:
            self._vectors = compute_passage_vectors(
                self.corpus,
                lambda positions, encoded: self._encode(self._passages(positions), _PASSAGE, encoded),
                int(self.model.get_embedding_dimension() or 0),
                self._settings() if self.vectors is not None else {},
                self.vectors,
                self.progress,
                self.processes,
                self.vectors_dtype,
            )
        return self._vectors

    def rank(
        self,
        queries: Dataset | Mapping[str, str],
        candidates: Rankings | None = None,
        *,
        k: int = 100,
        ignore_identical_ids: bool = False,
    ) -> Rankings:
        """Rank the corpus, or given candidates, for every query.

        Args:
            queries (`datasets.Dataset` or `Mapping[str, str]`): Columns `query_id` and `query`, or id -> query.
            candidates (`Rankings`, *optional*): If given, exactly these passages are ranked; otherwise the whole
                corpus.
            k (`int`, *optional*, defaults to 100): Maximum length of a rank list.
            ignore_identical_ids (`bool`, *optional*, defaults to `False`): Whether to leave out the passage that has
                the id of the query.

        Returns:
            `Rankings`: Similarities, best first.

        Raises:
            TypeError: if `candidates` is not a `Rankings`.
            ValueError: if `k` is not positive, no query has candidates, or the folder of vectors is of another corpus.
        """
        if ignore_identical_ids:
            return rank_without_identical_ids(self, queries, candidates, k)
        check_depth(k)
        texts = queries_mapping(queries)
        candidate_ids = None if candidates is None else candidate_lists(texts, candidates, self.corpus)
        vectors = self.passage_vectors

        shown = self.progress and is_main_process(self.processes)

        def search(query_ids: Sequence[str], encoded: Callable[[int], object]) -> list[list[tuple[str, float]]]:
            query_vectors = self._encode([texts[query_id] for query_id in query_ids], _QUERY, encoded)
            if candidate_ids is not None:
                return [
                    self._score_candidates(query_vector, candidate_ids[query_id], vectors)
                    for query_vector, query_id in zip(query_vectors, query_ids, strict=True)
                ]
            if self.faiss is not None:
                return self._search_faiss(query_vectors, vectors, k)
            return nearest(query_vectors, vectors, self.corpus.ids, k, self.model.device, progress=shown)

        # Sorted and in fixed blocks, so that neither the order of the queries nor the number of processes changes the
        # result.
        query_ids = sorted(texts)

        def search_share(share: Sequence[str]) -> Iterator[list[tuple[str, float]]]:
            with (
                tqdm(total=len(share), desc="Searching vectors", unit=" queries", disable=not shown, delay=2) as bar,
                kept_moving(bar),
            ):
                for start in range(0, len(share), _BLOCK_QUERIES):
                    yield from search(share[start : start + _BLOCK_QUERIES], bar.update)

        results = map_across_processes(
            query_ids, search_share, self.processes, block=_BLOCK_QUERIES, results_on=self.results_on
        )
        if not gets_results(self.processes, self.results_on):
            return Rankings({}, name=self.name)
        lists = dict(zip(query_ids, results, strict=True))
        return Rankings({query_id: lists[query_id] for query_id in texts}, name=self.name).top(k)

    def _score_candidates(
        self, query_vector: np.ndarray, passage_ids: Sequence[str], vectors: np.ndarray
    ) -> list[tuple[str, float]]:
        import torch

        # Computed by torch, whose memory layout is the same in every process.
        passage_ids = sorted(passage_ids)
        candidate_vectors = torch.tensor(vectors[[self.corpus.position(id) for id in passage_ids]])
        scores = (candidate_vectors.float() @ torch.tensor(query_vector)).tolist()
        return list(zip(passage_ids, scores, strict=True))

    def _search_faiss(self, query_vectors: np.ndarray, vectors: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        faiss = _faiss()
        if self._index is None:
            index = faiss.index_factory(vectors.shape[1], self.faiss, faiss.METRIC_INNER_PRODUCT)
            shown = self.progress and is_main_process(self.processes)
            if not index.is_trained:
                with elapsed_time("Training the faiss index", shown=shown):
                    index.train(np.ascontiguousarray(vectors, dtype=np.float32))
            with (
                tqdm(
                    total=len(vectors), desc="Adding to the faiss index", unit=" vectors", disable=not shown, delay=2
                ) as bar,
                kept_moving(bar),
            ):
                for start in range(0, len(vectors), 1 << 16):
                    block = np.ascontiguousarray(vectors[start : start + (1 << 16)], dtype=np.float32)
                    index.add(block)
                    bar.update(len(block))
            self._index = index
        scores, positions = self._index.search(query_vectors, min(k, len(vectors)))
        ids = self.corpus.ids
        return [
            [(ids[position], score) for position, score in zip(row, row_scores, strict=True) if position >= 0]
            for row, row_scores in zip(positions.tolist(), scores.tolist(), strict=True)
        ]

    def _passages(self, positions: list[int]) -> list[str]:
        columns = self.corpus.dataset.select_columns(["id", "title", "text"])[positions]
        passages = map(Passage, columns["id"], columns["title"], columns["text"])
        return [fill(self.passage_template, "", passage) for passage in passages]

    def _encode(self, texts: list[str], task: str, encoded: Callable[[int], object]) -> np.ndarray:
        """Return the vectors of texts; calls `encoded` with the size of each batch."""
        prefix = (self.query_prefix if task == _QUERY else self.passage_prefix) or ""
        vectors = np.empty((len(texts), int(self.model.get_embedding_dimension() or 0)), dtype=np.float32)
        lengths = self._lengths([prefix + text for text in texts], task)
        for batch in plan_batches(lengths, self.batch_tokens or CPU_TOKENS, self.batch_size):
            # The model gets the prefix by itself: some leave its tokens out of the mean.
            of_batch = self.model.encode(
                [texts[number] for number in batch.tolist()],
                prompt=prefix,
                task=task,
                batch_size=len(batch),
                show_progress_bar=False,
                normalize_embeddings=self._normalise,
                convert_to_tensor=True,
            )
            vectors[batch] = of_batch.float().cpu().numpy()
            encoded(len(batch))
        return vectors

    def _lengths(self, texts: list[str], task: str) -> np.ndarray:
        """Numbers of tokens of texts, as far as the model reads them; an estimate for a tokenizer of another kind."""
        from transformers import PreTrainedTokenizerBase

        routes = _input_modules(self.model)
        module = routes.get(task, next(iter(routes.values())))
        tokenizer = getattr(module, "tokenizer", None)
        if not texts or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return np.array([-(-len(text) // 4) for text in texts], dtype=np.int64)
        limit = module.max_seq_length or tokenizer.model_max_length
        encoded = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
        return np.array([min(len(ids), limit) for ids in encoded], dtype=np.int64)

    def _limit_lengths(self) -> None:
        """Set the lengths at which the model cuts texts."""
        from transformers import PreTrainedModel, PreTrainedTokenizerBase

        cuts = False
        for module in _input_modules(self.model).values():
            tokenizer = getattr(module, "tokenizer", None)
            if not isinstance(tokenizer, PreTrainedTokenizerBase):
                continue
            cuts = True
            loaded: Any = next((inner for inner in module.modules() if isinstance(inner, PreTrainedModel)), None)
            positions = None if loaded is None else position_limit(loaded)
            if self.max_length is not None:
                special = tokenizer.num_special_tokens_to_add(pair=False)
                module.max_seq_length = checked_max_length(self.max_length, positions, tokenizer, special, self.name)
            elif positions is not None and position_offset(loaded):
                # sentence-transformers counts the positions before the first one, too.
                module.max_seq_length = min(module.max_seq_length or positions, positions)
        if self.max_length is not None and not cuts:
            raise DGRValueError(
                f"max_length is {self.max_length}, but {self.name} has no transformer, and reads texts of any length. "
                "Leave max_length out."
            )

    def _settings(self) -> dict[str, object]:
        from dgr_trainer.student.weights import weights_digest

        return {
            "weights": weights_digest(self.model),
            "modules": modules_digest(self.model),
            "tokenizers": [tokenizer_digest(tokenizer) for tokenizer in _tokenizers(self.model)],
            "passage_prefix": self.passage_prefix,
            "passage_template": self.passage_template,
            "max_length": self.model.max_seq_length,
            "dtype": self.dtype,
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
    with input_errors(f"{name} is not a model that sentence-transformers loads, or its files are damaged", Exception):
        model = SentenceTransformer(name, device=device, **arguments)
    _check_weights(model, name, model_kwargs)
    for tokenizer in _tokenizers(model):
        if hasattr(tokenizer, "pad_token") and tokenizer.pad_token is None:
            # Any token will do, as the mask hides it; on the right, positions do not depend on it either.
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
            tokenizer.padding_side = "right"
    return align_weights(model)


def _input_modules(model: Any) -> dict[str, Any]:
    """The modules that read texts: one for each route of a router, and otherwise the first one."""
    routes = getattr(model[0], "sub_modules", None)
    return {"": model[0]} if routes is None else {name: route[0] for name, route in routes.items()}


def _tokenizers(model: Any) -> list[Any]:
    tokenizers = (getattr(module, "tokenizer", None) for module in _input_modules(model).values())
    return list({id(tokenizer): tokenizer for tokenizer in tokenizers if tokenizer is not None}.values())


def _check_weights(model: Any, name: str, model_kwargs: Mapping[str, Any]) -> None:
    """Refuse a model with missing weights: sentence-transformers does not tell which it loaded, so look again."""
    from transformers import PreTrainedModel

    from dgr_trainer.student.loading import check_weights

    def vector(_: Any) -> Any:
        return model(model.preprocess(["a few words"]))["sentence_embedding"]

    names = {"token", "revision", "trust_remote_code", "local_files_only"}
    arguments = {key: value for key, value in model_kwargs.items() if key in names}
    for module, subfolder in zip(model, _subfolders(name, len(model), arguments), strict=True):
        loaded: Any = next((inner for inner in module.modules() if isinstance(inner, PreTrainedModel)), None)
        if loaded is None or (Path(loaded.name_or_path) / "adapter_config.json").is_file():
            continue
        try:
            _, info = type(loaded).from_pretrained(
                name,
                config=loaded.config,
                subfolder=subfolder,
                device_map={"": "meta"},  # reads no weights
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **arguments,
            )
        except OSError as error:
            logger.info("Whether %s has all weights is not known: %s", name, one_line(error))
            continue
        check_weights(loaded, info, name, vector)


def _subfolders(name: str, modules: int, arguments: Mapping[str, Any]) -> list[str]:
    """The folder of each module of a model; a model of transformers has one module for each step and no folders."""
    from transformers.utils.hub import cached_file

    quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    file = cached_file(name, "modules.json", **quietly, **arguments)
    if file is None:
        return [""] * modules
    listed = json.loads(Path(file).read_text(encoding="utf-8"))
    folders = [str(module["path"]) for module in sorted(listed, key=lambda module: int(module["idx"]))]
    return [*folders, *[""] * modules][:modules]


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingPackageError(
            'Searching with a faiss index needs faiss: pip install "dgr-trainer[faiss]".'
        ) from error
    return faiss
