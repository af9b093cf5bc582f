"""Inputs of `dgr train`: all are checked before any is read, and read before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dgr_trainer.cli.models import load_identifiers
from dgr_trainer.cli.pairs import PairOptions, read_pairs
from dgr_trainer.cli.paths import input_path, model_name
from dgr_trainer.cli.round_options import RoundChoices, check_rounds
from dgr_trainer.cli.settings import IdentifierOptions
from dgr_trainer.cli.sources import (
    IndexFolder,
    check_part,
    check_split,
    index_folder,
    needed_index,
    open_index,
    read_corpus,
    read_identifier_strings,
    read_qrels_of,
    read_queries_of,
    read_run,
)
from dgr_trainer.cli.train_options import (
    ONLY_DISTILLATION,
    ONLY_GENERATION,
    CollatorOptions,
    EvaluationOptions,
    LoraOptions,
    ScoringOptions,
    TrainOptions,
)
from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.retrieval.settings import SearchSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from dgr_trainer.data.corpus import Corpus
    from dgr_trainer.data.queries import Qrels
    from dgr_trainer.evaluation.evaluator import RetrievalEvaluator
    from dgr_trainer.identifiers import Identifiers, IdentifierSettings
    from dgr_trainer.index import FMIndex
    from dgr_trainer.training.collator import DistillationCollator


@dataclass
class AllOptions:
    """All options of `dgr train` that say what is read."""

    train: TrainOptions
    collator: CollatorOptions
    lora: LoraOptions
    evaluation: EvaluationOptions
    pairs: PairOptions
    identifiers: IdentifierOptions
    scoring: ScoringOptions
    rounds: RoundChoices


@dataclass
class TrainInputs:
    """Everything for training except the model: data, and what makes a retriever of the model.

    Args:
        model_name (`str`): Name or absolute path of the student.
        identifiers ([`Identifiers`]): Tokenizer and views of the student.
        index ([`FMIndex`], *optional*): The index, if the result is a retriever.
        corpus ([`Corpus`], *optional*): The corpus of the index.
        search ([`SearchSettings`], *optional*): The settings saved with the retriever that is trained further.
        scoring ([`ScoringSettings`]): How identifiers are weighted.
        dataset (`datasets.Dataset`): Generation pairs, or the training queries; these also for rounds.
        collator ([`DistillationCollator`], *optional*): Turns queries into batches, for distillation.
        evaluator ([`RetrievalEvaluator`], *optional*): Evaluates retrieval.
        qrels (`Qrels`, *optional*): The relevant passages of the training queries.
        pairs (`datasets.Dataset`, *optional*): Pairs that every round of generation trains on.
    """

    model_name: str
    identifiers: Identifiers
    index: FMIndex | None
    corpus: Corpus | None
    search: SearchSettings | None
    scoring: ScoringSettings
    dataset: Dataset
    collator: DistillationCollator | None
    evaluator: RetrievalEvaluator | None
    qrels: Qrels | None = None
    pairs: Dataset | None = None


def check(options: AllOptions) -> None:
    """Check the options and the paths in them, before anything is read.

    Raises:
        ValueError: if options are missing or do not go together.
        OSError: if a path is missing.
    """
    train, evaluation = options.train, options.evaluation
    if train.stage == "generation":
        other_stage = [name for name in ONLY_DISTILLATION if getattr(train, name)] + options.collator.given_names()
    else:
        other_stage = [name for name in ONLY_GENERATION if getattr(train, name)] + options.pairs.given_names()
    if options.rounds.wanted:  # They search, and a teacher reads passages.
        other_stage = [name for name in other_stage if name not in ("corpus", "ignore_identical_ids")]
    if other_stage:
        raise DGRValueError(f"--{other_stage[0]} has no effect in --stage {train.stage}. Leave it out.")
    check_split(train.split, train.queries, train.qrels)
    check_part(train.part, train.queries)
    check_split(evaluation.eval_split, evaluation.eval_queries, evaluation.eval_qrels)
    model_name("--model", train.model)
    for name in ("queries", "qrels", "corpus", "pairs", "candidates", "run", "identifiers"):
        if getattr(train, name) is not None:
            folder = True if name == "candidates" else False if name == "identifiers" else None
            input_path(f"--{name}", getattr(train, name), folder=folder)
    index = _index_of(train)
    check_rounds(options.rounds, train, evaluation, options.pairs, index)
    if not options.rounds.wanted:
        if train.stage == "generation":
            _check_generation(train, options.pairs, index)
        else:
            _check_distillation(train)
    _check_evaluation(evaluation, index)
    _check_lora(options.lora)
    _check_scoring(options.scoring, train, index)


def _check_evaluation(evaluation: EvaluationOptions, index: IndexFolder | None) -> None:
    if (evaluation.eval_queries is None) != (evaluation.eval_qrels is None):
        raise DGRValueError("--eval_queries and --eval_qrels go together.")
    if evaluation.eval_queries is None:
        if given := evaluation.given_names():
            raise DGRValueError(
                f"--{given[0]} is about the evaluation of retrieval, for which there are no queries. Give "
                "--eval_queries and --eval_qrels, or leave it out."
            )
    elif index is None:
        raise DGRValueError("--eval_queries: retrieval is evaluated with an index. Give --index.")


def _check_scoring(scoring: ScoringOptions, train: TrainOptions, index: IndexFolder | None) -> None:
    ScoringSettings(**scoring.given())
    given = scoring.given_names()
    if given and index is None and train.candidates is None:
        raise DGRValueError(
            f"--{given[0]} weighs the identifiers of --candidates and of searches with an index, but there are "
            "neither. Leave it out."
        )


def _check_lora(lora: LoraOptions) -> None:
    if lora.lora_r < 0 or not 0 <= lora.lora_dropout < 1:
        raise DGRValueError(
            f"--lora_r {lora.lora_r} has to be at least 0, --lora_dropout {lora.lora_dropout} in [0, 1)."
        )
    given = [option.name for option in fields(lora) if option.name != "lora_r" and getattr(lora, option.name)]
    if given and not lora.lora_r:
        raise DGRValueError(f"--{given[0]} is a setting of a LoRA adapter, but --lora_r is 0. Give its rank.")


def _check_generation(options: TrainOptions, pairs: PairOptions, index: IndexFolder | None) -> None:
    if options.pairs is not None:
        given = [name for name in ("corpus", "queries", "qrels") if getattr(options, name) is not None]
        given += pairs.given_names()
        if given:
            raise DGRValueError(f"--pairs are made already, so --{given[0]} has no effect. Give one or the other.")
    elif options.corpus is None and (index is None or index.corpus is None):
        raise DGRValueError(
            "There is nothing to train on. Give --pairs, or a corpus: --corpus, or an --index that holds its corpus "
            "(and --queries with --qrels, if there are any)."
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
            "makes, or --identifiers, one string per passage."
        )


def _index_of(options: TrainOptions) -> IndexFolder | None:
    if options.index is not None:
        return needed_index("--index", options.index)
    return index_folder(Path(options.model)) if Path(options.model).is_dir() else None


def read(options: AllOptions, seed: int) -> TrainInputs:
    """Read all inputs, small ones first.

    Args:
        options ([`AllOptions`]): Options that were checked.
        seed (`int`): Seed of generation pairs and of the lists that are drawn.

    Raises:
        ValueError: if something is malformed or does not go together.
        OSError: if something cannot be read.
    """
    train = options.train
    queries = read_queries_of(train.queries, train.split, part=train.part) if train.queries else None
    qrels = read_qrels_of(train.qrels, train.split) if train.qrels else None
    name = model_name("--model", train.model)
    folder = _index_of(train)
    identifiers = load_identifiers(name, _identifier_settings(options, folder))
    index = corpus = None
    if folder is not None:
        index, corpus = open_index(folder, identifiers.fingerprint)
        index.check_tokenizer(identifiers)
    search, scoring = _search_and_scoring(options, name)
    evaluator = None
    if index is not None and options.evaluation.eval_queries is not None:
        evaluator = _evaluator(options.evaluation, index, identifiers, search or SearchSettings(), scoring)
    collator = None
    pairs: Dataset | None = None
    if options.rounds.wanted:
        assert queries is not None
        dataset = queries
        if train.pairs is not None:
            pairs = read_pairs(Path(train.pairs), identifiers.fingerprint, identifiers.vocab_size)
    elif train.stage == "generation":
        dataset = _pairs(options, identifiers, index, corpus, queries, qrels, seed)
    else:
        assert queries is not None
        dataset = queries
        collator = _collator(options, identifiers, index, qrels, scoring, seed)
    return TrainInputs(name, identifiers, index, corpus, search, scoring, dataset, collator, evaluator, qrels, pairs)


def _identifier_settings(options: AllOptions, folder: IndexFolder | None) -> IdentifierSettings:
    """Settings of the index, or of the options; with `--identifiers`, a passage's one string is its docid."""
    from dgr_trainer.identifiers import IdentifierSettings

    if folder is None:
        only_docids = {} if options.train.identifiers is None else {"views": ("docid",)}
        settings = IdentifierSettings(**options.identifiers.given() | only_docids)
    else:
        settings = folder.settings(options.identifiers)
    if options.train.identifiers is None or settings.views == ("docid",):
        return settings
    raise DGRValueError(
        f"--identifiers trains one string per passage, its docid, but the index has the views "
        f"{', '.join(settings.views)}. Index the corpus with --views docid and these strings as `docid`, or leave the "
        "index out."
    )


def _search_and_scoring(options: AllOptions, model: str) -> tuple[SearchSettings | None, ScoringSettings]:
    """Settings saved with the retriever that is trained further, changed by the options."""
    retriever = index_folder(Path(model)) if Path(model).is_dir() else None
    saved = {} if retriever is None else retriever.description
    search = SearchSettings.from_dict(saved["search"]) if "search" in saved else None
    scoring = ScoringSettings.from_dict(saved["scoring"]) if "scoring" in saved else ScoringSettings()
    if options.train.identifiers is not None:
        scoring = replace(scoring, kind="log_likelihood")
    return search, replace(scoring, **options.scoring.given())


def _evaluator(
    options: EvaluationOptions,
    index: FMIndex,
    identifiers: Identifiers,
    search: SearchSettings,
    scoring: ScoringSettings,
) -> RetrievalEvaluator:
    from dgr_trainer.evaluation.evaluator import RetrievalEvaluator

    assert options.eval_queries is not None and options.eval_qrels is not None
    arguments = options.given()
    if "beam_size" in arguments:
        search = replace(search, beam_size=arguments.pop("beam_size"))
    return RetrievalEvaluator(
        index,
        identifiers,
        read_queries_of(options.eval_queries, options.eval_split, "--eval_queries"),
        read_qrels_of(options.eval_qrels, options.eval_split, "--eval_qrels"),
        settings=search,
        scoring=scoring,
        **arguments,
    )


def _pairs(
    options: AllOptions,
    identifiers: Identifiers,
    index: FMIndex | None,
    corpus: Corpus | None,
    queries: Dataset | None,
    qrels: Qrels | None,
    seed: int,
) -> Dataset:
    if options.train.pairs is not None:
        return read_pairs(Path(options.train.pairs), identifiers.fingerprint, identifiers.vocab_size)
    from dgr_trainer.training.pairs import generation_pairs

    if options.train.corpus is not None:
        corpus = read_corpus("--corpus", options.train.corpus)
    assert corpus is not None
    given = options.pairs.given()
    if given.get("targets") == "distinctive":
        if index is None:
            raise DGRValueError("--targets distinctive compares substrings with the corpus. Give its --index.")
        given["index"] = index
    return generation_pairs(corpus, identifiers, queries, qrels, seed=seed, **given)


def _collator(
    options: AllOptions,
    identifiers: Identifiers,
    index: FMIndex | None,
    qrels: Qrels | None,
    scoring: ScoringSettings,
    seed: int,
) -> DistillationCollator:
    from dgr_trainer.candidates import Candidates
    from dgr_trainer.training.collator import DistillationCollator

    train = options.train
    assert train.run is not None
    passage_identifiers: Candidates | dict[str, str]
    if train.candidates is not None:
        passage_identifiers = Candidates.load_from_disk(
            train.candidates, tokenizer_fingerprint=identifiers.fingerprint
        )
    else:
        assert train.identifiers is not None
        passage_identifiers = read_identifier_strings("--identifiers", train.identifiers)
        if index is not None:
            _check_docids(passage_identifiers, index, identifiers)
    return DistillationCollator(
        identifiers,
        passage_identifiers,
        read_run("--run", train.run),
        qrels,
        relevant_first=not train.teacher_order,
        scoring=scoring,
        seed=seed,
        **options.collator.given(),
    )


def _check_docids(strings: dict[str, str], index: FMIndex, identifiers: Identifiers) -> None:
    """Refuse identifier strings that are not the docids of the index; looks at the first hundred."""
    from dgr_trainer.data.passages import Passage

    sample = [Passage(id=id, docid=string) for id, string in list(strings.items())[:100]]
    for passage, segments in zip(sample, identifiers.encode_segments(sample), strict=True):
        if not index.count(identifiers.pattern("docid", identifiers.target("docid", segments.docid))):
            raise DGRValueError(
                f"--identifiers: {passage.docid!r} of passage {passage.id!r} is not a docid in the index. Index the "
                "corpus with these strings as `docid`."
            )
