"""What `--help` tells, and that it tells the truth."""

import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest
from sample_corpus import PASSAGES
from tiny_models import bpe_tokenizer, make_bart

from dgr_trainer import (
    BiEncoderTeacher,
    BM25Teacher,
    CausalLMTeacher,
    Corpus,
    CrossEncoderTeacher,
    DistillationCollator,
    PyseriniTeacher,
    Seq2SeqTeacher,
    __version__,
    distil_in_rounds,
)
from dgr_trainer.cli import search, train
from dgr_trainer.cli.evaluate import EvaluateOptions
from dgr_trainer.cli.fuse import FuseOptions
from dgr_trainer.cli.inspect import InspectOptions
from dgr_trainer.cli.main import COMMANDS
from dgr_trainer.cli.pairs import PairOptions
from dgr_trainer.cli.pseudo_queries import GenerationOptions
from dgr_trainer.cli.quickstart import QuickstartOptions
from dgr_trainer.cli.round_options import RoundOptions, RoundSearchOptions
from dgr_trainer.cli.settings import IdentifierOptions, SearchOptions
from dgr_trainer.cli.teachers import TeacherOptions
from dgr_trainer.cli.train_options import CollatorOptions, EvaluationOptions, ScoringOptions
from dgr_trainer.evaluation.comparison import compare_runs
from dgr_trainer.evaluation.evaluator import RetrievalEvaluator
from dgr_trainer.evaluation.metrics import DEFAULT_METRICS
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import VIEWS, Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.query_generation import PseudoQueryGenerator
from dgr_trainer.quickstart.pipeline import QuickstartSettings
from dgr_trainer.retrieval.retriever import GenerativeRetriever
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.runs.fusion import reciprocal_rank_fusion
from dgr_trainer.student.dtypes import DTYPES
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.losses import RANKING_LOSSES
from dgr_trainer.training.pairs import generation_pairs
from dgr_trainer.training.sampling import SAMPLINGS

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
        assert max(map(len, dgr(command, "--help").out.splitlines())) <= 80, command
    assert max(map(len, dgr("--help").out.splitlines())) <= 80


# The options are the library's settings, and keep its defaults.


def arguments_of(*options):
    return {argument for one in options for argument in one.arguments.values()}


def keywords_of(function):
    parameters = inspect.signature(function).parameters
    return {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


def test_options_are_the_settings_of_the_library():
    def names(settings):
        return {one.name for one in fields(settings)}

    assert arguments_of(SearchOptions) == names(SearchSettings)
    assert arguments_of(ScoringOptions) == names(ScoringSettings) - {"kind"}
    assert arguments_of(IdentifierOptions) == names(IdentifierSettings) - {"prompts"} | set(VIEWS)
    assert names(QuickstartOptions) - {"output"} == names(QuickstartSettings)
    assert arguments_of(PairOptions) == keywords_of(generation_pairs) - {"seed", "progress", "index"}
    assert arguments_of(GenerationOptions) == keywords_of(PseudoQueryGenerator) - {"device", "dtype"}
    others = {"relevant_first", "generation_targets", "scoring", "seed"}
    assert arguments_of(CollatorOptions) == keywords_of(DistillationCollator) - others
    assert arguments_of(EvaluationOptions) == keywords_of(RetrievalEvaluator) - {"settings", "scoring", "seed"} | {
        "beam_size"
    }


def _defaults(function):
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def _settings(settings):
    return {one.name: one.default for one in fields(settings)}


DERIVED = [
    ("search", SearchOptions, _settings(SearchSettings)),
    ("train", ScoringOptions, _settings(ScoringSettings)),
    ("index", IdentifierOptions, _settings(IdentifierSettings) | IdentifierSettings().prompts),
    ("pairs", PairOptions, _defaults(generation_pairs)),
    ("train", CollatorOptions, _defaults(DistillationCollator)),
    ("train", EvaluationOptions, _defaults(RetrievalEvaluator) | {"beam_size": None}),
    ("pseudo_queries", GenerationOptions, _defaults(PseudoQueryGenerator)),
    ("train", RoundOptions, _defaults(distil_in_rounds)),
    ("train", RoundSearchOptions, _settings(SearchSettings)),
]


@pytest.mark.parametrize(("command", "options", "defaults"), DERIVED, ids=lambda one: getattr(one, "__name__", ""))
def test_stated_defaults_typed_as_they_stand_are_those_of_the_library(command, options, defaults):
    actions = {
        action.dest: action for action in importlib.import_module(f"dgr_trainer.cli.{command}").make_parser()._actions
    }
    for name, argument in options.arguments.items():
        action, default = actions[name], defaults[argument]
        if name in options.flags:
            assert action.default is False is default and action.nargs == "?" and action.const is True, name
            continue
        assert action.default is None, name
        if default is None:
            assert "(default:" not in action.help, name
            continue
        stated = re.search(r"\(default: (?:as saved, initially )?(.*)\)$", action.help)[1]
        values = [action.type(word) for word in shlex.split(stated)]
        assert (tuple(values) if action.nargs == "+" else values[0]) == default, name
        assert action.nargs == "+" or len(values) == 1, name


def test_choices_are_those_of_the_library():
    actions = {action.dest: action for action in train.make_parser()._actions}
    assert tuple(actions["sampling"].choices) == SAMPLINGS
    assert tuple(actions["views"].choices) == VIEWS
    assert tuple(actions["ranking_loss"].choices) == tuple(RANKING_LOSSES)
    dtype = next(action for action in search.make_parser()._actions if action.dest == "dtype")
    assert tuple(dtype.choices) == DTYPES and dtype.default == DTYPES[0]


def test_what_is_not_given_keeps_the_default_of_the_library():
    for _, options, _ in DERIVED:
        assert options().given() == {}
    given = IdentifierOptions(views=["title"], title_prompt="{query} |").given()
    assert given == {"views": ("title",), "prompts": {"title": "{query} |"}}
    assert PairOptions(substring_temperature=2.0).given() == {"temperature": 2.0}
    assert EvaluationOptions(eval_queries="q", eval_k=7).given() == {"k": 7}


def test_defaults_are_those_of_the_library():
    quickstart = QuickstartOptions()
    for one in fields(QuickstartSettings):
        assert getattr(quickstart, one.name) == one.default
    assert tuple(EvaluateOptions(qrels="").metrics) == tuple(InspectOptions().metrics) == DEFAULT_METRICS
    assert EvaluateOptions().level == _defaults(compare_runs)["level"]
    assert FuseOptions(output="").constant == _defaults(reciprocal_rank_fusion)["constant"]


def _stated(option):
    return re.search(r"\(default: (.*)\)$", option.metadata["help"])


def test_stated_defaults_of_teachers_are_true():
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


@pytest.mark.slow
def test_a_search_imports_no_library_that_only_other_commands_need(tmp_path):
    tokenizer = bpe_tokenizer()
    corpus, identifiers = Corpus.from_passages(PASSAGES), Identifiers(tokenizer)
    index = FMIndex.from_corpus(corpus, identifiers, progress=False)
    GenerativeRetriever(make_bart(tokenizer), identifiers, index, corpus=corpus).save_pretrained(
        tmp_path / "retriever"
    )
    command = [sys.executable, "-c", _WATCHED, "search", str(tmp_path / "retriever"), "a river"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0 and "  1. " in done.stdout
    others = {"datasets", "fsspec", "pandas", "sklearn", "sentence_transformers", "peft", "faiss", "matplotlib"}
    assert not others & set(modules)
