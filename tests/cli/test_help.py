"""What `--help` tells, and that it tells the truth."""

import importlib
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields

import pytest

from dgr_trainer import (
    BiEncoderTeacher,
    BM25Teacher,
    CausalLMTeacher,
    CrossEncoderTeacher,
    DistillationCollator,
    PyseriniTeacher,
    Seq2SeqTeacher,
    __version__,
)
from dgr_trainer.cli.evaluate import EvaluateOptions
from dgr_trainer.cli.main import COMMANDS
from dgr_trainer.cli.quickstart import QuickstartOptions
from dgr_trainer.cli.settings import IdentifierOptions, PairOptions, ScoringOptions, SearchOptions
from dgr_trainer.cli.teachers import TeacherOptions
from dgr_trainer.cli.train_options import EvaluationOptions, TrainOptions
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import IdentifierSettings
from dgr_trainer.quickstart.pipeline import QuickstartSettings
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.pairs import generation_pairs

# An interpreter that runs `dgr` and tells which modules it has imported.
_WATCHED = """
import json, sys
from dgr_trainer.cli.main import main
code = main(sys.argv[1:])
sys.stderr.write(json.dumps([code, sorted({name.split(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(dgr, command):
    parser = importlib.import_module(f"dgr_trainer.cli.{command}").make_parser()
    shown = dgr(command, "--help")
    assert shown.code == 0
    for action in parser._actions:
        assert action.help and action.help.strip(), action.dest
        name = action.option_strings[0] if action.option_strings else action.metavar
        assert re.search(rf"^  .*{re.escape(name)}\b", shown.out, re.MULTILINE), name
    assert "example:" in shown.out
    assert shown.out.startswith(f"usage: dgr {command} ")


def test_all_training_arguments_are_options(dgr):
    shown = dgr("train", "--help").out
    for one in fields(DistillationTrainingArguments):
        if one.init:
            assert f"--{one.name}" in shown
    # What is this command's own comes first.
    assert shown.index("--stage ") < shown.index("--lora_r ") < shown.index("--learning_rate ")


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ()])
def test_general_help_is_light(arguments):
    done = subprocess.run([sys.executable, "-c", _WATCHED, *arguments], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert not {"torch", "transformers", "datasets", "numpy", "numba"} & set(modules)
    assert code == (0 if arguments else 2)
    if arguments == ("--version",):
        assert done.stdout == f"dgr-trainer {__version__}\n"
    else:
        for command in COMMANDS:
            assert re.search(rf"^    {command}\s", done.stdout + done.stderr, re.MULTILINE)


def test_help_fits_a_terminal(dgr, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for command in COMMANDS:
        if command != "train":  # Its choices of optimizers are one long word.
            assert max(map(len, dgr(command, "--help").out.splitlines())) <= 80, command


# The options are the library's settings, and keep its defaults.


def test_options_are_the_settings_of_the_library():
    def names(options):
        return {one.name for one in fields(options)}

    assert names(SearchOptions) == names(SearchSettings)
    assert {name.removeprefix("scoring_") for name in names(ScoringOptions)} == names(ScoringSettings) - {"kind"}
    plain = {name for name in names(IdentifierOptions) if not name.endswith("_prompt")}
    assert plain == names(IdentifierSettings) - {"prompts"}
    assert {name for name in names(IdentifierOptions) if name.endswith("_prompt")} == {
        f"{view}_prompt" for view in IdentifierSettings().prompts
    }
    assert names(QuickstartOptions) - {"output"} == names(QuickstartSettings)
    pairs = inspect.signature(generation_pairs).parameters
    assert set(PairOptions().arguments()) | {"seed", "progress"} == {
        name for name, parameter in pairs.items() if parameter.kind is parameter.KEYWORD_ONLY
    }


def test_defaults_are_those_of_the_library():
    pairs = inspect.signature(generation_pairs).parameters
    assert PairOptions().arguments() == {name: pairs[name].default for name in PairOptions().arguments()}
    quickstart = QuickstartOptions()
    for one in fields(QuickstartSettings):
        assert getattr(quickstart, one.name) == one.default
    assert tuple(EvaluateOptions(qrels="").metrics) == tuple(EvaluationOptions().eval_metrics) == DEFAULT_METRICS


def _stated(option):
    return re.search(r"\(default: (.*)\)$", option.metadata["help"])


def test_stated_defaults_are_true():
    teachers = {
        "bm25": BM25Teacher,
        "pyserini": PyseriniTeacher,
        "cross-encoder": CrossEncoderTeacher,
        "seq2seq": Seq2SeqTeacher,
        "causal-lm": CausalLMTeacher,
        "bi-encoder": BiEncoderTeacher,
    }
    checked = 0
    for one in fields(TeacherOptions):
        stated = _stated(one)
        for teacher in one.metadata["help"].split(":")[0].split(", ") if stated else ():
            default = inspect.signature(teachers[teacher]).parameters[one.name].default
            if default is not None:
                plain = " ".join(default) if isinstance(default, tuple) else str(default)
                assert stated[1].strip("'") == plain, one.name
                checked += 1
    assert checked >= 12
    collator = inspect.signature(DistillationCollator).parameters
    for one in fields(TrainOptions):
        if one.name in collator and _stated(one):
            assert _stated(one)[1] == str(collator[one.name].default)
            checked += 1
    settings = IdentifierSettings()
    for one in fields(IdentifierOptions):
        if one.name.endswith("_prompt"):
            assert _stated(one)[1] == repr(settings.prompts[one.name.removesuffix("_prompt")])
        elif one.name != "views":
            assert _stated(one)[1] == str(getattr(settings, one.name))
    for one in fields(ScoringOptions):
        stated = float(re.search(r"\((.*)\)$", one.metadata["help"])[1])
        assert stated == getattr(ScoringSettings(), one.name.removeprefix("scoring_"))
    assert checked >= 15
