"""The whole flow on a BEIR folder with a pretrained student: what each stage costs, and the table it gives.

    python benchmarks/beir_pipeline.py --data DIR --student MODEL --output OUT [--cross-encoder MODEL]

One student is distilled from each teacher, all from the same generation stage. LTRGR, which needs no teacher, takes
as many steps, and so does a student that continues the generation stage. The training
questions of a passage serve as its pseudo-queries; the questions of the other splits are never seen. There are three
tables: of all test questions, and of those whose passages have training questions or have none.

OUT keeps the result of each stage. The same command resumes from there; a command with other options is refused:
`student` (after the generation stage), `candidates`, `runs`, `tables.md`. With `--candidates-only` it ends before the
teachers; train_step.py and train_scaling.py take their batches from such a folder. The last line is one JSON object.
"""

import argparse
import copy
import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, set_seed

from dgr_trainer import (
    BM25Teacher,
    Candidates,
    Corpus,
    CrossEncoderTeacher,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    Passage,
    PyseriniTeacher,
    Rankings,
    SearchSettings,
    generation_pairs,
    read_qrels,
    read_queries,
)
from dgr_trainer.evaluation.comparison import compare_runs
from dgr_trainer.quickstart.pipeline import METRICS
from dgr_trainer.student.students import load_student_model

BASELINE = "generation only"
# Options that student and candidates depend on; what else there is, runs depend on.
OF_CANDIDATES = frozenset(
    "data student articles train_queries generation_steps generation_batch generation_learning_rate beam_size "
    "candidates bf16 seed".split()
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder with train and test splits.")
    parser.add_argument("--student", required=True, help="Pretrained sequence-to-sequence model.")
    parser.add_argument("--output", type=Path, required=True, help="New folder, or one to resume from.")
    parser.add_argument("--candidates-only", action="store_true", help="End when the candidates are found.")
    parser.add_argument("--cross-encoder", help="Sequence-classification model; left out, there is no such teacher.")
    parser.add_argument("--template", help="Single-segment template of the cross-encoder.")
    parser.add_argument("--pyserini", action="store_true", help="BM25 of Lucene in place of the Java-free one.")
    parser.add_argument("--articles", type=int, help="Keep this many titles, spread evenly over the sorted ones.")
    parser.add_argument("--train-queries", type=int, default=300, help="Questions of the ranking stage.")
    parser.add_argument("--test-queries", type=int, default=300, help="Questions of the evaluation.")
    parser.add_argument("--split", default="test", help="Split that is evaluated on.")
    parser.add_argument("--generation-steps", type=int, default=300)
    parser.add_argument("--generation-batch", type=int, default=16)
    parser.add_argument("--generation-learning-rate", type=float, default=3e-4)
    parser.add_argument("--ranking-epochs", type=float, default=1.0)
    parser.add_argument("--ranking-batch", type=int, default=4)
    parser.add_argument("--ranking-learning-rate", type=float, default=1e-4)
    parser.add_argument("--list-length", type=int, default=6)
    parser.add_argument(
        "--sampling", nargs="+", default=["dgr_paper"], help="Ways to draw DGR's lists (see DistillationCollator)."
    )
    parser.add_argument("--margin", type=float, default=100.0, help="The published 300, for a corpus of 1/30,000.")
    parser.add_argument("--margin-gap", type=float, default=33.0)
    parser.add_argument("--generation-weight", type=float, default=150.0)
    parser.add_argument("--beam-size", type=int, default=15, help="Beams of the candidates' searches.")
    parser.add_argument("--test-beam-size", type=int, default=5, help="Beams of the evaluation's searches.")
    parser.add_argument("--candidates", type=int, default=100, help="Passages a question.")
    parser.add_argument("--bf16", action="store_true", help="Mixed precision in training.")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Flow:
    """The stages of a folder; one that was done before is read from it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.costs_file = options.output / "seconds.json"
        self.costs: dict[str, float] = json.loads(self.costs_file.read_text()) if self.costs_file.exists() else {}
        options.output.mkdir(parents=True, exist_ok=True)
        self._refuse_other_options()
        self._read()
        self.identifiers = Identifiers(AutoTokenizer.from_pretrained(options.student))
        self.index = FMIndex.from_corpus(self.corpus, self.identifiers, progress=False)
        print(
            f"{len(self.corpus)} passages, {self.index.num_tokens} tokens, {len(self.train)} training and "
            f"{len(self.test)} test questions",
            flush=True,
        )

    def _refuse_other_options(self) -> None:
        """What a folder holds was made with some options; with others it would be taken for what it is not."""
        file = self.options.output / "options.json"
        before = json.loads(file.read_text()) if file.exists() else {}
        free = {"output", "candidates_only", "sampling"}
        given = {
            name: str(value)
            for name, value in vars(self.options).items()
            if value is not None and name not in free and (name in OF_CANDIDATES or not self.options.candidates_only)
        }
        others = [f"{name}={before[name]}" for name in given if before.get(name, given[name]) != given[name]]
        if others:
            raise SystemExit(
                f"{self.options.output} was made with {', '.join(others)}. Give the same options, or another --output."
            )
        file.write_text(json.dumps(before | given, indent=1))

    def _read(self) -> None:
        """Corpus, training and test questions with their qrels, cut down to what is asked for."""
        options = self.options
        passages = list(Corpus.read(options.data))
        if options.articles:
            titles = sorted({passage.title for passage in passages})
            kept = {titles[i * len(titles) // options.articles] for i in range(options.articles)}
            passages = [passage for passage in passages if passage.title in kept]
        ids = {passage.id for passage in passages}

        def split(name: str) -> tuple[Any, dict]:
            qrels = read_qrels(options.data, name)
            qrels = {query_id: relevant for query_id, relevant in qrels.items() if ids.issuperset(relevant)}
            queries = read_queries(options.data, name)
            return queries.filter(lambda row: row["query_id"] in qrels), qrels

        self.train, self.train_qrels = split("train")
        test, test_qrels = split(options.split)
        self.test = test.shuffle(seed=options.seed).select(range(min(options.test_queries, len(test))))
        self.test_qrels = {query_id: test_qrels[query_id] for query_id in self.test["query_id"]}
        self.asked = self.train.shuffle(seed=options.seed)
        self.asked = self.asked.select(range(min(options.train_queries, len(self.train))))
        asked_of = defaultdict(list)
        for row in self.train:
            for passage_id in self.train_qrels[row["query_id"]]:
                asked_of[passage_id].append(row["query"])
        self.corpus = Corpus.from_passages(Passage(p.id, p.title, p.text, tuple(asked_of[p.id])) for p in passages)

    def timed(self, stage: str, work: Callable[[], Any]) -> Any:
        """Do a stage and write down how long it took."""
        began = time.monotonic()
        result = work()
        self.costs[stage] = round(time.monotonic() - began, 1)
        self.costs_file.write_text(json.dumps(self.costs, indent=1))
        print(f"{stage}: {self.costs[stage]} s", flush=True)
        return result

    def arguments(self, **others: Any) -> DistillationTrainingArguments:
        return DistillationTrainingArguments(
            output_dir=str(self.options.output / "training"), save_strategy="no", report_to=[],
            seed=self.options.seed, bf16=self.options.bf16, use_cpu=not torch.cuda.is_available(), logging_steps=50,
            warmup_steps=10, **others,
        )  # fmt: skip

    def retriever(self, model: PreTrainedModel, beam_size: int) -> GenerativeRetriever:
        settings = SearchSettings(beam_size=beam_size, title_length=15, pseudo_query_length=20, batch_size=10)
        return GenerativeRetriever(model, self.identifiers, self.index, settings=settings)

    def student(self) -> PreTrainedModel:
        """The student after the generation stage."""
        options, folder = self.options, self.options.output / "student"
        if not folder.exists():
            self.timed("generation stage", lambda: self._teach_generation(folder))
        return load_student_model(options.output / "student", dtype=torch.float32)

    def _teach_generation(self, folder: Path) -> None:
        options = self.options
        model = load_student_model(options.student, dtype=torch.float32)
        pairs = generation_pairs(
            self.corpus, self.identifiers, self.train, self.train_qrels, titles_per_query=1, substrings_per_query=3,
            pseudo_queries_per_query=1, samples_per_passage=1, seed=options.seed, progress=False,
        )  # fmt: skip
        DistillationGenerativeRetrievalTrainer(
            model=model,
            args=self.arguments(
                max_steps=options.generation_steps, per_device_train_batch_size=options.generation_batch,
                learning_rate=options.generation_learning_rate, ranking_weight=0.0,
            ),
            train_dataset=pairs,
            processing_class=self.identifiers.tokenizer,
        ).train()  # fmt: skip
        unfinished = folder.with_name("student.unfinished")
        model.save_pretrained(unfinished)
        self.identifiers.tokenizer.save_pretrained(unfinished)
        unfinished.rename(folder)

    def candidates(self, student: PreTrainedModel) -> Candidates:
        """What the student finds for the questions of the ranking stage."""
        folder = self.options.output / "candidates"
        if not folder.exists():
            search = self.retriever(student, self.options.beam_size)
            self.timed(
                "candidates",
                lambda: search.save_candidates(folder, self.asked, self.options.candidates, self.train_qrels),
            )
        return Candidates.load_from_disk(folder)

    def run(self, name: str, ranker: Callable[[], Callable[[], Rankings]]) -> Rankings:
        """A run of the test questions; `ranker` makes what ranks them."""
        path = self.options.output / "runs" / f"{name.replace(' ', '-')}.trec"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            self.timed(f"evaluating {name}", ranker()).to_trec(path, tag=name.replace(" ", "-"))
        return Rankings.from_trec(path)

    def searching(self, model: PreTrainedModel) -> Callable[[], Rankings]:
        return lambda: self.retriever(model, self.options.test_beam_size).rank(self.test, k=100)

    def distilled(
        self, name: str, student: PreTrainedModel, collator: DistillationCollator, loss: str | None
    ) -> PreTrainedModel:
        """A student of the ranking stage; without a loss, it learns to generate for as many steps more."""
        options, model = self.options, copy.deepcopy(student)
        trainer = DistillationGenerativeRetrievalTrainer(
            model=model,
            args=self.arguments(
                num_train_epochs=options.ranking_epochs, per_device_train_batch_size=options.ranking_batch,
                learning_rate=options.ranking_learning_rate, ranking_loss=loss or "distilled_ranknet",
                ranking_weight=0.0 if loss is None else 1.0, margin=options.margin, margin_gap=options.margin_gap,
                generation_weight=options.generation_weight,
            ),
            data_collator=collator,
            train_dataset=self.asked,
        )  # fmt: skip
        self.timed(f"training {name}", trainer.train)
        return model

    def tables(self, runs: dict[str, Rankings]) -> dict[str, Any]:
        """Comparisons over all test questions and over both kinds of them."""
        known = {passage_id for relevant in self.train_qrels.values() for passage_id in relevant}
        seen = {query_id: of for query_id, of in self.test_qrels.items() if not known.isdisjoint(of)}
        unseen = {query_id: of for query_id, of in self.test_qrels.items() if query_id not in seen}
        found, parts = {}, {"all": self.test_qrels, "with training questions": seen, "without": unseen}
        text = []
        for part, qrels in parts.items():
            if qrels:
                comparison = compare_runs(runs, qrels, METRICS, baseline=BASELINE)
                found[part] = comparison.to_dict()
                text.append(f"{part}:\n\n{comparison.to_markdown()}\n")
        (self.options.output / "tables.md").write_text("\n".join(text))
        print("\n".join(text), flush=True)
        return found


def main() -> None:
    options = parse()
    logging.basicConfig(level=logging.WARNING)
    set_seed(options.seed)
    flow = Flow(options)
    student = flow.student()
    candidates = flow.candidates(student)
    if options.candidates_only:
        print(json.dumps({"seconds": flow.costs}))
        return

    own = candidates.to_rankings()
    bm25 = PyseriniTeacher(flow.corpus, index_dir=options.output / "lucene") if options.pyserini else None
    teachers: dict[str, Any] = {"BM25": bm25 or BM25Teacher(flow.corpus, progress=False)}
    if options.cross_encoder:
        teachers["cross-encoder"] = CrossEncoderTeacher(
            options.cross_encoder, flow.corpus, template=options.template, max_length=256
        )
    runs, lists = {}, {}
    for name, teacher in teachers.items():
        path = options.output / f"{name}.trec"
        if not path.exists():
            ranked = flow.timed(f"teacher {name}", lambda one=teacher: one.rank(flow.asked, own, k=options.candidates))
            ranked.to_trec(path)
        lists[name] = Rankings.from_trec(path)
        # A cross-encoder ranks what BM25 finds.
        pool = None if name == "BM25" else runs["BM25 (teacher)"].top(20)
        runs[f"{name} (teacher)"] = flow.run(
            f"{name} (teacher)", lambda one=teacher, pool=pool: lambda: one.rank(flow.test, pool, k=100)
        )

    runs[BASELINE] = flow.run(BASELINE, lambda: flow.searching(student))
    stages: dict[str, tuple[Rankings, str | None, int, str]] = {
        "generation continued": (own, None, options.list_length, "dgr_paper"),
        "LTRGR": (own, "margin_rank", 3, "dgr_paper"),
    }
    for name in teachers:
        for sampling in options.sampling:
            drawn = "" if sampling == "dgr_paper" else f", {sampling}"
            stages[f"DGR from {name}{drawn}"] = (lists[name], "distilled_ranknet", options.list_length, sampling)
    for name, (ranked, loss, list_length, sampling) in stages.items():
        collator = DistillationCollator(
            flow.identifiers, candidates, ranked, flow.train_qrels, list_length=list_length, sampling=sampling,
            seed=options.seed,
        )  # fmt: skip
        runs[name] = flow.run(
            name,
            lambda name=name, collator=collator, loss=loss: flow.searching(
                flow.distilled(name, student, collator, loss)
            ),
        )
    print(json.dumps({"seconds": flow.costs, **flow.tables(runs)}))


if __name__ == "__main__":
    main()
