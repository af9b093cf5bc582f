"""The generative retriever: takes queries, returns ranked passages."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import CommitInfo
from transformers import PreTrainedModel

from dgr_trainer.candidates import Candidates, MatchedIdentifier
from dgr_trainer.data.grades import as_qrels
from dgr_trainer.data.ids import id_list
from dgr_trainer.data.queries import queries_mapping
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.hub.measurements import Metrics
from dgr_trainer.hub.repositories import HubRepository
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.processes import Processes, ResultsOn, gets_results, map_across_processes
from dgr_trainer.retrieval.candidate_search import CandidateSearch
from dgr_trainer.retrieval.decoder import decoding_way
from dgr_trainer.retrieval.hit_lists import Hits, SearchResults
from dgr_trainer.retrieval.hub import COMMIT_MESSAGE, CardOptions, CommitOptions, find_retriever, push_retriever
from dgr_trainer.retrieval.identifier_lengths import warn_of_lengths
from dgr_trainer.retrieval.passage_choice import PassageIds, choices, one_choice
from dgr_trainer.retrieval.search_engine import SearchEngine, SearchRequest
from dgr_trainer.retrieval.settings import SearchSettings, check_lookahead
from dgr_trainer.retrieval.storage import RetrieverParts, add_index, load_parts, save_retriever
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.semantic_ids.ids import SemanticIds
from dgr_trainer.student.model_facts import embedding_rows
from dgr_trainer.student.probing import scoring_way
from dgr_trainer.student.prompt_check import check_prompts

if TYPE_CHECKING:
    from datasets import Dataset

    from dgr_trainer.data.corpus import Corpus


class GenerativeRetriever:
    """Finds passages by letting a model generate their identifiers.

    For each view, the model generates identifiers that occur in the corpus. Words of the query and probable single
    tokens are added, all are weighted (`ScoringSettings`), and passages are ranked by the identifiers that they
    contain. With `ScoringSettings(kind="log_likelihood")` and one view, title or docid, the score of a passage is the
    log-likelihood of its identifier.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): The student: an encoder-decoder model such
            as BART or T5, or a decoder-only one such as Llama or Qwen3.
        identifiers ([`Identifiers`]): Tokenizer, views, markers and prompts.
        index ([`FMIndex`]): Index of the corpus, built with the same tokenizer.
        corpus ([`Corpus`], *optional*): The passages, to be saved with the retriever.
        settings ([`SearchSettings`], *optional*): Limits of a search.
        scoring ([`ScoringSettings`], *optional*): How identifiers are weighted.
        semantic_ids ([`SemanticIds`], *optional*): What the docids are made by, to be saved with the retriever, so
            that further passages can be given docids.

    Raises:
        ValueError: if model, tokenizer, index, corpus, scoring and semantic ids do not match.

    Example:

    ```python
    index = FMIndex.from_corpus(corpus, identifiers)
    retriever = GenerativeRetriever(model, identifiers, index)
    for hit in retriever.search("who discovered penicillin", k=3)[0]:
        print(hit.passage_id, hit.score, [retriever.identifier_text(i) for i in hit.identifiers])
    ```
    """

    def __init__(
        self,
        model: PreTrainedModel | torch.nn.Module,
        identifiers: Identifiers,
        index: FMIndex,
        *,
        corpus: Corpus | None = None,
        settings: SearchSettings | None = None,
        scoring: ScoringSettings | None = None,
        semantic_ids: SemanticIds | None = None,
    ) -> None:
        self.model = model
        self.identifiers = identifiers
        self.index = index
        self.corpus = corpus
        self.semantic_ids = semantic_ids
        self.scoring = scoring or ScoringSettings()
        index.check_tokenizer(identifiers)
        # All raise an error if the model cannot be searched with.
        check_prompts(model, identifiers)
        decoding_way(model)
        scoring_way(model)
        embeddings = embedding_rows(model)
        if embeddings < identifiers.vocab_size:
            raise DGRValueError(
                f"The model embeds {embeddings} tokens, but the tokenizer has {identifiers.vocab_size}. Call "
                "model.resize_token_embeddings(len(tokenizer)) before training."
            )
        if corpus is not None and len(corpus) != index.num_passages:
            raise DGRValueError(
                f"The corpus has {len(corpus)} passages, but the index holds {index.num_passages}: it was built from "
                "another corpus. Build it again with FMIndex.from_corpus(corpus, identifiers)."
            )
        if self.scoring.kind == "log_likelihood" and identifiers.views not in (("title",), ("docid",)):
            raise DGRValueError(
                f"kind='log_likelihood' scores a passage by its one identifier, but the views are "
                f"{', '.join(identifiers.views)}. Use IdentifierSettings(views=('docid',)) or ('title',), or "
                "ScoringSettings(kind='log_odds')."
            )
        if semantic_ids is not None:
            semantic_ids.check_tokenizer(identifiers.tokenizer)
        self.settings = settings or SearchSettings()

    @property
    def settings(self) -> SearchSettings:
        """Limits of a search."""
        return self._settings

    @settings.setter
    def settings(self, settings: SearchSettings) -> None:
        check_lookahead(settings, self.scoring, self.identifiers.views)
        warn_of_lengths(self.model, self.index, self.identifiers, settings)
        self._settings = settings

    # Searching

    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        include: Sequence[Sequence[str]] | None = None,
        accelerator: Processes | None = None,
        *,
        results_on: ResultsOn = "main",
        among: PassageIds | Sequence[PassageIds | None] | None = None,
        exclude: PassageIds | Sequence[PassageIds | None] | None = None,
        leave_out_own_text: bool = False,
    ) -> SearchResults:
        """Find passages.

        Args:
            queries (`str` or `Sequence[str]`): One query or many.
            k (`int`, defaults to 10): Passages to return for each query; fewer if fewer are found.
            include (`Sequence[Sequence[str]]`, *optional*):
                For each query, ids of passages that are always scored, and returned even if they are not among the k
                best. One that no identifier of the query matches comes last, without identifiers: its score is 0, or
                -1e9 with `kind="log_likelihood"` (a passage without a title, if titles are the view).
            accelerator ([`~accelerate.Accelerator`] or [`~accelerate.PartialState`], *optional*):
                The processes that share the work. Each calls this with the same arguments, and searches for every
                n-th batch of `SearchSettings.batch_size` queries, so that the result does not depend on their number.
            results_on (`str`, *optional*, defaults to `"main"`):
                With several processes, which of them return the result. `"main"`: the main process returns all of it,
                the others an empty one, so that their memory does not grow with the number of queries. `"all"`: every
                process returns all of it.
            among (`Collection[str]` or `np.ndarray` of bool, *optional*):
                Passages to search among, as if the index held only these: their ids, or a mask with one value for each
                passage, in the order of the index. For passages of each query, a list of such sets, or `None` for all,
                in the order of the queries.
            exclude (`Collection[str]` or `np.ndarray` of bool, *optional*):
                Passages to leave out, likewise; also of those in `among`.
            leave_out_own_text (`bool`, defaults to `False`):
                Whether to search for each query as if the index held no pseudo-query with the same tokens, see
                `candidates`.

        Returns:
            [`SearchResults`]: a list of the hits of each query (also of a single one), best first; of equal ones the
            larger id first. A notebook shows it as tables. An empty query has no hits except the included passages.
            With several processes see `results_on`.

        Raises:
            TypeError: if a query is not a string, or passages are not given as collections of ids.
            ValueError: if k is below 1, the number of include lists or of sets of passages is not that of the queries,
                no passage is left to search, or `results_on` is unknown.
            KeyError: if a passage is not in the index, or an included one is not among those to search.
        """
        queries = [queries] if isinstance(queries, str) else list(queries)
        for number, query in enumerate(queries):
            if not isinstance(query, str):
                raise DGRTypeError(
                    f"A query is {query!r} ({type(query).__name__}). Give strings: this is query {number} of "
                    f"{len(queries)}, counted from 0."
                )
        if include is None:
            include = [()] * len(queries)
        if len(include) != len(queries):
            raise DGRValueError(
                f"There are {len(queries)} queries but {len(include)} include lists. Give one list per query, which "
                "may be empty."
            )
        include = [id_list(ids, f"include (of query {number})") for number, ids in enumerate(include)]
        passages = choices(self.index, among, exclude, len(queries))
        requests = [
            SearchRequest(query, ids, of_query, leave_out_own_text)
            for query, ids, of_query in zip(queries, include, passages, strict=True)
        ]
        engine = SearchEngine(self._parts)
        found = list(
            map_across_processes(
                requests,
                lambda share: engine.search(share, k, accelerator),
                accelerator,
                block=self.settings.batch_size,
                results_on=results_on,
            )
        )
        return SearchResults(
            Hits(hits, query=query, identifiers=self.identifiers, corpus=self.corpus)
            for query, hits in zip(queries, found, strict=False)  # A process may get no results.
        )

    def rank(
        self,
        queries: Dataset | Mapping[str, str],
        k: int = 100,
        accelerator: Processes | None = None,
        *,
        results_on: ResultsOn = "main",
        ignore_identical_ids: bool = False,
        among: PassageIds | Mapping[str, PassageIds | None] | None = None,
        exclude: PassageIds | Mapping[str, PassageIds | None] | None = None,
        leave_out_own_text: bool = False,
    ) -> Rankings:
        """Rank lists of queries.

        Args:
            queries (`datasets.Dataset` with columns `query_id` and `query`, or `Mapping[str, str]`): The queries.
            k (`int`, defaults to 100): Passages per query.
            accelerator ([`~accelerate.Accelerator`] or [`~accelerate.PartialState`], *optional*): See `search`.
            results_on (`str`, *optional*, defaults to `"main"`): See `search`.
            ignore_identical_ids (`bool`, defaults to `False`):
                Whether to leave out the passage that has the id of the query, for corpora that hold the queries.
            among (`Collection[str]` or `np.ndarray` of bool, *optional*): Passages to search among, see `search`. For
                passages of each query, a mapping from the id of every query to such a set, or to `None` for all.
            exclude (`Collection[str]` or `np.ndarray` of bool, *optional*): Passages to leave out, likewise; a
                mapping need not have all queries.
            leave_out_own_text (`bool`, defaults to `False`):
                Whether to leave out pseudo-queries that are the query, see `candidates`: to compare ranks of training
                queries with those of others.

        Returns:
            [`Rankings`]: the rank list of each query; no lists in a process that gets no results.
        """
        if ignore_identical_ids:
            ranked = self.rank(
                queries,
                k + 1,
                accelerator,
                results_on=results_on,
                among=among,
                exclude=exclude,
                leave_out_own_text=leave_out_own_text,
            )
            return ranked.without_identical_ids().top(k)
        texts = queries_mapping(queries)
        engine = SearchEngine(self._parts)

        def rank_lists(requests: Sequence[SearchRequest]) -> Iterator[list[tuple[str, float]]]:
            for result in engine.results(requests, k, accelerator):
                yield [(hit.passage_id, hit.score) for hit in result.hits]

        passages = choices(self.index, among, exclude, list(texts))
        requests = [
            SearchRequest(text, (), of_query, leave_out_own_text)
            for text, of_query in zip(texts.values(), passages, strict=True)
        ]
        lists = map_across_processes(
            requests, rank_lists, accelerator, block=self.settings.batch_size, results_on=results_on
        )
        return Rankings(dict(zip(texts, lists, strict=True)) if gets_results(accelerator, results_on) else {})

    def candidates(
        self,
        queries: Dataset | Mapping[str, str],
        k: int = 100,
        relevant: Mapping[str, Mapping[str, int]] | None = None,
        accelerator: Processes | None = None,
        *,
        results_on: ResultsOn = "main",
        ignore_identical_ids: bool = False,
        leave_out_own_text: bool = True,
        among: PassageIds | None = None,
        exclude: PassageIds | None = None,
    ) -> Candidates:
        """Find passages to train on, with the identifiers by which they were found.

        Args:
            queries (`datasets.Dataset` with columns `query_id` and `query`, or `Mapping[str, str]`): Training queries.
            k (`int`, defaults to 100): Passages per query.
            relevant (`Mapping[str, Mapping[str, int]]`, *optional*):
                Qrels. Relevant passages (grade above 0) are always among the candidates, each at least with its title
                or docid; if no identifier led to it, also with its pseudo-queries and first words. The score of the
                identifiers added this way is 0. A passage that has none of these is a candidate without identifiers,
                and training leaves it out.
            accelerator ([`~accelerate.Accelerator`] or [`~accelerate.PartialState`], *optional*): See `search`.
            results_on (`str`, *optional*, defaults to `"main"`): See `search`. For training in several processes, use
                `save_candidates` and open the folder in each: its files are mapped into memory once for all of them.
            ignore_identical_ids (`bool`, defaults to `False`):
                Whether to leave out the passage that has the id of the query, even if it is relevant.
            leave_out_own_text (`bool`, defaults to `True`):
                Whether to search for each query as if the index held no pseudo-query with the same tokens, of any
                passage. Training queries are often pseudo-queries of their relevant passages, and would be found by
                their own text, as no other query is.
            among (`Collection[str]` or `np.ndarray` of bool, *optional*): Passages to search among, see `search`; the
                same for all queries, since the counts of identifiers belong to one corpus.
            exclude (`Collection[str]` or `np.ndarray` of bool, *optional*): Passages to leave out, likewise.

        Returns:
            [`Candidates`]: the passages of each query; of no query in a process that gets no results.
        """
        search = self._candidate_search(
            queries, k, relevant, accelerator, ignore_identical_ids, leave_out_own_text, among, exclude
        )
        return search.candidates(results_on)

    def save_candidates(
        self,
        path: str | os.PathLike[str],
        queries: Dataset | Mapping[str, str],
        k: int = 100,
        relevant: Mapping[str, Mapping[str, int]] | None = None,
        accelerator: Processes | None = None,
        *,
        ignore_identical_ids: bool = False,
        leave_out_own_text: bool = True,
        among: PassageIds | None = None,
        exclude: PassageIds | None = None,
    ) -> None:
        """Write what `candidates` finds to a folder that [`Candidates.load_from_disk`] opens.

        Each batch is written to disk when it is done, to a file named after the folder with `.unfinished` appended
        (and the number of the process, except for the first one), and no process holds all batches in memory. After an
        interruption, the same call resumes from there, with any number of processes and with the same result.

        Args:
            path (`str` or `os.PathLike`): The folder.
            queries (`datasets.Dataset` or `Mapping[str, str]`): See `candidates`.
            k (`int`, defaults to 100): See `candidates`.
            relevant (`Mapping[str, Mapping[str, int]]`, *optional*): See `candidates`.
            accelerator ([`~accelerate.Accelerator`] or [`~accelerate.PartialState`], *optional*): See `search`.
            ignore_identical_ids (`bool`, defaults to `False`): See `candidates`.
            leave_out_own_text (`bool`, defaults to `True`): See `candidates`.
            among (`Collection[str]` or `np.ndarray` of bool, *optional*): See `candidates`.
            exclude (`Collection[str]` or `np.ndarray` of bool, *optional*): See `candidates`.

        Raises:
            FileExistsError: if the folder holds other files.
            RuntimeError: if another job is writing candidates to the same folder; names its process.
            ValueError: if the unfinished file belongs to other queries, settings, weights or another index.
        """
        search = self._candidate_search(
            queries, k, relevant, accelerator, ignore_identical_ids, leave_out_own_text, among, exclude
        )
        search.save(Path(path))

    def _candidate_search(
        self,
        queries: Dataset | Mapping[str, str],
        k: int,
        relevant: Mapping[str, Mapping[str, int]] | None,
        processes: Processes | None,
        ignore_identical_ids: bool,
        leave_out_own_text: bool,
        among: PassageIds | None,
        exclude: PassageIds | None,
    ) -> CandidateSearch:
        return CandidateSearch(
            SearchEngine(self._parts),
            queries_mapping(queries),
            as_qrels(relevant or {}),
            k,
            processes,
            ignore_identical_ids,
            leave_out_own_text,
            one_choice(self.index, among, exclude),
        )

    def identifier_text(self, identifier: MatchedIdentifier) -> str:
        """Text of an identifier, without its closing marker."""
        return self.identifiers.text(identifier.view, identifier.ids)

    # Saving and loading

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write everything that a search needs to a folder, which appears only when it is complete.

        The model (or adapter) and the tokenizer are in the folder itself, as `AutoModelForSeq2SeqLM.from_pretrained`
        (for decoder-only models `AutoModelForCausalLM`, for adapters `AutoPeftModelForSeq2SeqLM` or
        `AutoPeftModelForCausalLM`) and `AutoTokenizer.from_pretrained` expect them. The folder also contains
        `index/`, `retriever.json`, and `corpus/` and `semantic_ids/` if the retriever has them.

        Args:
            path (`str` or `os.PathLike`): A new or empty folder, or one written by this function before.

        Raises:
            FileExistsError: if the folder holds other files.
            ValueError: if the model is an adapter whose configuration does not name the base model.
        """
        save_retriever(self._parts, Path(path))

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        settings: SearchSettings | None = None,
        base_model: PreTrainedModel | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **model_kwargs: Any,
    ) -> GenerativeRetriever:
        """Load a retriever that `save_pretrained` wrote, or one that `push_to_hub` uploaded.

        Args:
            path (`str` or `os.PathLike`): The folder, or the name of a repository on the Hub, such as
                `me/my-retriever`. A folder of that name goes first.
            settings ([`SearchSettings`], *optional*): Settings to use instead of the saved ones.
            base_model ([`~transformers.PreTrainedModel`], *optional*):
                Base model of a saved adapter, instead of the one that its configuration names.
            revision (`str`, *optional*): Branch, tag or commit of the repository; by default `main`.
            cache_dir (`str` or `os.PathLike`, *optional*): Where it is downloaded to; by default the cache of
                huggingface_hub.
            token (`str` or `bool`, *optional*): Token for the Hub; by default that of `hf auth login` or `HF_TOKEN`.
            local_files_only (`bool`, *optional*, defaults to `False`): Whether to use the cache and not ask the Hub;
                so does `HF_HUB_OFFLINE=1`.
            force_download (`bool`, *optional*, defaults to `False`): Whether to download what the cache has.
            **model_kwargs: Passed on to `from_pretrained` of the model, for example `dtype` or `device_map`.

        Returns:
            [`GenerativeRetriever`]: the retriever.

        Raises:
            FileNotFoundError: if there is no such folder, repository or revision, or a part is missing.
            PermissionError: if the repository may not be downloaded without logging in, or by this user.
            ConnectionError: if it is not in the cache, and the Hub cannot be reached.
            ValueError: if the parts do not match, a newer version wrote them, or the repository holds a pickle.
        """
        folder = find_retriever(
            path,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        # The base model of an adapter may be on the Hub, too.
        given: dict[str, Any] = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
        # So may a pickle that it consists of.
        given["use_safetensors"] = folder != Path(path)
        parts = load_parts(folder, base_model, {name: value for name, value in given.items() if value} | model_kwargs)
        return cls(**{**vars(parts), "settings": settings or parts.settings})

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        metrics: Metrics | None = None,
        evaluated_on: str | None = None,
        metrics_run: str | None = None,
        datasets: str | Sequence[str] = (),
        language: str | Sequence[str] = (),
        tags: str | Sequence[str] = (),
        base_model: str | None = None,
        include_corpus: bool = False,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = COMMIT_MESSAGE,
        commit_description: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Upload the retriever to the Hugging Face Hub, where `from_pretrained` loads it by its name.

        The repository holds what `save_pretrained` writes, without the corpus, and a model card. Files that it has
        already are not sent again; parts of an older retriever that this one does not have are deleted. Text that
        somebody wrote into the card is kept. An index holds the tokens of its passages: whoever may read the
        repository can restore their text, also without the corpus.

        With several processes, call it in one of them.

        Args:
            repo_id (`str`): `user/name`, or a name, which is then one of yours. Created if it does not exist.
            license (`str`, *optional*): Identifier of the licence, such as `apache-2.0`; `unknown` if it is not
                decided. Optional only if the card of the repository has one.
            metrics (`Mapping`, [`RunComparison`] or path, *optional*): Numbers for the card: values by metric, what
                [`compare_runs`] returns, or a JSON file of one of them, such as that of `dgr evaluate --json`.
            evaluated_on (`str`, *optional*): Name of the data set of `metrics`.
            metrics_run (`str`, *optional*): Which run of a comparison of several is this retriever's.
            datasets (`str` or `Sequence[str]`, *optional*): Data sets that it was trained on, by their names on
                the Hub.
            language (`str` or `Sequence[str]`, *optional*): Languages of the passages, such as `"en"`.
            tags (`str` or `Sequence[str]`, *optional*): Further tags.
            base_model (`str`, *optional*): Name on the Hub of the model that it was trained from. By default the one
                that an adapter names.
            include_corpus (`bool`, *optional*, defaults to `False`): Whether to upload the passages.
            private (`bool`, *optional*): Whether the repository is private, if it is created.
            token (`str` or `bool`, *optional*): Token for the Hub; by default that of `hf auth login` or `HF_TOKEN`.
            revision (`str`, *optional*): Branch to upload to; created if it does not exist.
            commit_message (`str`, *optional*): Message of the commit.
            commit_description (`str`, *optional*): More about it.
            create_pr (`bool`, *optional*, defaults to `False`): Whether to open a pull request instead.

        Returns:
            [`~huggingface_hub.CommitInfo`]: the commit, with its address.

        Raises:
            ValueError: if no licence is given, `metrics` are not numbers, the name is not one of a repository, or an
                adapter belongs to a model that is not on the Hub.
            PermissionError: if you are not logged in, or the token does not allow it.
            ConnectionError: if the Hub cannot be reached.
        """
        card = CardOptions(license, metrics, evaluated_on, metrics_run, datasets, language, tags, base_model)
        commit = CommitOptions(include_corpus, private, commit_message, commit_description, create_pr)
        return push_retriever(self._parts, HubRepository(repo_id, revision, token), card, commit)

    def add_index(self, model: torch.nn.Module, folder: Path) -> None:
        """Make the folder of a saved model that of this retriever with that model, which `from_pretrained` loads.

        Args:
            model (`nn.Module`): The model that is saved there: this retriever's, or one trained further.
            folder (`pathlib.Path`): The folder, with the model and the tokenizer.

        Raises:
            ValueError: if the model has several adapters.
        """
        add_index(replace(self._parts, model=model), folder)

    @property
    def _parts(self) -> RetrieverParts:
        return RetrieverParts(
            self.model, self.identifiers, self.index, self.corpus, self.settings, self.scoring, self.semantic_ids
        )
