"""Bars keep moving and say what is being done."""

import ast
import io
import threading
import time
from pathlib import Path

import pytest
from tqdm import tqdm

import dgr_trainer
from dgr_trainer.files import progress
from dgr_trainer.files.progress import elapsed_time, kept_moving


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS", 0.02)


def test_a_bar_is_redrawn_while_a_step_takes_long():
    drawn = io.StringIO()
    with tqdm(total=3, desc="Working", unit=" things", file=drawn, mininterval=0) as bar:
        bar.update()
        with kept_moving(bar, "thinking"):
            before = drawn.getvalue().count("Working")
            time.sleep(0.3)
            during = drawn.getvalue()
            assert during.count("Working") >= before + 3 and "thinking" in during
            bar.set_postfix_str("writing", refresh=False)
            time.sleep(0.1)
            assert "writing" in drawn.getvalue()
        after = len(drawn.getvalue())
        time.sleep(0.1)
        assert len(drawn.getvalue()) == after
        assert bar.n == 1 and not bar.postfix
    assert not [thread for thread in threading.enumerate() if thread.name == "progress bar"]


def test_a_failing_step_ends_the_redrawing():
    with tqdm(total=3, file=io.StringIO()) as bar, pytest.raises(RuntimeError), kept_moving(bar):
        raise RuntimeError
    assert not [thread for thread in threading.enumerate() if thread.name == "progress bar"]


def test_a_hidden_bar_needs_no_thread():
    with tqdm(total=3, disable=True) as bar, kept_moving(bar, "thinking"):
        assert not [thread for thread in threading.enumerate() if thread.name == "progress bar"]


def test_elapsed_time_is_shown_of_long_steps_only(capsys, monkeypatch):
    monkeypatch.setattr(progress, "tqdm", lambda **settings: tqdm(**{**settings, "delay": 0.1}))
    with elapsed_time("Sorting"):
        time.sleep(0.4)
    assert "Sorting: 00:00" in capsys.readouterr().err
    with elapsed_time("Sorting"):
        pass
    with elapsed_time("Sorting", shown=False):
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


def _bars():
    root = Path(dgr_trainer.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tqdm":
                yield pytest.param(node, id=f"{path.relative_to(root)}:{node.lineno}")


@pytest.mark.parametrize("call", list(_bars()))
def test_every_bar_says_what_is_done_and_what_it_counts(call):
    arguments = {keyword.arg: keyword.value for keyword in call.keywords}
    if arguments.keys() == {"disable"}:
        return  # A bar that is never shown.
    assert "desc" in arguments and ("unit" in arguments or "bar_format" in arguments)
    text = arguments["desc"]
    first = text.values[0] if isinstance(text, ast.JoinedStr) else text
    if isinstance(first, ast.Constant):  # Others are given by their callers.
        assert first.value.split()[0].endswith("ing"), first.value
