"""Semantic ids on a BEIR folder: what distillation and prefix ranking add, for hierarchical and for atomic ids.

    python benchmarks/semantic_ids.py --data DIR --bi-encoder MODEL --output OUT [--student MODEL]

The codes are learnt from the vectors of the bi-encoder, which is also the teacher; with `--vectors FILE.npy` they are
learnt from these, and the teacher is BM25 unless there is a `--bi-encoder`. Without `--student`, the student is a
small random BART with a tokenizer of its own.

For each kind of ids, one student learns to generate the ids of passages, from training questions and from pieces of
all passages. It goes on in three ways, with the same queries and steps: generation only, with DGR, and with DGR at
every prefix. The queries are the training questions and the texts of the passages. An atomic id has one code, so
there is no third way. The questions of the `--splits` are searched with each student.

OUT keeps the result of each stage, and the same command goes on after the last finished one; a command with other
options is refused. `tables.md` holds a table for each split, with intervals and tests against generation only. The
last line is one JSON object.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from dgr_trainer import (
    BiEncoderTeacher,
    BM25Teacher,
    Corpus,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    IdentifierSettings,
    Rankings,
    ScoringSettings,
    SearchSettings,
    SemanticIds,
    compare_runs,
    generation_pairs,
    read_qrels,
    read_queries,
)
from dgr_trainer.quickstart.pipeline import METRICS
from dgr_trainer.quickstart.student import new_student, train_tokenizer
from dgr_trainer.student.students import load_student_model

SETTINGS = IdentifierSettings(views=("docid",), prompts={"docid": "{query}"})
GENERATION, DGR, PREFIXES = "generation only", "+ DGR", "+ DGR with prefix ranking"
# What each way of going on asks of the trainer.
WAYS: dict[str, dict[str, Any]] = {
    GENERATION: {"ranking_weight": 0.0},
    DGR: {},
    PREFIXES: {"prefix_ranking": True},
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder with a train split.")
    parser.add_argument("--output", type=Path, required=True, help="New folder, or one to go on with.")
    parser.add_argument("--bi-encoder", help="Bi-encoder: the vectors, and the teacher.")
    parser.add_argument("--vectors", type=Path, help="A .npy file with a row for each passage.")
    parser.add_argument("--student", help="Pretrained model of either kind. Default: a small random BART.")
    parser.add_argument(
        "--kinds", nargs="+", default=["hierarchical", "atomic"], choices=["residual", "hierarchical", "atomic"]
    )
    parser.add_argument(
        "--judged-only", action="store_true", help="Keep only the passages that a question of any used split is about."
    )
    parser.add_argument("--levels", type=int, default=3, help="Codes of an id that is not atomic.")
    parser.add_argument("--size", type=int, default=32, help="Codes of a level.")
    parser.add_argument("--splits", nargs="+", default=["dev", "test"], help="Splits that are evaluated on.")
    parser.add_argument("--queries", type=int, default=500, help="Most questions of a split.")
    parser.add_argument("--generation-epochs", type=float, default=10.0)
    parser.add_argument("--ranking-epochs", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--generation-learning-rate", type=float, default=1e-3)
    parser.add_argument("--ranking-learning-rate", type=float, default=3e-4)
    parser.add_argument("--generation-weight", type=float, default=1.0, help="Of the generation loss, beside DGR's.")
    parser.add_argument("--list-length", type=int, default=6, help="Passages of a list.")
    parser.add_argument("--teacher-depth", type=int, default=50, help="Passages that the teacher ranks.")
    parser.add_argument("--beam-size", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.bi_encoder is None and options.vectors is None and set(options.kinds) != {"atomic"}:
        parser.error("semantic ids need vectors: give --bi-encoder, or --vectors.")
    if options.vectors is not None and options.judged_only:
        parser.error("--vectors has a row for each passage of DIR, but --judged-only leaves passages out.")
    return options


class Experiment:
    """The stages of a folder; one that was done before is read from it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        options.output.mkdir(parents=True, exist_ok=True)
        self._refuse_other_options()
        self.costs_file = options.output / "seconds.json"
        self.costs: dict[str, float] = json.loads(self.costs_file.read_text()) if self.costs_file.exists() else {}
        self.corpus = Corpus.read(options.data)
        if options.judged_only:
            splits = [read_qrels(options.data, split) for split in ("train", *options.splits)]
            judged = {passage_id for qrels in splits for relevant in qrels.values() for passage_id in relevant}
            self.corpus = Corpus.from_passages(passage for passage in self.corpus if passage.id in judged)
        self.asked, self.asked_qrels = read_queries(options.data, "train"), read_qrels(options.data, "train")
        # The texts of the passages are queries, too, so that a student keeps those that no question asks for.
        texts = {f"text-{passage.id}": passage.text for passage in self.corpus}
        more = datasets.Dataset.from_dict({"query_id": list(texts), "query": list(texts.values())})
        self.queries = datasets.concatenate_datasets([self.asked, more])
        self.qrels = {**self.asked_qrels, **{f"text-{passage_id}": {passage_id: 1} for passage_id in self.corpus.ids}}
        self.bi_encoder = None if options.bi_encoder is None else BiEncoderTeacher(
            options.bi_encoder, self.corpus, vectors=options.output / "vectors", progress=False
        )  # fmt: skip

    def _refuse_other_options(self) -> None:
        file = self.options.output / "options.json"
        given = {name: str(value) for name, value in vars(self.options).items() if name != "output"}
        before = json.loads(file.read_text()) if file.exists() else given
        others = [f"{name}={before.get(name)}" for name in given if before.get(name) != given[name]]
        if others:
            raise SystemExit(
                f"{self.options.output} was made with {', '.join(others)}. Give the same options, or another --output."
            )
        file.write_text(json.dumps(given, indent=1))

    def stage(self, name: str, path: Path, make: Callable[[Path], None]) -> Path:
        """Have a stage write a path, unless it was done before; what is unfinished has another name."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f"{path.name}.unfinished")
            began = time.monotonic()
            make(unfinished)
            unfinished.rename(path)
            self.costs[name] = round(time.monotonic() - began, 1)
            self.costs_file.write_text(json.dumps(self.costs, indent=1))
            print(f"{name}: {self.costs[name]} s", flush=True)
        return path

    def split(self, name: str) -> tuple[datasets.Dataset, Mapping[str, Mapping[str, int]]]:
        """Questions of a split and their qrels."""
        queries = read_queries(self.options.data, name).shuffle(seed=self.options.seed)
        queries = queries.select(range(min(self.options.queries, len(queries))))
        qrels = read_qrels(self.options.data, name)
        return queries, {query_id: qrels[query_id] for query_id in queries["query_id"]}

    def teacher(self) -> BiEncoderTeacher | BM25Teacher:
        return self.bi_encoder or BM25Teacher(self.corpus, progress=False)

    def rankings(self) -> Rankings:
        """The teacher's lists of the queries of the ranking stage."""
        depth = self.options.teacher_depth
        path = self.stage(
            "teacher",
            self.options.output / "teacher.trec",
            lambda path: self.teacher().rank(self.queries, k=depth).to_trec(path),
        )
        return Rankings.from_trec(path)

    def ids(self, kind: str) -> SemanticIds:
        options = self.options

        def make(path: Path) -> None:
            if kind == "atomic":
                SemanticIds.atomic(self.corpus.ids).save(path)
                return
            vectors = options.vectors or self.bi_encoder
            made = SemanticIds.fit(
                vectors, self.corpus.ids, kind=kind, levels=options.levels, size=options.size, seed=options.seed,
                progress=False,
            )  # fmt: skip
            print(made.statistics(vectors), flush=True)
            made.save(path)

        return SemanticIds.load(self.stage(f"codes, {kind}", options.output / kind / "ids", make))

    def student(self, kind: str, ids: SemanticIds) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The student after the generation stage."""
        path = self.stage(
            f"generation stage, {kind}",
            self.options.output / kind / "student",
            lambda path: self._teach_generation(path, ids),
        )
        return load_student_model(path, dtype=torch.float32), AutoTokenizer.from_pretrained(path)

    def _teach_generation(self, path: Path, ids: SemanticIds) -> None:
        options = self.options
        model: Any
        if options.student is None:
            tokenizer: Any = train_tokenizer(self.corpus)
            model = new_student(Identifiers(tokenizer, SETTINGS), options.seed)
        else:
            tokenizer = AutoTokenizer.from_pretrained(options.student)
            model = load_student_model(options.student, dtype=torch.float32)
        ids.add_to(tokenizer, model)
        print(f"{type(model).__name__}, {model.num_parameters() / 1e6:.1f}M parameters", flush=True)
        identifiers = Identifiers(tokenizer, SETTINGS)
        pairs = generation_pairs(
            ids.with_docids(self.corpus), identifiers, self.queries, self.qrels, titles_per_query=1,
            samples_per_passage=1, seed=options.seed, progress=False,
        )  # fmt: skip
        trainer = DistillationGenerativeRetrievalTrainer(
            model=model,
            args=self.arguments(
                ranking_weight=0.0, num_train_epochs=options.generation_epochs,
                learning_rate=options.generation_learning_rate,
            ),
            train_dataset=pairs,
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)

    def arguments(self, **others: Any) -> DistillationTrainingArguments:
        options = self.options
        return DistillationTrainingArguments(
            output_dir=str(options.output / "training"), save_strategy="no", report_to=[], seed=options.seed,
            per_device_train_batch_size=options.batch, use_cpu=not torch.cuda.is_available(), warmup_steps=20,
            logging_steps=50, disable_tqdm=True, train_sampling_strategy="group_by_length", **others,
        )  # fmt: skip

    def continued(
        self, way: str, start: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: SemanticIds
    ) -> PreTrainedModel:
        """A student that went on from the generation stage in one of the ways."""
        options, model = self.options, copy.deepcopy(start)
        set_seed(options.seed)
        collator = DistillationCollator(
            Identifiers(tokenizer, SETTINGS), ids, self.rankings(), self.qrels, list_length=options.list_length
        )
        DistillationGenerativeRetrievalTrainer(
            model=model,
            args=self.arguments(
                num_train_epochs=options.ranking_epochs, learning_rate=options.ranking_learning_rate,
                generation_weight=options.generation_weight, **WAYS[way],
            ),
            data_collator=collator,
            train_dataset=self.queries,
        ).train()  # fmt: skip
        return model

    def runs(self, kind: str) -> dict[str, dict[str, Rankings]]:
        """For each split, the runs of the students of one kind of ids."""
        options = self.options
        ids = self.ids(kind)
        self.rankings()  # So that its time is not that of a training.
        start, tokenizer = self.student(kind, ids)
        corpus = ids.with_docids(self.corpus)
        identifiers = Identifiers(tokenizer, SETTINGS)
        index = FMIndex.from_corpus(corpus, identifiers, progress=False)
        found: dict[str, dict[str, Rankings]] = {split: {} for split in options.splits}
        for way in WAYS:
            if kind == "atomic" and way == PREFIXES:
                continue
            folder = options.output / kind / way.replace(" ", "-").replace("+", "with")

            def train(path: Path, way: str = way) -> None:
                self.continued(way, start, tokenizer, ids).save_pretrained(path)

            path = self.stage(f"training, {kind}, {way}", folder / "student", train)
            retriever = GenerativeRetriever(
                load_student_model(path, dtype=torch.float32), identifiers, index, corpus=corpus,
                scoring=ScoringSettings(kind="log_likelihood"), semantic_ids=ids,
                settings=SearchSettings(beam_size=options.beam_size, batch_size=25),
            )  # fmt: skip
            for split in options.splits:

                def search(path: Path, split: str = split, retriever: GenerativeRetriever = retriever) -> None:
                    retriever.rank(self.split(split)[0], k=100).to_trec(path)

                path = self.stage(f"search, {kind}, {way}, {split}", folder / f"{split}.trec", search)
                found[split][way] = Rankings.from_trec(path)
        return found


def main() -> None:
    options = parse()
    set_seed(options.seed)
    experiment = Experiment(options)
    print(
        f"{len(experiment.corpus)} passages, {len(experiment.asked)} training questions, teacher "
        f"{type(experiment.teacher()).__name__}",
        flush=True,
    )
    result: dict[str, Any] = {}
    text = []
    for kind in options.kinds:
        result[kind] = {}
        for split, runs in experiment.runs(kind).items():
            queries, qrels = experiment.split(split)
            path = experiment.stage(
                f"teacher, {split}",
                options.output / f"teacher-{split}.trec",
                lambda path, queries=queries: experiment.teacher().rank(queries, k=100).to_trec(path),
            )
            named = {**runs, "the teacher": Rankings.from_trec(path)}
            comparison = compare_runs(named, qrels, METRICS, baseline=GENERATION)
            result[kind][split] = comparison.to_dict()
            text.append(f"{kind} ids, {split}, {len(qrels)} questions:\n\n{comparison.to_markdown()}\n")
    (options.output / "tables.md").write_text("\n".join(text))
    print("\n".join(text))
    print(json.dumps({"seconds": experiment.costs, "results": result}))


if __name__ == "__main__":
    main()
