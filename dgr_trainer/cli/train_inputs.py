"""What `dgr train` reads: checked first, in an order that finds mistakes before anything long is done."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgr_trainer.cli.pairs import read_pairs
from dgr_trainer.cli.paths import input_path, model_name
from dgr_trainer.cli.settings import IdentifierOptions, PairOptions, ScoringOptions
from dgr_trainer.cli.sources import (
    IndexFolder,
    check_split,
    index_folder,
    load_tokenizer,
    make_identifiers,
    needed_index,
    open_index,
    read_corpus,
    read_identifier_strings,
    read_qrels_of,
    read_queries_of,
    read_run,
)
from dgr_trainer.cli.train_options import (
    OF_COLLATOR,
    OF_DISTILLATION,
    OF_GENERATION,
    EvaluationOptions,
    LoraOptions,
    TrainOptions,
)
from dgr_trainer.errors import DGRValueError

if TYPE_CHECKING:
    from datasets import Dataset

    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.evaluation.evaluator import RetrievalEvaluator
    from dgr_trainer.identifier_weights import ScoringSettings
    from dgr_trainer.identifiers import Identifiers
    from dgr_trainer.index import FMIndex
    from dgr_trainer.retrieval.settings import SearchSettings
    from dgr_trainer.training.collator import DistillationCollator


@dataclass
class TrainInputs:
    """All that is needed beside the model: data, and what makes a retriever of the model."""

    model_name: str
    identifiers: Identifiers
    dataset: Dataset
    collator: DistillationCollator | None
    index: FMIndex | None
    corpus: Corpus | None
    search: SearchSettings | None
    scoring: ScoringSettings | None
    evaluator: RetrievalEvaluator | None


def check(
    options: TrainOptions, lora: LoraOptions, evaluation: EvaluationOptions, scoring_options: ScoringOptions
) -> None:
    """Look at the options and at the paths in them, before anything is read.

    Raises:
        ValueError: if options are missing or do not go together.
        OSError: if a path is not there.
    """
    of_other = OF_DISTILLATION if options.stage == "generation" else (*OF_GENERATION, "corpus")
    misplaced = [name for name in of_other if getattr(options, name)]
    if misplaced:
        raise DGRValueError(f"--{misplaced[0]} has no part in --stage {options.stage}. Leave it out.")
    check_split(options.split, options.queries, options.qrels)
    check_split(evaluation.eval_split, evaluation.eval_queries, evaluation.eval_qrels)
    model_name("--model", options.model)
    for name in ("queries", "qrels", "corpus", "pairs", "candidates", "run", "identifiers"):
        if getattr(options, name) is not None:
            folder = True if name == "candidates" else False if name == "identifiers" else None
            input_path(f"--{name}", getattr(options, name), folder=folder)
    found = _index_of(options)
    if options.stage == "generation":
        _check_generation(options, found)
    else:
        _check_distillation(options)
    if (evaluation.eval_queries is None) != (evaluation.eval_qrels is None):
        raise DGRValueError("--eval_queries and --eval_qrels go together.")
    if evaluation.eval_queries is not None and found is None:
        raise DGRValueError("--eval_queries: retrieval is evaluated with an index. Give --index.")
    if lora.lora_r < 0 or not 0 <= lora.lora_dropout < 1:
        raise DGRValueError(
            f"--lora_r {lora.lora_r} has to be at least 0, --lora_dropout {lora.lora_dropout} in [0, 1)."
        )
    without = [one.name for one in fields(lora) if one.name != "lora_r" and getattr(lora, one.name)]
    if without and not lora.lora_r:
        raise DGRValueError(f"--{without[0]} says how a LoRA adapter is made, but --lora_r is 0. Give its rank.")
    from dgr_trainer.identifier_weights import ScoringSettings

    ScoringSettings(**scoring_options.given())


def _check_generation(options: TrainOptions, found: IndexFolder | None) -> None:
    if options.pairs is not None:
        given = [name for name in ("corpus", "queries", "qrels") if getattr(options, name) is not None]
        if given:
            raise DGRValueError(f"--pairs are made already, so --{given[0]} has no part. Give one or the other.")
    elif options.corpus is None and (found is None or found.corpus is None):
        raise DGRValueError(
            "There is nothing to train on. Give --pairs, or a corpus: --corpus, or an --index with its corpus beside "
            "it (and --queries with --qrels, if there are any)."
        )
    elif (options.queries is None) != (options.qrels is None):
        raise DGRValueError(
            "--queries and --qrels go together: pairs are made of a query and the passage it asks for."
        )


def _check_distillation(options: TrainOptions) -> None:
    for name in ("queries", "run"):
        if getattr(options, name) is None:
            raise DGRValueError(f"--stage distillation needs --{name}.")
    if (options.candidates is None) == (options.identifiers is None):
        raise DGRValueError(
            "--stage distillation needs the identifiers of passages: either --candidates, which `dgr candidates` "
            "makes, or --identifiers, one string a passage."
        )


def _index_of(options: TrainOptions) -> IndexFolder | None:
    if options.index is not None:
        return needed_index("--index", options.index)
    return index_folder(Path(options.model)) if Path(options.model).is_dir() else None


def read(
    options: TrainOptions,
    pair_options: PairOptions,
    identifier_options: IdentifierOptions,
    scoring_options: ScoringOptions,
    evaluation: EvaluationOptions,
    seed: int,
) -> TrainInputs:
    """Read all inputs, small ones first.

    Raises:
        ValueError, OSError: if something is malformed or does not go together.
    """
    from dgr_trainer.identifiers import IdentifierSettings

    queries = read_queries_of(options.queries, options.split) if options.queries else None
    qrels = read_qrels_of(options.qrels, options.split) if options.qrels else None
    name = model_name("--model", options.model)
    found = _index_of(options)
    if found is not None:
        settings = found.settings(identifier_options)
    else:
        settings = IdentifierSettings(**identifier_options.given())
    if options.identifiers is not None:
        settings = _one_string(settings, found)
    identifiers = make_identifiers(load_tokenizer(name), settings)
    index = corpus = None
    if found is not None:
        index, corpus = open_index(found, identifiers.fingerprint)
        index.check_tokenizer(identifiers)
    search, scoring = _settings(options, index_folder(Path(name)) if Path(name).is_dir() else None, scoring_options)
    evaluator = None
    if index is not None and evaluation.eval_queries is not None:
        evaluator = _evaluator(evaluation, index, identifiers, search, scoring)
    inputs = TrainInputs(name, identifiers, queries, None, index, corpus, search, scoring, evaluator)
    if options.stage == "generation":
        inputs.dataset = _pairs(options, pair_options, inputs, queries, qrels, seed)
    else:
        inputs.collator = _collator(options, inputs, qrels, seed)
    return inputs


def _one_string(settings: Any, found: IndexFolder | None) -> Any:
    """Settings for one identifier string a passage, which is its docid."""
    if found is None or settings.views == ("docid",):
        return replace(settings, views=("docid",))
    raise DGRValueError(
        f"--identifiers trains one string a passage, its docid, but the index has the views "
        f"{', '.join(settings.views)}. Index the corpus with --views docid and these strings as `docid`, or leave the "
        "index out."
    )


def _settings(
    options: TrainOptions, retriever: IndexFolder | None, scoring_options: ScoringOptions
) -> tuple[SearchSettings | None, ScoringSettings | None]:
    """Settings of search and scoring: those of the retriever that is trained further, and what was given."""
    from dgr_trainer.identifier_weights import ScoringSettings
    from dgr_trainer.retrieval.settings import SearchSettings

    saved = {} if retriever is None else retriever.description
    search = SearchSettings.from_dict(saved["search"]) if "search" in saved else None
    scoring = ScoringSettings.from_dict(saved["scoring"]) if "scoring" in saved else ScoringSettings()
    if options.identifiers is not None:
        scoring = replace(scoring, kind="log_likelihood")
    return search, replace(scoring, **scoring_options.given())


def _evaluator(
    evaluation: EvaluationOptions,
    index: FMIndex,
    identifiers: Identifiers,
    search: SearchSettings | None,
    scoring: ScoringSettings | None,
) -> RetrievalEvaluator:
    from dgr_trainer.evaluation.evaluator import RetrievalEvaluator
    from dgr_trainer.retrieval.settings import SearchSettings

    search = search or SearchSettings()
    if evaluation.eval_beam_size is not None:
        search = replace(search, beam_size=evaluation.eval_beam_size)
    assert evaluation.eval_queries is not None and evaluation.eval_qrels is not None
    return RetrievalEvaluator(
        index,
        identifiers,
        read_queries_of(evaluation.eval_queries, evaluation.eval_split, "--eval_queries"),
        read_qrels_of(evaluation.eval_qrels, evaluation.eval_split, "--eval_qrels"),
        metrics=evaluation.eval_metrics,
        k=evaluation.eval_k,
        settings=search,
        scoring=scoring,
        max_queries=evaluation.eval_max_queries,
    )


def _pairs(
    options: TrainOptions, pair_options: PairOptions, inputs: TrainInputs, queries: Any, qrels: Any, seed: int
) -> Dataset:
    identifiers = inputs.identifiers
    if options.pairs is not None:
        return read_pairs(Path(options.pairs), identifiers.fingerprint, identifiers.vocab_size)
    from dgr_trainer.training.pairs import generation_pairs

    corpus = inputs.corpus if options.corpus is None else read_corpus("--corpus", options.corpus)
    assert corpus is not None
    return generation_pairs(corpus, identifiers, queries, qrels, seed=seed, **pair_options.arguments())


def _collator(options: TrainOptions, inputs: TrainInputs, qrels: Any, seed: int) -> DistillationCollator:
    from dgr_trainer.candidates import Candidates
    from dgr_trainer.training.collator import DistillationCollator

    assert options.run is not None
    source: Any
    if options.candidates is not None:
        source = Candidates.load_from_disk(options.candidates, tokenizer_fingerprint=inputs.identifiers.fingerprint)
    else:
        assert options.identifiers is not None
        source = read_identifier_strings("--identifiers", options.identifiers)
        _check_strings(source, inputs)
    given = {name: getattr(options, name) for name in OF_COLLATOR}
    return DistillationCollator(
        inputs.identifiers,
        source,
        read_run("--run", options.run),
        qrels,
        relevant_first=not options.teacher_order,
        scoring=inputs.scoring,
        seed=seed,
        **{name: value for name, value in given.items() if value is not None},
    )


def _check_strings(strings: dict[str, str], inputs: TrainInputs) -> None:
    """Refuse identifier strings that are not those of the index."""
    if inputs.index is None:
        return
    from dgr_trainer.data.passages import Passage

    sample = [Passage(id=id, docid=string) for id, string in list(strings.items())[:100]]
    identifiers = inputs.identifiers
    for passage, segments in zip(sample, identifiers.encode_segments(sample), strict=True):
        if not inputs.index.count(identifiers.pattern("docid", identifiers.target("docid", segments.docid))):
            raise DGRValueError(
                f"--identifiers: {passage.docid!r} of passage {passage.id!r} is no docid in the index. Index the "
                "corpus with these strings as `docid`."
            )
