"""The harness of examples/reproduce: its graph of stages, its verdicts and page, and a whole run that is killed."""

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from teachers.reranker_models import save_encoder

from dgr_trainer import Identifiers
from dgr_trainer.evaluation.significance import confidence_interval, paired_test

ROOT = Path(__file__).parents[2]
HERE = ROOT / "examples" / "reproduce"
TINY: dict = {
    "extends": "_base",
    "corpora": {"openbookqa": None, "tldr": None, "squad-dev": None, "insuranceqa": None, "sample": {}},
    "seeds": [0, 1],
    "students": {
        "tiny": {
            "scratch": {
                "kind": "bart",
                "vocabulary": 600,
                "d_model": 32,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
                "encoder_ffn_dim": 64,
                "decoder_ffn_dim": 64,
                "max_position_embeddings": 128,
                "init_std": 0.1,
            }
        }
    },
    "main_teacher": {"default": "BM25"},
    "generation": {"max_steps": 20, "per_device_train_batch_size": 8, "learning_rate": 5e-3},
    "training": {"max_steps": 6, "learning_rate": 5e-3, "save_steps": 2},
    "candidates": {"k": 10, "search": {"beam_size": 3}},
    "search": {"beam_size": 2},
    "tuning": {"student": {"max_queries": 24, "rounds": 1}},
    "rows": {"DGR in rounds": {"rounds": 2}},
}


@pytest.fixture
def modules(monkeypatch):
    """The scripts import each other as modules beside them."""
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A BEIR folder with the splits train, dev and test."""
    folder = tmp_path / "data" / "sample"
    shutil.copytree(ROOT / "examples" / "data", folder)
    with open(folder / "qrels" / "train.tsv", newline="") as file:
        head, *rows = csv.reader(file, delimiter="\t")
    for split, part in (("train", rows[::2]), ("dev", rows[1::2])):
        with open(folder / "qrels" / f"{split}.tsv", "w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([head, *part])
    return tmp_path / "data"


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY, sort_keys=False))
    return path


@pytest.mark.parametrize("name", [path.stem for path in sorted((HERE / "presets").glob("[!_]*.yaml"))])
def test_presets_are_complete(name, modules, tmp_path):
    from config import load_preset
    from rows import Graph

    preset = load_preset(name)
    for corpus in preset.corpora:
        (tmp_path / corpus).mkdir()
        (tmp_path / corpus / "corpus.jsonl").touch()
    cells = list(Graph(preset, tmp_path).cells(seeds=[0]))
    assert {cell.row.name for cell in cells} == set(preset.rows)
    for cell in cells:
        assert len(cell.evaluations["test"].digest) == 16  # Made of plain values.
        assert cell.evaluations["test"].digest != cell.evaluations["dev"].digest


def test_rows_share_what_they_have_in_common(modules, data, preset):
    from config import load_preset
    from rows import Graph

    def stages(path: Path) -> dict:
        cells = Graph(load_preset(str(path)), data).cells(
            rows=["generation continued", "DGR", "DGR in rounds", "M 100"]
        )
        return {(cell.row.name, cell.seed): list(cell.evaluations["test"].chain()) for cell in cells}

    def of(kind: str, chain: list) -> list[str]:
        return [stage.digest for stage in chain if stage.kind == kind]

    first = stages(preset)
    continued, dgr, rounds = (first[row, 0] for row in ("generation continued", "DGR", "DGR in rounds"))
    for kind in ("corpus", "tokenizer", "index", "generation", "tuning", "candidates"):
        assert of(kind, continued) == of(kind, dgr) and len(of(kind, dgr)) == 1
    assert of("ranking", continued) != of("ranking", dgr)
    assert not of("teacher", continued) and len(of("teacher", dgr)) == 1
    assert of("ranking", rounds)[0] == of("ranking", dgr)[0]  # The first round is the row without rounds.
    assert len(of("candidates", rounds)) == len(of("ranking", rounds)) == 2
    assert first["DGR", 0][-1].digest == first["M 100", 0][-1].digest  # The same settings under another name.
    other_seed = first["DGR", 1]
    assert of("index", other_seed) == of("index", dgr) and of("generation", other_seed) != of("generation", dgr)

    def changed(**sections) -> dict:
        preset.write_text(yaml.safe_dump({**TINY, **sections}, sort_keys=False))
        return stages(preset)

    more = changed(training={"max_steps": 7})["DGR", 0]
    assert of("candidates", more) == of("candidates", dgr) and of("ranking", more) != of("ranking", dgr)
    disjoint = changed(questions={"sharing": "disjoint"})["DGR", 0]
    assert of("generation", disjoint) != of("generation", dgr) and of("index", disjoint) == of("index", dgr)
    judged = changed(rows={"DGR": {"questions": {"judged": 3}}})["DGR", 0]
    assert of("tuning", judged) == of("tuning", dgr) and of("evaluation", judged) != of("evaluation", dgr)
    assert all(of(kind, judged) != of(kind, dgr) for kind in ("candidates", "teacher", "ranking"))
    with open(data / "sample" / "corpus.jsonl", "a") as file:
        file.write('{"_id": "new", "title": "", "text": "A new passage."}\n')
    sys.modules["questions"].fingerprint.cache_clear()
    assert of("index", stages(preset)["DGR", 0]) != of("index", dgr)


CODES = {
    "teachers": {"tiny vectors": {"kind": "bi-encoder", "model": "encoder"}},
    "corpora": {"other": {}},
    "students": {
        "titled": {
            **TINY["students"]["tiny"],
            "identifiers": {"views": ["title"]},
            "corpora": ["sample"],
            "scoring": {"kind": "log_likelihood"},
            "tuning": None,
        },
        "coded": {
            **TINY["students"]["tiny"],
            "semantic_ids": {"teacher": "tiny vectors", "kind": "hierarchical", "levels": 2, "size": 4},
            "rows": ["generation only", "DGR", "DGR with prefix ranking"],
            "scoring": {"kind": "log_likelihood"},
            "tuning": None,
        },
    },
}


def test_some_students_have_one_identifier_a_passage(modules, data, preset):
    from config import load_preset, merge
    from rows import Graph

    preset.write_text(yaml.safe_dump(merge(TINY, CODES), sort_keys=False))
    shutil.copytree(data / "sample", data / "other")
    every = list(Graph(load_preset(str(preset)), data).cells(seeds=[0]))
    cells = [cell for cell in every if cell.corpus == "sample"]
    titled = {cell.row.name: cell for cell in every if cell.student == "titled"}
    assert {cell.corpus for cell in every} == {"sample", "other"}
    assert {cell.corpus for cell in titled.values()} == {"sample"} and "DGR with prefix ranking" in titled
    coded = {cell.row.name: cell for cell in cells if cell.student == "coded"}
    others = {cell.row.name: cell for cell in cells if cell.student == "tiny"}
    assert list(coded) == ["generation only", "DGR", "DGR with prefix ranking"]
    assert "DGR with prefix ranking" not in others and "LTRGR" in others
    stages = {stage.kind: stage for stage in coded["DGR with prefix ranking"].evaluations["test"].chain()}
    codes = stages["semantic-ids"]
    assert codes.config["fit"] == {"kind": "hierarchical", "levels": 2, "size": 4}
    for kind in ("tokenizer", "index", "generation", "candidates", "ranking", "evaluation"):
        assert stages[kind].inputs["semantic_ids"] is codes
    assert stages["ranking"].config["training"]["prefix_ranking"] and "tuning" not in stages
    for cell in (others["DGR"], titled["DGR"]):
        assert not any(stage.kind == "semantic-ids" for stage in cell.evaluations["test"].chain())
    chains = [{stage.digest for stage in cell.evaluations["test"].chain()} for cell in (others["DGR"], titled["DGR"])]
    assert len(chains[0] & chains[1]) == 1  # The corpus.


def test_the_ranking_stage_knows_so_many_judgements(modules, data):
    from questions import Questions

    questions = Questions(data / "sample")
    limits = {"ranking": 8, "sharing": "shared", "seed": 1}
    whole, some, none = (questions.of_ranking({**limits, "judged": judged}) for judged in (None, 3, 0))
    assert whole.questions["query_id"] == some.questions["query_id"] == none.questions["query_id"]
    assert list(whole.qrels) == list(whole.questions["query_id"]) and len(whole.qrels) == 8
    assert len(some.qrels) == 3 and some.qrels.items() <= whole.qrels.items() and none.qrels == {}
    asked_alone = questions.of_ranking({**limits, "ranking": 3})
    assert asked_alone.qrels == some.qrels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corporae": {}}, "has 'corporae', which means nothing"),
        ({"rows": {"X": {"losses": 1}}}, "row 'X' has 'losses'"),
        ({"rows": {"X": {"kind": "student"}}}, "'student'; use one of teacher, generation, ranking"),
        ({"rows": {"X": {"teacher": "BM52"}}}, "teacher 'BM52', but there are: BM25"),
        ({"rows": {"X": {"rounds": 0}}}, "rounds=0; give at least 1"),
        ({"teachers": {"fusion": {"of": ["E5"]}}}, "'fusion' needs the teacher 'E5'"),
        ({"students": {"tiny": None}}, "has no students"),
        ({"main_teacher": {"default": "E5"}}, "main_teacher names 'E5'"),
        ({"students": {"tiny": {"checkpiont": "x"}}}, "student 'tiny' has 'checkpiont', which means nothing"),
        ({"students": {"tiny": {"rows": ["DRG"]}}}, "'tiny' has the row 'DRG', which is none of BM25"),
        (
            {"students": {"tiny": {"semantic_ids": {"teacher": "BM25"}}}},
            "'BM25', which is no bi-encoder of the preset",
        ),
    ],
)
def test_faults_of_presets_are_named(changes, message, modules, preset):
    from config import load_preset

    preset.write_text(yaml.safe_dump({**TINY, **changes}))
    with pytest.raises(ValueError, match=message):
        load_preset(str(preset))


def test_unknown_presets_are_named(modules):
    from config import load_preset

    with pytest.raises(ValueError, match="There is no preset 'cpu'. Give one of cpu-small, gpu"):
        load_preset("cpu")


QUESTIONS = 60
_NOISE = np.random.default_rng(0).normal(0, 0.05, (3, QUESTIONS))


def made_up(gains: list[float]) -> dict:
    """Values of a row that is better than 0.5 by a gain in each seed, with some noise."""
    return {str(seed): {"ndcg@10": (0.5 + gain + _NOISE[seed]).tolist()} for seed, gain in enumerate(gains)}


@pytest.mark.parametrize(
    ("relation", "gains", "verdict"),
    [
        ("better", [0.1, 0.1, 0.1], "held"),
        ("better", [0.1, 0.1], "undecided"),  # Too few seeds.
        ("better", [0.2, 0.2, -0.01], "undecided"),  # Not in every seed.
        ("better", [0.005, 0.005, -0.005], "undecided"),  # A gain that matters is possible.
        ("better", [-0.1, -0.1, -0.1], "did not hold"),
        ("no better", [-0.1, -0.1, -0.1], "held"),
        ("no better", [0.1, 0.1, 0.1], "did not hold"),
        ("no better", [0.005, 0.005, -0.005], "undecided"),
        ("level", [0.1, 0.1, 0.1], "held"),
        ("level", [-0.1, -0.1, -0.1], "did not hold"),
        ("level", [-0.005, -0.005, -0.005], "undecided"),
    ],
)
def test_verdicts(relation, gains, verdict, modules):
    from claims import Claim, judge

    flat = {"None": {"ndcg@10": [0.5] * QUESTIONS}}
    found = judge(Claim("", "A", {"B": 1.0}, relation), {"one": {"A": made_up(gains), "B": flat}})
    assert found.verdict == verdict
    comparison = found.comparisons[0]
    seeds = [np.array(of["ndcg@10"]) for of in made_up(gains).values()]
    mean = np.mean(seeds, axis=0)
    assert comparison.difference == pytest.approx(np.mean(mean) - 0.5)
    assert comparison.by_seed == pytest.approx([of.mean() - 0.5 for of in seeds])
    assert comparison.p_value == paired_test(mean - 0.5, np.zeros(QUESTIONS)).randomisation_p_value
    assert (comparison.low, comparison.high) == pytest.approx(confidence_interval(mean - 0.5))


def test_a_verdict_over_corpora(modules):
    from claims import Claim, judge

    flat = {"None": {"ndcg@10": [0.5] * QUESTIONS}}
    good, bad = ({"A": made_up([gain] * 3), "B": flat} for gain in (0.1, -0.1))

    def verdict(*corpora: dict, needed: int) -> str:
        named = {str(number): rows for number, rows in enumerate(corpora)}
        return judge(Claim("", "A", {"B": 1.0}, corpora=needed), named).verdict

    assert verdict(good, good, bad, needed=2) == "held"
    assert verdict(good, good, needed=3) == "undecided"  # The third corpus was not run.
    assert verdict(good, bad, bad, needed=2) == "did not hold"
    assert judge(Claim("", "A", {"C": 1.0}), {"one": good}) is None
    ceiling = {"None": {"ndcg@10": [0.7] * QUESTIONS}}  # Half of the gap between 0.5 and 0.7 is at 0.6.
    half = Claim("", "A", {"B": 0.5, "C": 0.5})
    for gain, expected in ((0.15, "held"), (0.05, "did not hold")):
        rows = {"A": made_up([gain] * 3), "B": flat, "C": ceiling}
        assert judge(half, {"one": rows}).verdict == expected


def test_faults_of_claims_are_named(modules, tmp_path):
    from claims import read_claims

    assert len(read_claims()) > 10
    path = tmp_path / "claims.yaml"
    path.write_text("[{text: a, row: A, than: {B: 0.5}}]")
    with pytest.raises(ValueError, match="the weights {'B': 0.5} do not sum to 1"):
        read_claims(path)
    path.write_text("[{text: a, row: A, than: B, relation: worse}]")
    with pytest.raises(ValueError, match="relation 'worse'; use better, no better, level"):
        read_claims(path)


def stored_results(folder: Path) -> dict:
    """Made-up results of two rows, a teacher and a sweep on one corpus; returns the values by row."""
    from tables import write_results

    metrics = ("hits@1", "hits@5", "hits@20", "hits@100", "mrr@10", "ndcg@10")
    random = np.random.default_rng(1)
    rows = {"generation continued": 0.4, "DGR": 0.6, "M 3": 0.5, "M 6": 0.6, "DGR in rounds": 0.6}
    values = {
        row: {
            str(seed): {m: (mean + random.normal(0, 0.05, 20)).round(6).tolist() for m in metrics} for seed in range(3)
        }
        for row, mean in rows.items()
    }
    teacher = {"None": {m: random.random(20).round(6).tolist() for m in metrics}}
    facts = {"teacher": "main", "rounds": 1, "group": "main", "sweep": None, "note": ""}
    of_rows = {row: {"kind": "ranking", **facts} for row in rows} | {"BM25": {"kind": "teacher", **facts}}
    for length in (3, 6):
        of_rows[f"M {length}"]["sweep"] = {"of": "list length M", "value": length}
    machine = {"device": "cpu", "architecture": "x", "threads": 1}
    measured = {"memory": 2e9, "accelerator_memory": 0, "machine": machine, "versions": {"torch": "2"}}
    sizes = {"passages": 24, "train": 24, "dev": 24, "test": 20, "test_with_training_questions": 15}
    stages = {
        "c": {"kind": "corpus", "label": "sample", "result": sizes, "seconds": 1.0, **measured},
        "r": {"kind": "ranking", "label": "sample / tiny", "result": {"steps": 375}, "seconds": 90.0, **measured,
              "config": {"training": {"learning_rate": 0.5}, "collator": {}, "lora": None}},
        "g": {"kind": "generation", "label": "sample / tiny / seed 0", "result": {"parameters": 4_279_040},
              "seconds": 60.0, **measured},
    }  # fmt: skip
    curve = [{"ndcg@10": value} for value in (0.7, 0.8, 0.9)]
    cells = [
        {
            "corpus": "sample",
            "student": "tiny",
            "row": row,
            "seed": seed,
            "evaluations": {"test": "e"},
            "stages": ["c", "r"],
            "metrics": {"dev": {"ndcg@10": 0.9}},
            "rounds": curve if "rounds" in row else [],
        }
        for row in rows
        for seed in range(3)
    ]
    index = {
        "preset": "made-up", "corpora": ["sample"], "students": ["tiny", "other", "no-student"], "main_teacher": {},
        "rows": of_rows,
        "cells": cells, "stages": stages, "test_evaluations": {"sample / tiny / seed 0 / DGR / test": 2},
        "not_run": [{"corpus": "sample", "student": "tiny", "row": "LTRGR", "seed": 0, "split": "test"}],
    }  # fmt: skip
    of_corpus = {
        "query_ids": [f"q{number}" for number in range(20)],
        "with_training_questions": [number < 15 for number in range(20)],
        "values": {"": {"BM25": teacher}, "tiny": values, "other": {"DGR": {"1": values["DGR"]["2"]}}},
    }
    write_results(folder / "made-up", index, {"sample": of_corpus})
    return values | {"BM25": teacher}


def test_a_student_begins_with_random_weights(modules, bpe_tokenizer):
    from students import new_student

    identifiers, scratch = Identifiers(bpe_tokenizer), TINY["students"]["tiny"]["scratch"]
    weights = [new_student(scratch, identifiers, seed).get_input_embeddings().weight for seed in (1, 1, 2)]
    assert weights[0].shape == (identifiers.vocab_size, scratch["d_model"])
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
    with pytest.raises(SystemExit, match="kind 'rnn', but only 'bart' can be made"):
        new_student({"kind": "rnn", "vocabulary": 600}, identifiers, 0)


def means_of(seeds: dict, metric: str) -> float:
    return float(np.mean([seed[metric] for seed in seeds.values()]))


def test_page_from_stored_results(modules, tmp_path):
    pytest.importorskip("matplotlib")
    from figures import figure
    from page import make_page

    values = stored_results(tmp_path)
    text, figures = make_page(tmp_path)

    lines = text.splitlines()
    for row, of in values.items():
        shown = next(line for line in lines if line.startswith(f"| {row} ") and line.count("[") == 6)
        assert all(f"{means_of(of, metric):.3f}" in shown for metric in ("hits@5", "ndcg@10"))
    dgr = next(line for line in lines if line.startswith("| DGR ") and line.count("[") == 6)
    assert dgr.count("* [") == 6  # Against generation continued, on every metric.
    overview = next(line for line in lines if line.startswith("| DGR ") and line.count("|") == 4)
    assert overview.split() == ["|", "DGR", "|", "3", "|", f"{means_of(values['DGR'], 'ndcg@10'):.3f}*", "|"]
    assert "A student of 4.3 million parameters. nDCG@10" in text and text.count("A student of") == 1
    both = next(line for line in lines if line.startswith("| sample | DGR "))  # In the seed that both students have.
    of = [np.mean(values["DGR"][seed][metric]) for metric in ("ndcg@10", "hits@5") for seed in ("1", "2")]
    assert [cell.strip() for cell in both.split("|")[3:-1]] == ["1", *(f"{mean:.3f}" for mean in of)]
    seeds = next(line for line in lines if line.startswith("| DGR ") and "every seed" in line)
    assert "above in every seed" in seeds
    assert all(f"{np.mean(seed['ndcg@10']):.3f}" in seeds for seed in values["DGR"].values())
    claim = next(
        line for line in lines if line.startswith("| DGR by the defaults is better than as many further steps")
    )
    assert "undecided" in claim and "held on sample" in claim  # On one corpus of the three that it needs.
    assert not any("better than LTRGR" in line for line in lines)  # Not run, so there is no verdict,
    assert "- sample / tiny: LTRGR (seeds 0)" in lines  # and the page says so.
    assert "- sample / tiny / seed 0 / DGR / test: 2 times" in lines
    assert "The 15 questions" in text and "The 5 questions" in text
    assert any(line.startswith("| ranking ") and "90" in line for line in lines)
    assert "no-student" not in text  # A student without results is left out.
    assert set(figures) == {
        "made-up-tiny-list-length-m.svg", "made-up-tiny-rounds.svg", "made-up-tiny-rows.svg", "made-up-other-rows.svg"
    }  # fmt: skip
    assert all(f">{row}<" in figures["made-up-tiny-rows.svg"] for row in values)
    lines = {"one": [(0.0, 1.0), (1.0, 2.0)]}
    assert figure(lines, "x", "questions") == figure(lines, "x", "questions")
    assert all(f"results/{name}" in text and svg.rstrip().endswith("</svg>") for name, svg in figures.items())


def test_points_of_a_sweep_have_the_same_seeds(modules):
    from figures import sweeps

    def of(*means: float) -> dict:
        return {str(seed): {"ndcg@10": [mean, mean]} for seed, mean in enumerate(means)}

    points = {"A": 3, "B": 6, "C": 9}
    index = {"rows": {name: {"sweep": {"of": "x", "value": value}} for name, value in points.items()}}
    rows = {"A": of(0.1), "B": of(0.2, 0.9)}  # C was not run, and A with one seed only.
    assert sweeps(index, {"one": rows, "two": {"A": of(0.1)}}) == {"x": {"one": [(3.0, 0.1), (6.0, 0.2)]}}


def test_a_page_needs_results(modules, tmp_path):
    from page import make_page

    with pytest.raises(SystemExit, match="has no results"):
        make_page(tmp_path)


@pytest.mark.slow
def test_the_results_page_is_that_of_the_stored_results(modules):
    pytest.importorskip("matplotlib")
    from page import PAGE, make_page
    from tables import INDEX, RESULTS

    assert list(RESULTS.glob(f"*/{INDEX}"))
    text, figures = make_page()
    assert PAGE.read_text(encoding="utf-8") == text
    assert {path.name for path in PAGE.with_name("results").glob("*.svg")} == set(figures)


@pytest.mark.slow
def test_a_training_that_runs_out_of_time_goes_on(modules, data, preset, tmp_path, monkeypatch):
    from config import load_preset
    from rows import Graph
    from safetensors.torch import load_file
    from stages import WORK
    from store import OutOfTime, Store
    from torch import equal

    cell = next(iter(Graph(load_preset(str(preset)), data).cells(rows=["generation continued"])))
    (stage,) = cell.students()

    def weights(store: Store) -> dict:
        return load_file(store.folder(stage) / "model" / "model.safetensors")

    store = Store(tmp_path / "late", data, WORK)
    for other in stage.inputs.values():
        store.ensure(other)
    whole = Store(tmp_path / "whole", data, WORK)
    shutil.copytree(store.output, whole.output)
    whole.ensure(stage)

    asked = iter([False, False, False, True, True])  # Once before the stage, then after each step.
    monkeypatch.setattr(store, "is_late", lambda: next(asked))
    with pytest.raises(OutOfTime, match="goes on from step 3"):
        store.ensure(stage)
    assert not store.is_done(stage)
    monkeypatch.undo()
    store.ensure(stage)
    assert store.record(stage)["attempts"] == 2 and store.record(stage)["result"]["steps"] == 6
    assert all(equal(tensor, weights(whole)[name]) for name, tensor in weights(store).items())

    store.discard(stage, "model")
    assert store.is_done(stage) and not (store.folder(stage) / "model").exists()
    store.ensure(stage)  # Somebody needs it again.
    assert all(equal(tensor, weights(whole)[name]) for name, tensor in weights(store).items())


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def command(script: str, *options: object) -> list[str]:
    return [sys.executable, str(HERE / script), *map(str, options)]


def done(script: str, *options: object) -> str:
    finished = subprocess.run(
        command(script, *options), capture_output=True, text=True, timeout=240, env=ENVIRONMENT, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(data, preset, tmp_path):
    pytest.importorskip("bm25s")
    what = ["--data", data, "--preset", preset, "--threads", 1, "--rows", "generation continued", "DGR in rounds"]
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    with subprocess.Popen(
        command("run.py", *what, "--output", folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=ENVIRONMENT,
    ) as running:  # fmt: skip
        for line in running.stdout:
            if "ranking sample / tiny / seed 0 / DGR in rounds, round 2 ..." in line:
                running.send_signal(signal.SIGKILL)
                break
    before = {path: path.stat().st_mtime_ns for path in folder.glob("stages/*/stage.json")}
    kinds = {path.parent.name.rsplit("-", 1)[0] for path in before}
    assert {"corpus", "index", "generation", "tuning", "candidates", "ranking", "evaluation", "teacher"} <= kinds

    printed = done("run.py", *what, "--output", folder)
    assert printed.count("ranking sample / tiny / seed 0 / DGR in rounds, round 2 ...") == 1
    assert "generation sample / tiny / seed 0 ..." not in printed and "tokenizer" not in printed
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())  # Nothing was computed twice.

    printed = done("run.py", *what, "--output", whole, "--seeds", 0)
    begun = [line.split("] ")[1] for line in printed.splitlines() if line.endswith(" ...")]
    assert len(begun) == len(set(begun)) == len(list(whole.glob("stages/*/stage.json")))
    assert {path.name for path in folder.glob("stages/*-*")} > {path.name for path in whole.glob("stages/*-*")}
    for path in whole.glob("stages/*/per_query.json.gz"):
        other = folder / path.relative_to(whole)
        assert gzip.decompress(path.read_bytes()) == gzip.decompress(other.read_bytes())

    stored = tmp_path / "results"
    done("tables.py", *what[:4], *what[6:], "--output", folder, "--results", stored)
    page = tmp_path / "docs" / "results.md"
    done("page.py", "--results", stored, "--page", page)
    text = page.read_text(encoding="utf-8")
    assert "Everything of the preset was run." in text and "| DGR in rounds " in text
    assert "results/tiny-tiny-rounds.svg" in text

    def results() -> dict:
        return {path.name: json.loads(gzip.decompress(path.read_bytes())) for path in (stored / "tiny").iterdir()}

    # A run without seed 1 takes nothing away; other settings do.
    before = results()
    done("tables.py", *what[:4], *what[6:], "--output", whole, "--results", stored)
    after = results()
    for index in (before["results.json.gz"], after["results.json.gz"]):
        for record in index["stages"].values():
            for name in ("seconds", "finished", "memory", "attempts"):  # Of one run or of the other.
                del record[name]
    assert after == before
    preset.write_text(preset.read_text().replace("beam_size: 2", "beam_size: 3"))
    printed = done("tables.py", *what[:4], *what[6:], "--output", tmp_path / "nothing", "--results", stored)
    assert "0 results, 8 not run" in printed

    for file in folder.glob("stages/best-round-*/stage.json"):
        result = json.loads(file.read_text())["result"]
        assert result["ndcg@10"][result["round"]] == max(result["ndcg@10"]) and len(result["ndcg@10"]) == 3
        assert (file.parent / "model" / "config.json").exists()


@pytest.mark.slow
def test_students_learn_one_identifier_a_passage(modules, data, preset, tmp_path, bpe_tokenizer):
    for module in ("bm25s", "sentence_transformers", "faiss"):
        pytest.importorskip(module)
    from config import merge
    from page import make_page
    from students import new_student

    save_encoder(tmp_path / "models" / "encoder")
    model = new_student(TINY["students"]["tiny"]["scratch"], Identifiers(bpe_tokenizer), 0)
    model.save_pretrained(tmp_path / "models" / "start")
    bpe_tokenizer.save_pretrained(tmp_path / "models" / "start")
    # Of codes from a checkpoint, of titles from random weights.
    changes = merge(CODES, {"corpora": {"other": None}, "students": {"tiny": None, "coded": {"checkpoint": "start"}}})
    del changes["students"]["coded"]["scratch"]
    preset.write_text(yaml.safe_dump(merge(TINY, changes), sort_keys=False))
    rows = CODES["students"]["coded"]["rows"]
    what = ["--data", data, "--models", tmp_path / "models", "--preset", preset, "--output", tmp_path / "run"]
    done("run.py", *what, "--threads", 1, "--seeds", 0, "--rows", *rows)

    records = [json.loads(path.read_text()) for path in (tmp_path / "run").glob("stages/*/stage.json")]
    codes = next(record["result"] for record in records if record["kind"] == "semantic-ids")
    assert 1 <= codes["mean_length"] <= codes["longest"] and codes["tokens"] == 12  # Two levels, and numbers.
    folders = {record["label"]: record["kind"] + "-" + record["digest"] for record in records}
    for student in ("coded", "titled"):
        runs = {}
        for row in rows:
            file = tmp_path / "run" / "stages" / folders[f"sample / {student} / seed 0 / {row} / dev"] / "run.trec.gz"
            runs[row] = gzip.decompress(file.read_bytes()).decode()
            assert len({line.split()[0] for line in runs[row].splitlines()}) == 24  # Something for each dev question.
        assert runs["DGR"] != runs["DGR with prefix ranking"]
    done("tables.py", *what, "--results", tmp_path / "results", "--seeds", 0, "--rows", *rows)
    text, _ = make_page(tmp_path / "results")
    assert "which generates [semantic ids](semantic-ids.md) (`kind: hierarchical`, `levels: 2`, `size: 4`)" in text
    assert "which generates titles and nothing else" in text
    assert "| DGR with prefix ranking" in text and "ranking loss at every prefix is better than" in text
