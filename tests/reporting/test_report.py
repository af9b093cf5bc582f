"""The report: what it says of runs whose numbers are known, that it is one safe file, and what it refuses."""

import json
import re
from html.parser import HTMLParser

import pytest

from dgr_trainer import Rankings, write_report
from dgr_trainer.errors import DGRValueError, MissingPackageError
from dgr_trainer.reporting import plots
from dgr_trainer.reporting.evaluation import evaluate_given, main_metric
from dgr_trainer.reporting.histories import Series, ends, thinned
from dgr_trainer.reporting.numbers import duration, memory, number, points, share
from dgr_trainer.reporting.sentences import lists, too_short, verdict
from dgr_trainer.reporting.training_runs import read_folders

EVIL = "<script>alert('é')</script> & \"x\" {{ 7*7 }}"


class Page(HTMLParser):
    """Text and tags of a page; closing tags have to match."""

    VOID = {"meta", "br", "hr", "img", "path", "use", "rect"}

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open, self.attributes = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.text.append("" if tag in ("b", "code", "span") and "identifier" not in str(attrs) else " ")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def make_run(folder, values, **record):
    history = [
        {"step": step, "loss": value, "loss_ranking": value / 2, "kendall_tau": 1 - value, "learning_rate": 0.1}
        for step, value in enumerate(values, start=1)
    ]
    folder.mkdir(parents=True)
    whole = {
        "format_version": 1,
        "kind": "training",
        "stage": "distillation",
        "status": "finished",
        "steps": len(values),
        "planned_steps": len(values),
        "settings": {"seed": 7, "learning_rate": 0.5, "margin": None},
        "changed_settings": ["learning_rate"],
        "versions": {"torch": "9.9"},
        "code": {"dgr_trainer": "ab" * 32},
        "model": {"class": "Student", "name": None, "parameters": 1200, "trained_parameters": 300, "adapter": None},
        "data": {"train": {"rows": 40, "columns": ["query"], "sha256": "cd" * 32}},
        "parts": [
            {
                "from_step": 0,
                "to_step": len(values),
                "seconds": 2.0,
                "device": "cpu",
                "peak_memory": {"host_bytes": 3 * 10**9},
            }
        ],
        "log_history": history,
        **record,
    }
    (folder / "dgr_run.json").write_text(json.dumps(whole))
    return folder


@pytest.fixture
def with_plots():
    pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def no_plots(request, monkeypatch):
    """Plots take most of the time of a report: only the tests that need them have them."""
    if "with_plots" not in request.fixturenames:

        def missing():
            raise MissingPackageError('Plots need matplotlib. Install it with: pip install "dgr-trainer[plots]"')

        monkeypatch.setattr(plots, "check_matplotlib", missing)


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run", [0.8, 0.6, 0.4, 0.2])


QRELS = {f"q{number}": {f"p{number}": 1} for number in range(20)}
BEFORE = Rankings({query: {"x": 2.0, **dict.fromkeys(one, 1.0)} for query, one in QRELS.items()})
AFTER = Rankings(
    {query: {"x": 2.0, **dict.fromkeys(one, 3.0 if query != "q0" else 0.0), "y": 1.0} for query, one in QRELS.items()}
)


def written(*arguments, tmp_path, **settings):
    path = write_report(*arguments, tmp_path / "report.html", **settings)
    return path.read_text(encoding="utf-8")


def test_a_reader_is_told_whether_it_worked(folder, tmp_path):
    page = written(folder, tmp_path=tmp_path, runs={"before": BEFORE, "after": AFTER}, qrels=QRELS)
    words = Page(page).words
    # 19 queries from rank 2 (1/log2(3)) to rank 1, one from rank 2 to rank 3 (1/log2(4)).
    gain = (19 * (1 - 0.63093) + (0.5 - 0.63093)) / 20
    assert f"after is above before by {100 * gain:.1f} points of nDCG@10" in words
    assert "p < 0.001, 20 queries" in words
    assert "Of 20 queries 19 won (+36.9 points of nDCG@10 on average), 1 lost (\u221213.1), and 0 stayed" in words
    assert "The ranking loss fell from 0.4 to 0.1." in words
    assert "1,200 parameters, of which 300 were trained" in words and "Seed 7" in words
    assert "40 rows, sha256 cdcdcdcdcdcdcdcd" in words and "torch 9.9" in words
    assert "training of run 2.0 s 4 2 3.00 GB" in words


def test_no_difference_is_not_called_one(folder, tmp_path):
    other = Rankings({query: dict(zip(*BEFORE[query], strict=True)) for query in QRELS} | {"q1": {"p1": 1.0}})
    words = Page(written(folder, tmp_path=tmp_path, runs={"a": BEFORE, "b": other}, qrels=QRELS)).words
    assert "b and a cannot be told apart in nDCG@10" in words and "may be chance" in words


def test_it_is_one_file_that_runs_and_loads_nothing(folder, tmp_path, with_plots):
    evil = make_run(tmp_path / "evil", [0.5, 0.4], settings={"seed": EVIL, "run": EVIL}, changed_settings=["run"])
    runs = {EVIL: BEFORE, "after": AFTER}
    page = written(
        [folder, evil], tmp_path=tmp_path, runs=runs, qrels=QRELS, queries=dict.fromkeys(QRELS, EVIL), title=EVIL
    )
    parsed = Page(page)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(parsed.tags)
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    links = [value for _, name, value in parsed.attributes if name in ("href", "src", "xlink:href")]
    assert all(value.startswith("#") for value in links)
    assert "://" not in page and "@import" not in page and "url(http" not in page
    assert parsed.words.count("alert('é')</script> & \"x\" {{ 7*7 }}") > 20
    ids = [value for _, name, value in parsed.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(value[1:] in ids for value in links)


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(folder, tmp_path, with_plots):
    settings = {"runs": {"a": BEFORE, "b": AFTER}, "qrels": QRELS, "tmp_path": tmp_path}
    first = written(folder, **settings)
    assert written(folder, **settings) == first
    dated = written(folder, date="2026-05-17", **settings)
    assert "2026-05-17" in dated and "2026-05-17" not in first


@pytest.mark.slow
def test_several_runs_share_their_plots(folder, tmp_path, with_plots):
    other = make_run(tmp_path / "other" / "run", [0.9, 0.1], settings={"seed": 7, "learning_rate": 0.25})
    page = written([folder, other], tmp_path=tmp_path)
    words = Page(page).words
    assert "other/run" in words and f"{tmp_path.name}/run" in words
    (plot,) = (svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "<title>Ranking loss" in svg)
    assert len(re.findall(r'id="panel\d+-line2d_\d+"', plot)) > 2
    assert ">other/run<" in plot and "stroke-dasharray" in plot
    assert "learning_rate 0.5 0.25" in words and "Settings in which the runs differ" in words


def test_what_is_missing_is_said(folder, tmp_path):
    words = Page(written(folder, tmp_path=tmp_path)).words
    assert "Whether retrieval became better is not known" in words
    assert "dgr search RETRIEVER --queries FILE --json" in words and "--eval_queries" in words
    bare = tmp_path / "bare"
    (bare / "checkpoint-2").mkdir(parents=True)
    state = {"log_history": [{"step": 1, "eval_ndcg@10": 0.25}, {"step": 2, "eval_ndcg@10": 0.5}]}
    (bare / "checkpoint-2" / "trainer_state.json").write_text(json.dumps(state))
    words = Page(written(bare, tmp_path=tmp_path)).words
    assert "bare: nDCG@10 was 0.250 at step 1 and 0.500 at step 2." in words
    assert "dgr_run.json is missing" in words


def test_without_matplotlib_the_numbers_stay(folder, tmp_path):
    page = written(folder, tmp_path=tmp_path)
    assert "<svg" not in page and "dgr-trainer[plots]" in Page(page).words
    assert "run: 0.4 at step 1, 0.1 at step 4" in Page(page).words


def test_lists_that_are_too_short_for_a_metric_are_told():
    runs = {"a": BEFORE, "b": AFTER}
    told = too_short(evaluate_given(runs, QRELS, None, ["hits@1", "hits@3", "ndcg@10"]))
    assert told.startswith("hits@3 and nDCG@10 look further down") and "a has at most 2 and b has at most 3" in told
    assert too_short(evaluate_given(runs, QRELS, None, ["hits@2"])) == ""


def test_hits_show_their_identifiers(folder, tmp_path):
    def hits(path, first):
        with open(path, "w") as file:
            for query in QRELS:
                ids = [f"p{query[1:]}", "x"] if first else ["x", f"p{query[1:]}"]
                found = [
                    {
                        "passage_id": id,
                        "score": 2.0 - place,
                        "title": f"Title of {id}",
                        "identifiers": [{"view": "title", "text": f"name {id}", "count": 1, "score": 2.0 - place}],
                    }
                    for place, id in enumerate(ids)
                ]
                file.write(json.dumps({"query_id": query, "query": f"about {query}", "hits": found}) + "\n")
        return path

    runs = {"old": hits(tmp_path / "old.jsonl", False), "new": hits(tmp_path / "new.jsonl", True)}
    words = Page(written(folder, tmp_path=tmp_path, runs=runs, qrels=QRELS)).words
    assert "about q1" in words and "First stood x (Title of x)" in words
    assert "Found by title name p1 2" in words and "The relevant one by title name p1 1" in words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runs": {"a": BEFORE}}, "runs were given without qrels"),
        ({"runs": {}}, "runs is empty"),
        ({"qrels": QRELS}, "qrels, queries, baseline and result are about runs"),
        ({"runs": {"a": BEFORE, "b": AFTER}, "qrels": QRELS, "result": "c"}, "There is no run 'c'"),
        ({"runs": {"a": BEFORE, "b": AFTER}, "qrels": QRELS, "result": "a"}, "are both 'a'"),
        ({"date": "yesterday"}, "not a date such as 2026-05-17"),
    ],
)
def test_refusals(folder, tmp_path, settings, message):
    with pytest.raises(DGRValueError, match=message):
        write_report(folder, tmp_path / "report.html", **settings)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds a list, not an object"),
        ('{"format_version": 2}', "reads version 1"),
        ('{"format_version": 1, "kind": "cake"}', "describes a 'cake'"),
    ],
)
def test_damaged_records(tmp_path, content, message):
    (tmp_path / "dgr_run.json").write_text(content)
    with pytest.raises(DGRValueError, match=message):
        read_folders([tmp_path])


def test_folders_that_are_no_trainings(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds nothing of a training"):
        read_folders([tmp_path])
    (tmp_path / "retriever.json").touch()
    with pytest.raises(FileNotFoundError, match="It is a retriever"):
        read_folders([tmp_path])
    with pytest.raises(FileNotFoundError, match="is no folder"):
        read_folders([tmp_path / "nothing"])
    with pytest.raises(DGRValueError, match="No folder"):
        read_folders([])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"query": "x", "hits": []}, r"no field \['query_id'\]"),
        ({"query_id": "q", "query": "x", "hits": [{"score": 1}]}, "hits as `dgr search --json` prints them"),
    ],
)
def test_hits_that_are_malformed(tmp_path, line, message):
    (tmp_path / "hits.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DGRValueError, match=message):
        evaluate_given({"a": tmp_path / "hits.jsonl"}, QRELS, None, ["ndcg@10"])


def test_a_pipeline_finds_its_trainings_and_its_runs(tmp_path):
    make_run(tmp_path / "training" / "dgr", [0.5, 0.25])
    BEFORE.to_trec(tmp_path / "runs" / "before.trec")
    AFTER.to_trec(tmp_path / "runs" / "after.trec")
    (tmp_path / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{p}\t1\n" for q, one in QRELS.items() for p in one)
    )
    record = {
        "format_version": 1,
        "kind": "pipeline",
        "name": "A pipeline",
        "stages": [{"name": "Index", "seconds": 90.0}],
        "trainings": [{"name": "DGR", "folder": "training/dgr"}],
        "evaluation": {
            "qrels": "qrels.tsv",
            "runs": {"before": "runs/before.trec", "after": "runs/after.trec"},
            "metrics": ["hits@1", "mrr@10"],
        },
    }
    (tmp_path / "dgr_run.json").write_text(json.dumps(record))
    words = Page(written(tmp_path, tmp_path=tmp_path)).words
    assert words.startswith("A pipeline") and "after is above before by" in words and "points of MRR@10" in words
    assert "Index 90 s" in words and "training of DGR" in words
    (tmp_path / "runs" / "after.trec").unlink()
    with pytest.raises(FileNotFoundError, match="after.trec is missing"):
        written(tmp_path, tmp_path=tmp_path)


def test_lists_in_words():
    taught = {
        "training_queries": 10,
        "queries": 10,
        "teacher": {"judged": 10, "ranks": {"1": 4, "not ranked": 1}},
        "lists": 9,
        "mean_length": 6.0,
        "first_is_relevant": 1.0,
        "pairs": 100,
        "tied_pairs": 25,
        "student_scores": {"pairs": 75, "wrong_order": 0.4, "spread": [50.0, 100.0, 200.0], "neighbours": [0, 1, 2]},
        "margins": {"margin": 300.0, "margin_gap": 100.0, "violated": 0.9, "relative_to_spread": 7.0},
    }
    said = " ".join(lists(taught))
    assert "ranks a relevant passage first for 40\u00a0% of the 10 judged queries" in said
    assert "25\u00a0% of the 100 pairs in the lists are ties" in said and "40\u00a0% of these pairs against" in said
    assert "90\u00a0% of the pairs violated this" in said and "7 times the median spread" in said
    assert "Try smaller margins" in said


def test_a_training_that_diverged_or_was_killed_is_not_praised(tmp_path):
    folder = make_run(tmp_path / "run", [1.0, float("nan")], status="running", planned_steps=10)
    words = Page(written(folder, tmp_path=tmp_path)).words
    assert "It is not finished: 2 of 10 steps" in words and "diverged" in words


def test_series():
    long = Series("r", [float(step) for step in range(1000)], [float(step) for step in range(1000)])
    short = thinned(long)
    assert len(short.steps) <= 300 and short.values[0] == pytest.approx(1.5) and short.steps[-1] == 999
    assert ends(long) == (pytest.approx(49.5), pytest.approx(949.5))
    assert main_metric(["hits@1", "mrr@10", "ndcg@5"]) == "ndcg@5" and main_metric(["hits@1", "mrr"]) == "mrr"


def test_numbers():
    assert [number(value) for value in (1234567, 0.01234, 1.25e-8, 12345.6, None, float("nan"), -0.5)] == [
        *("1,234,567", "0.0123", "1.25e-08", "12,346", "\u2013", "\u2013", "\u22120.5")
    ]
    assert [number(value) for value in (999.4, 999.7, 9999.6, -999.7)] == ["999", "1,000", "10,000", "\u22121,000"]
    assert (number(99.4, 2), number(99.7, 2)) == ("99", "100")
    assert (points(0.029), points(-0.5)) == ("+2.9", "\u221250.0")
    assert [share(value) for value in (0, 0.0004, 0.002, 0.256, 0.992, 0.9999, 1)] == [
        f"{text}\u00a0%" for text in ("0", "< 0.1", "0.2", "26", "99.2", "> 99.9", "100")
    ]
    assert [duration(value) for value in (3.21, 70, 600, 9000)] == ["3.2 s", "70 s", "10 min", "2 h 30 min"]
    assert memory(1.5e9) == "1.50 GB" and memory(2e6) == "2 MB" and memory(1234) == "1.2 kB"


def test_a_single_run_has_no_before(folder):
    evaluation = evaluate_given({"only": AFTER}, QRELS, None, ["mrr@10"])
    assert "only has MRR@10 0.967" in verdict(evaluation, []) and "Without a run from before" in verdict(
        evaluation, []
    )
