"""The sample corpus as files, a tiny student on the disk, and `dgr` as a function."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from sample_corpus import PASSAGES, QRELS, QUERIES
from tiny_models import bpe_tokenizer, make_bart, unigram_tokenizer

from dgr_trainer.cli.main import main


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def dgr(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample corpus and what belongs to it, and random students in `bart/` and `other/`; not to be changed."""
    folder = tmp_path_factory.mktemp("files")
    passages = [
        {"id": p.id, "title": p.title, "text": p.text, "pseudo_queries": list(p.pseudo_queries)} for p in PASSAGES
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(passage) + "\n" for passage in passages))
    (folder / "queries.tsv").write_text("".join(f"{id}\t{text}\n" for id, text in QUERIES.items()))
    judged = [f"{query} 0 {passage} {grade}\n" for query, of in QRELS.items() for passage, grade in of.items()]
    (folder / "qrels.txt").write_text("".join(judged))
    (folder / "identifiers.tsv").write_text("".join(f"{p.id}\t{p.title}\n" for p in PASSAGES))
    lists = [(query, list(of) + [p.id for p in PASSAGES[:6] if p.id not in of]) for query, of in QRELS.items()]
    run = [f"{query} Q0 {id} {rank} {9 - rank} best\n" for query, ids in lists for rank, id in enumerate(ids)]
    (folder / "best.trec").write_text("".join(run))
    make_bart(bpe_tokenizer()).save_pretrained(folder / "bart")
    bpe_tokenizer().save_pretrained(folder / "bart")
    unigram_tokenizer().save_pretrained(folder / "other")
    make_bart(unigram_tokenizer(), bos_token_id=None).save_pretrained(folder / "other")
    return folder
