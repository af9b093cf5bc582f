import pytest

from dgr_trainer.teachers.score_log import ScoreLog


def write(path, settings, *rows):
    with ScoreLog(path, settings) as log:
        for row in rows:
            log.add(*row)


def test_scores_are_found_again(tmp_path):
    path = tmp_path / "new" / "scores.jsonl"
    write(path, {"dtype": "float32"}, ("q1", "who?", {"p1": 0.1, "p2": -1e-30}))
    write(path, {"dtype": "float32"}, ("q2", "ü\n", {"p1": 2.0}))
    with ScoreLog(path, {"dtype": "float32"}) as log:
        assert log.scores("q1", "who?") == {"p1": 0.1, "p2": -1e-30}
        assert log.scores("q2", "ü\n") == {"p1": 2.0}
        assert log.scores("q1", "what?") == log.scores("q3", "who?") == {}
        log.add("q1", "who?", {"p9": 1.0})
        assert log.scores("q1", "who?") == {"p9": 1.0}


@pytest.mark.parametrize("lost", [1, 10, 60])
def test_a_line_that_was_cut_short_is_dropped(tmp_path, lost):
    path = tmp_path / "scores.jsonl"
    write(path, {"a": 1}, ("q1", "one", {"p": 1.0}), ("q2", "two", {"p": 2.0}))
    path.write_bytes(path.read_bytes()[:-lost])
    write(path, {"a": 1}, ("q3", "three", {"p": 3.0}))
    with ScoreLog(path, {"a": 1}) as log:
        assert log.scores("q2", "two") == {}
        assert log.scores("q3", "three") == {"p": 3.0}
        assert log.scores("q1", "one") == ({"p": 1.0} if lost < 60 else {})


@pytest.mark.parametrize("whole", [b"", b'{"sett', b'{"settings": {"a"'])
def test_a_first_line_that_was_cut_short_is_written_again(tmp_path, whole):
    path = tmp_path / "scores.jsonl"
    path.write_bytes(whole)
    write(path, {"a": 1})
    assert path.read_text() == '{"settings": {"a": 1}}\n'


def test_other_settings_are_refused(tmp_path):
    path = tmp_path / "scores.jsonl"
    write(path, {"dtype": "float32", "max_length": 512})
    with pytest.raises(ValueError, match="made with dtype='float32', but now it is 'bfloat16'"):
        ScoreLog(path, {"dtype": "bfloat16", "max_length": 512})


@pytest.mark.parametrize(
    "text", ["something else", "something\nelse\n", "[1]\n", '{"a": 1}\n', '{"settings": {"a": 1}}\n{}\n']
)
def test_another_file_is_refused_and_kept(tmp_path, text):
    path = tmp_path / "letter.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a file of a teacher's finished scores"):
        ScoreLog(path, {"a": 1})
    assert path.read_text() == text
