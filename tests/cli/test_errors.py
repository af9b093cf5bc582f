"""Mistakes of the user: found before long work, told in one message, with exit code 2, and nothing written."""

import json
import os
from pathlib import Path

import pytest

from dgr_trainer.cli import sources
from dgr_trainer.cli.paths import input_path, model_name, output_file, output_folder


@pytest.fixture
def no_models(monkeypatch):
    """Fails if a model, a tokenizer or a corpus is loaded: what is wrong has to be found before."""

    def loaded(*arguments, **settings):
        raise AssertionError("Something was loaded before the mistake was found.")

    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from dgr_trainer.data.corpus import Corpus

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", loaded)
    monkeypatch.setattr(AutoModelForSeq2SeqLM, "from_pretrained", loaded)
    monkeypatch.setattr(Corpus, "read", loaded)
    monkeypatch.setattr(Corpus, "load_from_disk", loaded)


def _filled(arguments, files, tmp_path):
    return [str(one).replace("FILES", str(files)).replace("TMP", str(tmp_path)) for one in arguments.split()]


INDEX = "index FILES/corpus.jsonl --model FILES/bart"
PAIRS = "pairs FILES/corpus.jsonl --model FILES/bart"
RANK = "rank --queries FILES/queries.tsv --output TMP/run.trec"
BM25 = f"{RANK} --teacher bm25 --corpus FILES/corpus.jsonl"
TRAIN = "train --model FILES/bart --output_dir TMP/out"
GENERATE = f"{TRAIN} --stage generation"
DISTIL = f"{TRAIN} --stage distillation --queries FILES/queries.tsv --run FILES/best.trec"
SWAP = f"{DISTIL} --identifiers FILES/identifiers.tsv"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("index TMP/no.jsonl --model FILES/bart --output TMP/i", "CORPUS: TMP/no.jsonl does not exist"),
        ("index FILES/corpus.jsonl --model TMP/no/model --output TMP/i", "there is no model at 'TMP/no/model'"),
        ("index FILES/corpus.jsonl --model FILES --output TMP/i", "holds no model: it has no config.json"),
        (f"{INDEX} --output FILES", "holds other files"),
        (f"{INDEX} --output FILES/corpus.jsonl", "is a file, but the output is a folder"),
        (f"{INDEX} --output FILES/corpus.jsonl/index", "corpus.jsonl is a file"),
        (f"{INDEX} --output TMP/i --query_end ||", "query_start and query_end are both '||'"),
        (f"{INDEX} --output TMP/i --title_prompt title", "must contain '{query}' once"),
        (f"{PAIRS} --output TMP/p --queries FILES/queries.tsv", "--queries and --qrels go together"),
        (
            f"{PAIRS} --output TMP/p --queries FILES/no.tsv --qrels FILES/qrels.txt",
            "--queries: FILES/no.tsv does not exist",
        ),
        (f"{PAIRS} --output TMP/p --split train", "--split train selects from a BEIR folder"),
        (f"{RANK} --teacher cross-encoder", "--teacher cross-encoder needs --model"),
        (f"{RANK} --teacher cross-encoder --model FILES/bart", "Give --candidates or --run"),
        (f"{RANK} --teacher bm25", "--corpus is missing"),
        (f"{RANK} --teacher pyserini", "--corpus is missing"),
        (f"{BM25} --model x", "--model is an option of cross-encoder and seq2seq and"),
        (f"{RANK} --teacher bi-encoder --corpus FILES/corpus.jsonl", "--teacher bi-encoder needs --model"),
        (f"{RANK} --teacher causal-lm --model FILES/bart", "causal-lm is a reranker and cannot search"),
        (f"{RANK} --teacher pyserini --cache TMP/c", "--cache is an option of cross-encoder"),
        (f"{RANK} --teacher seq2seq --prompt gpt", "invalid choice: 'gpt'"),
        (f"{BM25} --rm3", "--rm3 is an option of pyserini, not of bm25"),
        (f"{BM25} --candidates FILES --run FILES/best.trec", "both say what to rank"),
        (f"{BM25} --depth 5", "--depth cuts the lists"),
        (f"{BM25} -k 0", "at least 1"),
        (
            f"{BM25} --run FILES/qrels.txt",
            "the second of four columns is 0 and the last one an integer, as in qrels",
        ),
        (f"{BM25} --candidates FILES/bart", "holds no candidates.json"),
        (f"{BM25} --output FILES/best.trec", "Add --overwrite to replace it"),
        (f"{BM25} --output FILES", "is a folder, but the output is a file"),
        ("search FILES/bart query", "is not the folder of a retriever: it has no retriever.json"),
        ("search TMP/no query", "RETRIEVER: TMP/no does not exist"),
        ("search FILES/bart", "either queries in quotes, or a file"),
        ("search FILES/bart query --queries FILES/queries.tsv", "either queries in quotes, or a file"),
        ("search FILES/bart query --output TMP/run", "--output goes with --queries"),
        ("search FILES/bart --queries FILES/queries.tsv --output TMP/run --json", "Give one of them"),
        ("search FILES/bart query -k 0", "-k 0 has to be at least 1"),
        ("candidates FILES/bart --queries FILES/queries.tsv --output TMP/c", "is not the folder of a retriever"),
        ("candidates FILES/bart --queries FILES/queries.tsv --output TMP/c -k 0", "ask for at least 1"),
        ("evaluate FILES/best.trec --qrels TMP/no.txt", "--qrels: TMP/no.txt does not exist"),
        (
            "evaluate FILES --qrels FILES/qrels.txt",
            "is a folder, but a run is a file, or a folder that datasets saved",
        ),
        ("evaluate FILES/best.trec FILES/best.trec --qrels FILES/qrels.txt", "A run is given twice"),
        ("evaluate FILES/best.trec --qrels FILES/qrels.txt --json --markdown", "Give one of them"),
        ("evaluate FILES/best.trec --qrels FILES/qrels.txt --metrics hits", "There is no metric 'hits'"),
        ("evaluate FILES/best.trec --qrels FILES/qrels.txt --digits 99", "--digits 99"),
        ("evaluate FILES/best.trec --qrels FILES/best.trec", "Six columns are a run"),
        (GENERATE, "nothing to train on"),
        (f"{GENERATE} --corpus FILES/corpus.jsonl --qrels FILES/qrels.txt", "--queries and --qrels go together"),
        (f"{GENERATE} --pairs FILES/bart --corpus FILES/corpus.jsonl", "--corpus has no effect"),
        (f"{GENERATE} --corpus FILES/corpus.jsonl --run FILES/best.trec", "--run has no effect in --stage generation"),
        (f"{GENERATE} --index FILES/bart", "holds neither an index (index.json) nor a retriever"),
        (f"{GENERATE} --corpus FILES/no.jsonl", "--corpus: FILES/no.jsonl does not exist"),
        (f"{DISTIL}", "needs the identifiers of passages"),
        (f"{SWAP} --candidates FILES/bart", "needs the identifiers of passages"),
        (f"{TRAIN} --stage distillation --run FILES/best.trec", "needs --queries"),
        (f"{TRAIN} --stage distillation --queries FILES/queries.tsv", "needs --run"),
        (f"{SWAP} --pairs FILES/bart", "--pairs has no effect in --stage distillation"),
        (f"{SWAP} --titles_per_query 2", "--titles_per_query has no effect in --stage distillation"),
        (f"{SWAP} --substring_temperature 2", "--substring_temperature has no effect in --stage distillation"),
        (f"{GENERATE} --pairs FILES/bart --samples_per_passage 0", "so --samples_per_passage has no effect"),
        (f"{SWAP} --eval_queries FILES/queries.tsv", "--eval_queries and --eval_qrels go together"),
        (f"{SWAP} --eval_queries FILES/queries.tsv --eval_qrels FILES/qrels.txt", "Give --index"),
        (f"{SWAP} --lora_alpha 8", "--lora_alpha is a setting of a LoRA adapter, but --lora_r is 0"),
        (f"{SWAP} --lora_r -1", "--lora_r -1 has to be at least 0"),
        (f"{SWAP} --ranking_loss hinge", "ranking_loss"),
        (f"{SWAP} --scoring_repetition 2", "repetition=2.0 must lie between 0"),
        (f"{SWAP} --scoring_exponent 3", "--scoring_exponent weighs the identifiers of --candidates and of searches"),
        (
            f"{GENERATE} --corpus FILES/corpus.jsonl --scoring_smoothing 1",
            "--scoring_smoothing weighs the identifiers",
        ),
        (f"{SWAP} --eval_metrics mrr", "--eval_metrics is about the evaluation of retrieval, for which there are no"),
        (f"{SWAP} --eval_beam_size 3", "--eval_beam_size is about the evaluation of retrieval"),
        (f"{SWAP} --eval_ignore_identical_ids", "--eval_ignore_identical_ids is about the evaluation"),
        (f"{SWAP} --resume_from_checkpoint last", "there is no checkpoint in TMP/out"),
        (f"{SWAP} --resume_from_checkpoint FILES/bart", "is not a checkpoint: it has no trainer_state.json"),
        (f"{SWAP} --output_dir FILES/corpus.jsonl", "is a file. Give a folder"),
        ("quickstart --output FILES", "holds other files"),
        ("quickstart --output TMP/q --candidates 0", "--candidates 0 is too small"),
    ],
)
def test_found_before_anything_is_loaded(dgr, files, tmp_path, no_models, arguments, message):
    before = sorted(tmp_path.iterdir())
    found = dgr(*_filled(arguments, files, tmp_path))
    message = message.replace("FILES", str(files)).replace("TMP", str(tmp_path))
    assert found.code == 2 and found.out == ""
    assert message in found.err and "Traceback" not in found.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("p01 Everest\n", "line 1: 1 columns, but two are expected"),
        ("p01\tEverest\np01\tChomolungma\n", "line 2: passage 'p01' has a second identifier"),
        ("p01\t \n", "line 1: the identifier of passage 'p01' is ' '"),
        ("", "is empty"),
    ],
)
def test_identifier_strings(dgr, files, tmp_path, lines, message):
    (tmp_path / "ids.tsv").write_text(lines)
    arguments = _filled(f"{DISTIL} --identifiers TMP/ids.tsv", files, tmp_path)
    found = dgr(*arguments)
    assert found.code == 2 and message in found.err


def test_identifier_strings_as_json_lines(files, tmp_path):
    path = tmp_path / "ids.jsonl"
    path.write_text('{"id": "p01", "identifier": "Everest"}\n{"_id": 2, "identifier": "K2"}\n')
    assert sources.read_identifier_strings("--identifiers", str(path)) == {"p01": "Everest", "2": "K2"}
    path.write_text('[{"id": "p01", "identifier": "Everest"}, {"docno": 2, "identifier": "K2"}]')
    assert sources.read_identifier_strings("--identifiers", str(path)) == {"p01": "Everest", "2": "K2"}
    for name, text in (("ids.tsv", "Identifier\tpid\nEverest\tp01\n"), ("ids.csv", "docno,identifier\np01,Everest\n")):
        (tmp_path / name).write_text(text)
        assert sources.read_identifier_strings("--identifiers", str(tmp_path / name)) == {"p01": "Everest"}
    path.write_text('{"id": "p01", "identifier": "\\ud83d"}\n')
    with pytest.raises(ValueError, match="line 1: the identifier of passage 'p01' is a text that is not Unicode"):
        sources.read_identifier_strings("--identifiers", str(path))
    path.write_text('{"id": "p01", "title": "Everest"}\n')
    with pytest.raises(ValueError, match=r"line 1: a passage needs identifier \(identifier\). The fields found are"):
        sources.read_identifier_strings("--identifiers", str(path))


# Parts that do not belong together


@pytest.fixture(scope="module")
def index(files, tmp_path_factory):
    from dgr_trainer.cli.main import main

    path = tmp_path_factory.mktemp("made") / "index"
    assert main(["index", str(files / "corpus.jsonl"), "--model", str(files / "bart"), "--output", str(path)]) == 0
    return path


def test_an_index_of_another_tokenizer(dgr, files, index, tmp_path):
    found = dgr(
        "train", "--stage", "generation", "--model", files / "other", "--index", index, "--output_dir", tmp_path / "o"
    )
    assert found.code == 2 and "made with another tokenizer" in found.err
    assert not (tmp_path / "o" / "train.yaml").exists()


def test_options_that_the_index_was_not_made_with(dgr, files, index, tmp_path):
    found = dgr("pairs", index, "--model", files / "bart", "--output", tmp_path / "pairs", "--title_end", "||||")
    assert found.code == 2 and "was made with title_end='@@', not '||||'" in found.err
    agreed = dgr("pairs", index, "--model", files / "bart", "--output", tmp_path / "pairs", "--title_end", "@@")
    assert agreed.code == 0


def test_an_index_that_says_nothing_of_its_views(dgr, files, index, tmp_path):
    from dgr_trainer import Corpus, FMIndex

    FMIndex.load(index).save(tmp_path / "index")
    Corpus.read(files / "corpus.jsonl").save_to_disk(tmp_path / "index" / "corpus")
    found = dgr("pairs", tmp_path / "index", "--model", files / "bart", "--output", tmp_path / "pairs")
    assert found.code == 0 and "which says with which views" in found.err


def test_identifiers_that_the_index_does_not_hold(dgr, files, index, tmp_path):
    swap = _filled(SWAP, files, tmp_path)
    found = dgr(*swap, "--index", index)
    assert found.code == 2 and "but the index has the views title, substring, pseudo_query" in found.err
    made = dgr(
        "index", files / "corpus.jsonl", "--model", files / "bart", "--output", tmp_path / "docids", "--views", "docid"
    )
    assert made.code == 0
    found = dgr(*swap, "--index", tmp_path / "docids")  # Its docids are the ids, not the titles.
    assert found.code == 2 and "'Mount Everest' of passage 'p01' is not a docid in the index" in found.err


def test_pairs_of_another_tokenizer(dgr, files, index, tmp_path):
    assert dgr("pairs", index, "--model", files / "bart", "--output", tmp_path / "pairs").code == 0
    train = ("train", "--stage", "generation", "--model", files / "other", "--output_dir", tmp_path / "o", "--pairs")
    found = dgr(*train, tmp_path / "pairs")
    assert found.code == 2 and "was made with another tokenizer" in found.err
    (tmp_path / "pairs.jsonl").write_text('{"input_ids": [1, 2], "labels": [3, 9999]}\n')
    found = dgr(*train, tmp_path / "pairs.jsonl")
    assert found.code == 2 and "holds token id 9999, but the model's tokenizer has" in found.err
    (tmp_path / "pairs.jsonl").write_text('{"input_ids": [1, 2], "target": [3]}\n')
    found = dgr(*train, tmp_path / "pairs.jsonl")
    assert found.code == 2 and "line 1: labels has to be a list of token ids" in found.err
    found = dgr(*train, files / "bart")
    assert found.code == 2 and "is not a saved datasets.Dataset" in found.err


def test_pairs_with_other_columns(dgr, files, tmp_path):
    import datasets

    datasets.Dataset.from_dict({"input_ids": [[1]], "target": [[2]]}).save_to_disk(str(tmp_path / "pairs"))
    arguments = _filled(f"{GENERATE} --pairs TMP/pairs", files, tmp_path)
    found = dgr(*arguments)
    assert found.code == 2 and "lacks ['labels']" in found.err


def test_adapters_are_not_stacked(dgr, files, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in (files / "bart").glob("token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "adapter_config.json").write_text("{}")
    arguments = _filled(SWAP.replace("FILES/bart", "TMP/adapter"), files, tmp_path)
    found = dgr(*arguments, "--lora_r", 2)
    assert found.code == 2 and "has an adapter already, which is trained further" in found.err


# What is there already


def test_nothing_is_overwritten_unasked(dgr, files, index, tmp_path):
    again = ("index", files / "corpus.jsonl", "--model", files / "bart", "--output", index)
    before = (index / "index.json").stat().st_mtime_ns
    found = dgr(*again)
    assert found.code == 2 and "Add --overwrite" in found.err
    assert (index / "index.json").stat().st_mtime_ns == before
    assert dgr(*again, "--overwrite").code == 0
    assert (index / "index.json").stat().st_mtime_ns > before
    assert (index / "corpus" / "corpus.json").is_file()


def test_paths(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="is a file, but a folder is needed"):
        input_path("--candidates", str(tmp_path / "file"), folder=True)
    with pytest.raises(NotADirectoryError, match="is a file, but a model is a folder or a name on the hub"):
        model_name("--model", str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match="Nor does its folder"):
        input_path("--queries", str(tmp_path / "no" / "file"))
    assert model_name("--model", "facebook/bart-base") == "facebook/bart-base"
    assert output_file("--output", str(tmp_path / "new" / "run"), False) == tmp_path / "new" / "run"
    assert not (tmp_path / "new").exists()


def test_permissions(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "secret").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name not in ("closed", "secret"))
    with pytest.raises(PermissionError, match="x cannot be written: this user cannot write to .*closed"):
        output_folder("--output", str(tmp_path / "closed" / "x"), "index.json", False)
    with pytest.raises(PermissionError, match="cannot be read by this user"):
        input_path("--run", str(tmp_path / "secret"))
    assert output_folder("--output", str(tmp_path / "open" / "x"), "index.json", False) == tmp_path / "open" / "x"


def test_a_missing_extra_names_itself(dgr, files, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    found = dgr(*_filled(BM25, files, tmp_path))
    assert found.code == 2 and 'pip install "dgr-trainer[bm25]"' in found.err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (BM25, "bm25"),
        ("index FILES/corpus.jsonl --model FILES/bart --output TMP/index", "dgr index"),
        ("tune FILES/bart --queries FILES/queries.tsv --qrels FILES/qrels.txt --output TMP/s.json", "dgr tune"),
    ],
)
def test_what_works_in_one_process_is_not_launched_in_several(
    dgr, files, tmp_path, monkeypatch, no_models, arguments, name
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = dgr(*_filled(arguments, files, tmp_path))
    assert found.code == 2 and f"2 processes were launched, but {name} works in one" in found.err


def test_json_of_the_index_is_plain(index):
    description = json.loads(Path(index / "identifiers.json").read_text())
    assert description["identifiers"]["views"] == ["title", "substring", "pseudo_query"]
