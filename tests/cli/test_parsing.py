"""Command lines and configuration files."""

import pytest
import yaml

from dgr_trainer.cli import evaluate, index, rank, search, train
from dgr_trainer.cli.parsing import UsageError, write_config

RANK = ["--teacher", "bm25", "--queries", "q.tsv", "--output", "run.trec"]


def test_flags_take_no_positional():
    options, *_, positionals = search.make_parser().parse(["retriever", "--json", "a query", "-k", "3", "another"])
    assert options.json is True and options.k == 3
    assert positionals.query == ["a query", "another"]
    options, positionals = evaluate.make_parser().parse(["--qrels", "q", "--markdown", "a.trec", "b.trec"])
    assert options.markdown is True and positionals.runs == ["a.trec", "b.trec"]


def test_flags_can_be_taken_back():
    assert search.make_parser().parse(["r", "q", "--json", "no"])[0].json is False
    assert index.make_parser().parse(["c", "--model", "m", "--output", "o"])[0].save_corpus is True
    assert (
        index.make_parser().parse(["c", "--model", "m", "--output", "o", "--no_save_corpus"])[0].save_corpus is False
    )


def test_positionals_on_both_sides_of_options():
    _, positionals = evaluate.make_parser().parse(["a.trec", "--qrels", "q", "b.trec"])
    assert positionals.runs == ["a.trec", "b.trec"]


def test_hyphens_do_for_underscores():
    assert search.make_parser().parse(["r", "q", "--beam-size", "3"])[1].beam_size == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*RANK, "--quries", "x"], r"unknown argument --quries \(did you mean --queries\?\)"),
        (["--teacher", "bm25", "--querys=x"], r"unknown argument --querys \(did you mean --queries\?\)"),
        (["--teacher", "bm25"], "arguments are required: --queries, --output.*dgr rank --help"),
        ([*RANK, "--k", "many"], "--k.*invalid int value: 'many'"),
        ([*RANK, "--teacher", "tfidf"], "invalid choice: 'tfidf'"),
        ([*RANK, "--k1"], "expected one argument"),
        ([*RANK, "stray"], "unknown argument stray"),
    ],
)
def test_wrong_command_lines(arguments, message):
    with pytest.raises(UsageError, match=message):
        rank.make_parser().parse(arguments)


# Configuration files


def config(path, text):
    path.write_text(text, encoding="utf-8")
    return ["--config", str(path)]


def test_config(tmp_path):
    text = "teacher: bm25\nqueries: q.tsv\noutput: run.trec\nk: 7\nk1: 1\n"
    text += "fields: [title, text]\nstemmer:\nmax-length: 9\n"
    options, teacher, positionals = rank.make_parser().parse(config(tmp_path / "c.yaml", text))
    assert (options.teacher, options.queries, options.k) == ("bm25", "q.tsv", 7)
    assert (teacher.k1, teacher.fields, teacher.stemmer, teacher.max_length) == (1.0, ["title", "text"], None, 9)
    assert positionals.given["k"] == 7 and "stemmer" not in positionals.given


def test_the_command_line_comes_first(tmp_path):
    given = config(tmp_path / "c.yaml", "k: 7\nfields: [title]\noverwrite: true\n")
    options, teacher, _ = rank.make_parser().parse(
        [*given, *RANK, "--k", "9", "--fields", "text", "--overwrite", "no"]
    )
    assert options.k == 9 and teacher.fields == ["text"] and options.overwrite is False


def test_positionals_beside_a_config_with_lists(tmp_path):
    given = config(tmp_path / "c.yaml", "qrels: q\nmetrics: [hits@1, mrr]\njson: yes\n")
    options, positionals = evaluate.make_parser().parse([*given, "a.trec"])
    assert options.metrics == ["hits@1", "mrr"] and options.json is True and positionals.runs == ["a.trec"]


def test_training_arguments_in_a_config(tmp_path):
    text = (
        f"stage: generation\nmodel: m\noutput_dir: {tmp_path}\nlearning_rate: 1e-4\nuse_cpu: true\nwarmup_steps: 0.1\n"
    )
    text += "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1.0e-5}\nranking_loss: listnet\n"
    options, *_, arguments, _ = train.make_parser().parse(config(tmp_path / "c.yaml", text))
    assert options.stage == "generation"
    assert arguments.learning_rate == 1e-4 and arguments.warmup_steps == 0.1 and arguments.ranking_loss == "listnet"
    assert arguments.lr_scheduler_kwargs == {"min_lr": 1e-5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("querys: x\n", r"c\.yaml: `dgr rank` has no option querys \(did you mean queries\?\)"),
        ("zzz: 1\nyyy: 2\n", "has no option zzz, yyy. Its options"),
        ("k: many\n", r"c\.yaml: .*k: invalid int value: 'many'"),
        ("k: [1, 2]\n", "k is a list, but it takes one value"),
        ("teacher: tfidf\n", "invalid choice: 'tfidf'"),
        ("fields: [title, body]\n", "invalid choice: 'body'"),
        ("- k\n", "holds a list. It needs lines of `option: value`"),
        ("k: 'x\n", "is not YAML"),
    ],
)
def test_wrong_configs(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        rank.make_parser().parse([*config(tmp_path / "c.yaml", text), *RANK])


def test_missing_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"c\.yaml is not there"):
        rank.make_parser().parse(["--config", str(tmp_path / "c.yaml"), *RANK])


def test_empty_config(tmp_path):
    assert rank.make_parser().parse([*config(tmp_path / "c.yaml", "# nothing\n"), *RANK])[0].k == 100


def test_written_config_is_read_again(tmp_path):
    arguments = ["--stage", "generation", "--model", "m", "--output_dir", str(tmp_path), "--learning_rate", "3e-5"]
    arguments += ["--eval_metrics", "hits@1", "mrr", "--use_cpu", "--hub_token", "hidden"]
    first = train.make_parser().parse(arguments)
    write_config(first[-1].given, tmp_path / "c.yaml", "dgr-trainer")
    assert "hidden" not in (tmp_path / "c.yaml").read_text()
    assert yaml.safe_load((tmp_path / "c.yaml").read_text())["learning_rate"] == 3e-5
    second = train.make_parser().parse(["--config", str(tmp_path / "c.yaml")])
    assert second[-1].given == first[-1].given
    assert second[:-2] == first[:-2]
