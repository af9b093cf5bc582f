"""The quickstart: all stages, from the documentation of the standard library to a distilled retriever."""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, set_seed

from dgr_trainer.candidates import Candidates
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.queries import Qrels, queries_mapping, write_qrels
from dgr_trainer.evaluation.comparison import RunComparison, compare_runs
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.index import FMIndex
from dgr_trainer.quickstart import NAME
from dgr_trainer.quickstart.plots import plot_training
from dgr_trainer.quickstart.python_docs import python_docs_corpus
from dgr_trainer.quickstart.questions import load_questions
from dgr_trainer.quickstart.student import made_up_questions, name_words
from dgr_trainer.reporting.found_passages import write_hits
from dgr_trainer.reporting.pipeline_record import PipelineRecord
from dgr_trainer.reporting.report import write_report
from dgr_trainer.retrieval.hits import Hit
from dgr_trainer.retrieval.retriever import GenerativeRetriever
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.teachers.bm25 import BM25Teacher
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.pairs import generation_pairs
from dgr_trainer.training.trainer import DistillationGenerativeRetrievalTrainer

logger = logging.getLogger(__name__)

CHECKPOINT = Path(__file__).with_name("checkpoint")
METRICS = ("hits@1", "hits@5", "hits@20", "mrr@10", "ndcg@10")
FIRST_SEARCH = "parse an ISO date"
SEARCH = SearchSettings(beam_size=8, title_length=15, pseudo_query_length=24)
# Chosen on a held-out part of the training questions. The published settings (smoothing 5, exponent 2) suit a corpus
# that is ten thousand times larger, where five occurrences are few.
SCORING = ScoringSettings(smoothing=0.5, exponent=2.5, pseudo_query_bonus=0.0)
# In the searches that are compared, the words of the question outweigh what so small a student makes of them. That was
# also chosen on a held-out part of the training questions. Candidates and training are as they were fitted.
SEARCH_SCORING = replace(SCORING, query_weight=3.0)
# LTRGR: the relevant passage above two others. DGR is trained by the defaults of the library.
LTRGR_LOSS, LTRGR_LISTS = {"ranking_loss": "margin_rank"}, {"list_length": 3, "sampling": "dgr_paper"}
LEARNING_RATE = 1e-4  # Of the ranking stages.


@dataclass(frozen=True)
class QuickstartSettings:
    """How long the quickstart trains.

    Args:
        seed (`int`, defaults to 0): Seed of all random choices.
        generation_steps (`int`, defaults to 120): Steps of 32 pairs on the training questions.
        made_up (`int`, defaults to 500): Questions made up from passages, in addition to the training questions.
        candidates (`int`, defaults to 50): Passages to search for each training question.
        distillation_epochs (`int`, defaults to 2): Epochs of each of the two ranking stages.
    """

    seed: int = 0
    generation_steps: int = 120
    made_up: int = 500
    candidates: int = 50
    distillation_epochs: int = 2


@dataclass(frozen=True)
class QuickstartResult:
    """Result of the quickstart.

    Args:
        comparison ([`RunComparison`]): The held-out questions: teacher, generation only, LTRGR, DGR.
        retriever (`Path`): Folder of the distilled retriever.
        seconds (`float`): Duration in seconds.
    """

    comparison: RunComparison
    retriever: Path
    seconds: float


def run_quickstart(
    output_dir: Path,
    settings: QuickstartSettings | None = None,
    *,
    report: Callable[[str], None] = logger.info,
) -> QuickstartResult:
    """Run all stages on the documentation of the Python standard library and compare the resulting rankings.

    Writes into `output_dir`: `retriever/` (the DGR student with its index and corpus), `runs/*.trec`,
    `hits/*.jsonl`, `qrels.test.tsv`, `results.md`, `report.html` and, if matplotlib is installed, `training.png`.

    Args:
        output_dir (`Path`): Folder to write to; created if it does not exist.
        settings ([`QuickstartSettings`], *optional*): How long to train.
        report (`Callable[[str], None]`): Called with each line about the progress.

    Returns:
        [`QuickstartResult`]

    Raises:
        ImportError: without the extra `bm25`, before anything else is done.
        FileExistsError: if `output_dir/retriever` exists and is not a retriever.
    """
    settings = settings or QuickstartSettings()
    quickstart = _Quickstart(Path(output_dir), settings, report)
    return quickstart.run()


def _with_names_in_words(corpus: Corpus) -> Corpus:
    """Add each passage's name in words as a pseudo-query: `sqlite3 connection commit`.

    People ask in words, and the tokens of a word inside a dotted name are not those of the same word in a text.
    """
    return corpus.with_pseudo_queries(
        {passage.id: [*passage.pseudo_queries, " ".join(name_words(passage.title))] for passage in corpus}
    )


class _Quickstart:
    def __init__(self, output_dir: Path, settings: QuickstartSettings, report: Callable[[str], None]) -> None:
        self.output_dir = output_dir
        self.settings = settings
        self.say = report
        self.started = time.monotonic()
        self.record = PipelineRecord(
            NAME,
            "A small student learns to find passages of the documentation of Python's standard library by generating "
            "their identifiers (generation only), then to rank them: relevant before irrelevant (LTRGR), or in the "
            "order of its teacher, BM25 (DGR). All are compared on questions that were held out.",
            asdict(settings),
        )

    def stage(self, title: str) -> None:
        self.record.stage(title.split(":")[0])
        self.say(f"[{time.monotonic() - self.started:4.0f} s] {title}")

    def run(self) -> QuickstartResult:
        set_seed(self.settings.seed)
        self.stage("Corpus: the documentation of Python's standard library")
        corpus = _with_names_in_words(python_docs_corpus())
        teacher = BM25Teacher(corpus, progress=False)  # Fails now if bm25s is missing, not after minutes of training.
        training, training_qrels = load_questions("train", corpus)
        test, test_qrels = load_questions("test", corpus)
        self.say(f"  {len(corpus):,} passages; {len(training)} questions to train on, {len(test)} held out")
        self.record.write(self.output_dir)  # Before all other files: the folder of an interrupted one is known, too.

        self.stage("Index: every title, substring and pseudo-query, as the student's tokens")
        identifiers = Identifiers(AutoTokenizer.from_pretrained(CHECKPOINT))
        index = FMIndex.from_corpus(corpus, identifiers, progress=False)
        self.say(f"  {index.num_tokens:,} tokens")

        self.stage("Generation: the student learns to generate the identifiers of the training questions' passages")
        self.say("  It starts from a checkpoint of this package that has read the documentation, but no question.")
        student = AutoModelForSeq2SeqLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
        self.train_generation(student, corpus, identifiers, training, training_qrels)

        def retriever(model: PreTrainedModel, scoring: ScoringSettings = SEARCH_SCORING) -> GenerativeRetriever:
            return GenerativeRetriever(model, identifiers, index, corpus=corpus, settings=SEARCH, scoring=scoring)

        self.stage("Candidates: what the student finds for the training questions, and for made-up ones")
        queries, qrels = self.training_queries(corpus, training, training_qrels)
        candidates = retriever(student, SCORING).candidates(queries, k=self.settings.candidates, relevant=qrels)

        self.stage("Teacher: BM25 orders the candidates")
        rankings = teacher.rank(queries, candidates.to_rankings(), k=self.settings.candidates)

        self.stage(
            "Distillation: one student learns relevant before irrelevant (LTRGR), one the teacher's scores, too (DGR)"
        )
        own_order = candidates.to_rankings()
        data = (student, identifiers, candidates)
        ltrgr, _ = self.train_ranking("LTRGR", *data, own_order, queries, qrels, LTRGR_LOSS, LTRGR_LISTS)
        dgr, history = self.train_ranking("DGR", *data, rankings, queries, qrels, {}, {})

        self.stage("Evaluation on the held-out questions")
        runs = {"BM25 (teacher)": teacher.rank(test, k=100)}
        questions = queries_mapping(test)
        hits: dict[str, list[list[Hit]]] = {}
        for name, model in {"generation only": student, "LTRGR": ltrgr, "DGR": dgr}.items():
            hits[name] = retriever(model).search(list(questions.values()), k=100)
            found = ([(hit.passage_id, hit.score) for hit in one] for one in hits[name])
            runs[name] = Rankings(dict(zip(questions, found, strict=True)))
        comparison = compare_runs(runs, test_qrels, METRICS, baseline="generation only")
        self.save(retriever(dgr), runs, questions, hits, test_qrels, comparison, history)
        return QuickstartResult(comparison, self.output_dir / "retriever", time.monotonic() - self.started)

    def arguments(self, name: str, **others: Any) -> DistillationTrainingArguments:
        folder = f"training/{name.replace(' ', '-').lower()}"
        self.record.training(name, folder)
        return DistillationTrainingArguments(
            output_dir=str(self.output_dir / folder),
            seed=self.settings.seed,
            save_strategy="no",
            report_to=[],
            logging_steps=10,
            lr_scheduler_type="linear",
            warmup_steps=10,
            use_cpu=not torch.cuda.is_available(),
            **others,
        )

    def train_generation(
        self,
        student: PreTrainedModel,
        corpus: Corpus,
        identifiers: Identifiers,
        queries: datasets.Dataset,
        qrels: Qrels,
    ) -> None:
        pairs = generation_pairs(
            corpus,
            identifiers,
            queries,
            qrels,
            titles_per_query=2,
            substrings_per_query=5,
            pseudo_queries_per_query=2,
            samples_per_passage=0,
            temperature=0.15,
            seed=self.settings.seed,
            progress=False,
        )
        DistillationGenerativeRetrievalTrainer(
            model=student,
            args=self.arguments(
                "generation only",
                max_steps=self.settings.generation_steps,
                per_device_train_batch_size=32,
                learning_rate=5e-5,
                label_smoothing_factor=0.1,
                ranking_weight=0.0,
            ),
            train_dataset=pairs,
            processing_class=identifiers.tokenizer,
        ).train()

    def training_queries(
        self, corpus: Corpus, training: datasets.Dataset, training_qrels: Qrels
    ) -> tuple[datasets.Dataset, Qrels]:
        """Return the training questions and as many made-up ones as the settings say."""
        seed = self.settings.seed + 1000  # Not the questions that the checkpoint learned from.
        made_up, made_up_qrels = made_up_questions(corpus, 1, seed)
        made_up = made_up.shuffle(seed=seed).select(range(min(self.settings.made_up, len(made_up))))
        queries = datasets.concatenate_datasets([training, made_up])
        return queries, training_qrels | {query_id: made_up_qrels[query_id] for query_id in made_up["query_id"]}

    def train_ranking(
        self,
        name: str,
        student: PreTrainedModel,
        identifiers: Identifiers,
        candidates: Candidates,
        rankings: Rankings,
        queries: datasets.Dataset,
        qrels: Qrels,
        loss: dict[str, Any],
        lists: dict[str, Any],
    ) -> tuple[PreTrainedModel, list[dict[str, float]]]:
        """Train a copy of the student on rank lists and return it with the log history."""
        distilled = copy.deepcopy(student)
        trainer = DistillationGenerativeRetrievalTrainer(
            model=distilled,
            args=self.arguments(
                name,
                num_train_epochs=self.settings.distillation_epochs,
                per_device_train_batch_size=8,
                learning_rate=LEARNING_RATE,
                **loss,
            ),
            data_collator=DistillationCollator(
                identifiers,
                candidates,
                rankings,
                qrels,
                scoring=SCORING,
                seed=self.settings.seed,
                **lists,
            ),
            train_dataset=queries,
        )
        trainer.train()
        return distilled, trainer.state.log_history

    def save(
        self,
        retriever: GenerativeRetriever,
        runs: dict[str, Rankings],
        questions: dict[str, str],
        hits: dict[str, list[list[Hit]]],
        qrels: Qrels,
        comparison: RunComparison,
        history: list[dict[str, float]],
    ) -> None:
        self.record.stage("Saving")
        retriever.save_pretrained(self.output_dir / "retriever")
        file_names = {name: name.split(" (")[0].replace(" ", "-").lower() for name in runs}
        for name, run in runs.items():
            run.to_trec(self.output_dir / "runs" / f"{file_names[name]}.trec", tag=file_names[name])
        for name, results in hits.items():
            write_hits(self.output_dir / "hits" / f"{file_names[name]}.jsonl", questions, results, retriever)
        self.record.evaluation(
            qrels="qrels.test.tsv",
            runs={name: f"runs/{file_name}.trec" for name, file_name in file_names.items()},
            hits={name: f"hits/{file_names[name]}.jsonl" for name in hits},
            baseline="generation only",
            result="DGR",
            metrics=METRICS,
        )
        write_qrels(qrels, self.output_dir / "qrels.test.tsv")
        with atomic_write(self.output_dir / "results.md") as file:
            file.write(comparison.to_markdown() + "\n")
        if not plot_training(history, self.output_dir / "training.png"):
            self.say('  No plot of the training: matplotlib is missing (pip install "dgr-trainer[plots]").')
        self.record.write(self.output_dir)
        write_report(self.output_dir, self.output_dir / "report.html")
