"""Output to terminals and pipes of any encoding, and to paths that are links."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import dgr_trainer
from dgr_trainer import Rankings, read_qrels
from dgr_trainer.cli import search
from dgr_trainer.cli.main import main
from dgr_trainer.data.passages import Passage
from dgr_trainer.data.queries import write_qrels
from dgr_trainer.runs import read_run

RUN = Rankings({"q": {"á": 2.0, "b": 1.0}}, name="中")


def _dgr(*arguments, **environment):
    """Run `dgr` in a process of its own, whose output is a pipe."""
    root = str(Path(dgr_trainer.__file__).parents[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-m", "dgr_trainer.cli.main", *map(str, arguments)],
        env={**kept, "PYTHONPATH": root, **environment},
        capture_output=True,
        timeout=120,
    )


@pytest.fixture
def files(tmp_path):
    RUN.to_trec(tmp_path / "рўн中.trec")
    write_qrels({"q": {"á": 1}}, tmp_path / "a.qrels")
    return tmp_path


ENVIRONMENTS = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "utf-8"},
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=str)
def test_what_the_encoding_lacks_is_replaced(files, environment):
    run = files / "рўн中.trec"
    arguments = ["evaluate", run, "--qrels", files / "a.qrels", "--metrics", "mrr"]
    shown = _dgr(*arguments, **environment)
    assert shown.returncode == 0, shown.stderr
    assert b"1.000" in shown.stdout
    if environment.get("PYTHONIOENCODING") == "ascii":
        assert b"?.trec" not in shown.stdout and b"????" in shown.stdout
    if environment.get("PYTHONIOENCODING") == "utf-8":
        assert "рўн中" in shown.stdout.decode()
    result = _dgr(*arguments, "--json", **environment)
    assert result.returncode == 0, result.stderr
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    assert list(json.loads(result.stdout.decode(encoding))["runs"]) == ["рўн中"], "JSON loses nothing"


@pytest.mark.parametrize("environment", ENVIRONMENTS[:2], ids=str)
def test_errors_are_shown_in_any_encoding(files, environment):
    failed = _dgr("evaluate", files / "nø.trec", "--qrels", files / "a.qrels", **environment)
    assert failed.returncode == 2 and b"does not exist" in failed.stderr and b"Traceback" not in failed.stderr


@pytest.mark.slow
def test_a_file_whose_name_is_no_text(files):
    name = os.fsencode(files) + b"/r\xff.trec"
    try:
        os.rename(files / "рўн中.trec", name)
    except OSError:
        pytest.skip("this file system has only names that are text")
    run = os.fsdecode(name)
    for extra in ((), ("--json",)):
        shown = _dgr("evaluate", run, "--qrels", files / "a.qrels", "--metrics", "mrr", *extra)
        assert shown.returncode == 0, shown.stderr
    columns = os.fsencode(files) + b"/c\xff.tsv"
    Path(os.fsdecode(columns)).write_text("q\tb\t1\n")
    # In a process of its own: workers of pytest cannot send a captured name that is no text.
    assert _dgr("fuse", run, os.fsdecode(columns), "--output", files / "fused.trec").returncode == 0
    named = read_run(os.fsdecode(columns))
    named.to_trec(files / "named.trec")
    assert read_run(files / "named.trec").name == named.name == "c\ufffd"


@pytest.mark.parametrize("columns", [1, 12, 40])
def test_hits_in_a_narrow_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    passage = Passage("p", title="Mount Everest", text="The highest mountain on Earth is in the Himalayas.")
    retriever = SimpleNamespace(corpus={"p": passage}, identifier_text=lambda identifier: "highest mountain")
    identifier = SimpleNamespace(score=3.5, view="substring", count=2)
    hit = SimpleNamespace(passage_id="p", score=12.3, identifiers=[identifier])
    lines = list(search._lines(retriever, "which mountain is the highest", [hit], 1))
    assert lines[2].startswith("  1. ") and lines[2].endswith("12.3") and lines[3].startswith("     The")
    assert lines[-1].split()[:3] == ["3.5", "substring", "2x"]


# Links


WRITERS = {
    "trec": lambda path: RUN.to_trec(path),
    "trec.gz": lambda path: RUN.to_trec(path),
    "jsonl": lambda path: RUN.to_jsonl(path),
    "qrels": lambda path: write_qrels({"q": {"b": 1}}, path),
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path, suffix, relative, there):
    (tmp_path / "store").mkdir()
    target = tmp_path / "store" / f"a.{suffix}"
    if there:
        target.write_bytes(b"old")
    link = tmp_path / f"link.{suffix}"
    link.symlink_to(Path("store") / target.name if relative else target)
    WRITERS[suffix](link)
    assert link.is_symlink() and not target.is_symlink() and target.read_bytes() not in (b"", b"old")
    WRITERS[suffix](tmp_path / f"plain.{suffix}")
    assert target.read_bytes() == (tmp_path / f"plain.{suffix}").read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["store", target.name, link.name, f"plain.{suffix}"]
    )


def test_overwrite_keeps_a_link(files, capsys):
    runs = [str(files / f"{name}.trec") for name in "ab"]
    for path in runs:
        RUN.to_trec(path)
    (files / "store").mkdir()
    (files / "store" / "fused.trec").write_text("old")
    link = files / "fused.trec"
    link.symlink_to("store/fused.trec")
    assert main(["fuse", *runs, "--output", str(link)]) == 2
    assert "exists already. Add --overwrite" in capsys.readouterr().err
    assert main(["fuse", *runs, "--output", str(link), "--overwrite"]) == 0
    assert link.is_symlink() and set(read_run(files / "store" / "fused.trec")["q"].passage_ids) == {"á", "b"}
    values = files / "values.tsv"
    values.symlink_to("store/values.tsv")
    assert main(["evaluate", *runs, "--qrels", str(files / "a.qrels"), "--per_query", str(values)]) == 0
    assert values.is_symlink() and (files / "store" / "values.tsv").is_file()


def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="a link that leads back to itself"):
        RUN.to_trec(tmp_path / "a")
    (tmp_path / "c").symlink_to("new/c")
    write_qrels({"q": {"b": 1}}, tmp_path / "c")
    assert (tmp_path / "c").is_symlink() and read_qrels(tmp_path / "new" / "c") == {"q": {"b": 1}}
    (tmp_path / "folder").mkdir()
    (tmp_path / "d").symlink_to("folder")
    with pytest.raises(IsADirectoryError, match="folder is a folder, so no file can be written there"):
        RUN.to_trec(tmp_path / "d")


def test_pipes_and_devices_are_not_replaced(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(ValueError, match="is a pipe or a device, but the output replaces a file as a whole"):
            RUN.to_trec(path)
    assert not (Path("/dev/null")).is_file()
    assert main(["fuse", "a", "b", "--output", "/dev/null", "--overwrite"]) == 2
    assert "is a pipe or a device" in capsys.readouterr().err


def test_a_typed_query_that_is_no_text(tmp_path, capsys):
    """Bytes that are no UTF-8 arrive as halves of surrogate pairs."""
    assert main(["search", str(tmp_path), "good", "bad \udcff"]) == 2
    assert "QUERY 2: the query is a text that is not Unicode" in capsys.readouterr().err
