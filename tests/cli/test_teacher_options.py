"""The options of `dgr rank` are the settings of the teachers."""

import inspect
from dataclasses import MISSING, dataclass, field, fields

import pytest

from dgr_trainer.cli import teachers
from dgr_trainer.cli.teachers import (
    TEACHERS,
    TeacherChoice,
    TeacherOptions,
    given_options,
    make_teacher,
    teacher_settings,
)
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.teachers.lucene.pyserini import RM3
from dgr_trainer.teachers.prompts import PROMPTS

HELP = {option.name: option.metadata["help"] for option in fields(TeacherOptions)}


@pytest.mark.parametrize("name", TEACHERS)
def test_options_have_the_names_and_defaults_of_the_constructor(name):
    parameters = inspect.signature(TEACHERS[name].teacher).parameters
    for option, setting in teacher_settings(name).items():
        assert parameters[setting.name].default == (
            inspect.Parameter.empty if setting.default is MISSING else setting.default
        )
        assert setting.name == option or option in ("model", "lucene_index")
        assert name in HELP[option]
        if setting.default not in (MISSING, None, False, ""):
            default = setting.default
            shown = " ".join(default) if isinstance(default, tuple) else str(default)
            assert f"(default: {shown})" in HELP[option] or f"of {name}: {shown}" in HELP[option]
        # A default is stated once, by the class: the option itself has none.
        assert getattr(TeacherOptions(), option) in (None, False)
    assert set(parameters) - {setting.name for setting in teacher_settings(name).values()} <= {
        "corpus", "jar", "model_kwargs", "progress", "queries_per_run", "results_on", "stop_words"
    }  # fmt: skip


def test_options_that_are_not_given_are_left_to_the_class():
    assert given_options(TeacherOptions(), "bm25") == {}
    options = TeacherOptions(k1=0.0, fields=["text"], rm3=True)
    assert given_options(options, "pyserini") == {"k1": 0.0, "fields": ["text"], "rm3": True}


def test_options_of_other_teachers_are_refused():
    with pytest.raises(ValueError, match="--k1 is an option of bm25 and pyserini, not of bi-encoder. Leave it out."):
        given_options(TeacherOptions(k1=0.5, model="m"), "bi-encoder")
    with pytest.raises(ValueError, match="--teacher seq2seq needs --model. The model: a folder or a name on the hub."):
        given_options(TeacherOptions(), "seq2seq")


def test_values_become_those_of_the_constructor(monkeypatch):
    made = {}

    @dataclass
    class Recording:
        corpus: Corpus | None = None
        index_dir: str | None = field(default=None, metadata={"help": "x", "option": "lucene_index"})
        rm3: RM3 | None = teacher_settings("pyserini")["rm3"]
        field_weights: dict[str, float] | None = teacher_settings("pyserini")["field_weights"]
        stemmer: str | None = teacher_settings("bm25")["stemmer"]

        def __post_init__(self):
            made.update(vars(self))

    monkeypatch.setitem(TEACHERS, "recording", teachers.TeacherChoice(Recording, "x"))
    given = {"lucene_index": "i", "rm3": True, "field_weights": ["title=2", "text=0.5"], "stemmer": "none"}
    make_teacher("recording", None, given)
    weights = {"title": 2.0, "text": 0.5}
    assert made == {"corpus": None, "index_dir": "i", "rm3": RM3(), "field_weights": weights, "stemmer": None}
    with pytest.raises(ValueError, match="'title' is not the weight of a field. Give FIELD=WEIGHT"):
        make_teacher("recording", None, {"field_weights": ["title"]})


def test_a_new_teacher_is_one_line(monkeypatch):
    """The recipe: a dataclass with `rank`, and its line in TEACHERS."""

    @dataclass
    class LengthTeacher:
        needs_candidates = False
        shares_work = False

        corpus: Corpus
        k1: float = field(default=0.25, metadata={"help": "Weight of the length."})
        longest_first: bool = field(default=False, metadata={"help": "Rank long passages first."})

    monkeypatch.setitem(TEACHERS, "length", teachers.TeacherChoice(LengthTeacher, "the length of a passage"))
    options = {option.name: option for option in fields(teachers._make_options())}
    assert options["longest_first"].type is bool
    assert options["longest_first"].metadata["help"] == "length: Rank long passages first."
    assert options["k1"].metadata["help"] == (
        "bm25, pyserini: How slowly a repeated term saturates. length: Weight of the length. "
        "(default of bm25: 0.9, of pyserini: 0.9, of length: 0.25)"
    )
    assert make_teacher("length", "corpus", {"longest_first": True}) == LengthTeacher("corpus", 0.25, True)


def test_choices_are_those_of_the_library():
    options = {option.name: option for option in fields(TeacherOptions)}
    assert options["prompt"].metadata["choices"] == tuple(PROMPTS)


@dataclass
class SharingTeacher:
    """A teacher whose work several processes share."""

    corpus: object = None
    results_on: str = "all"


@dataclass
class SingleTeacher:
    """A teacher that works in one process."""

    corpus: object = None


def test_only_the_process_that_writes_the_run_gets_the_rankings(monkeypatch):
    for teacher in (SharingTeacher, SingleTeacher):
        monkeypatch.setitem(TEACHERS, "own", TeacherChoice(teacher, "one of the tests"))
        made = make_teacher("own", None, {})
        assert isinstance(made, teacher) and getattr(made, "results_on", "main") == "main"
