import pytest

from dgr_trainer.atomic import atomic_folder, atomic_write


def test_a_file_is_written_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with atomic_write(path) as file:
        file.write("é\n")
    assert path.read_bytes() == "é\n".encode()
    with atomic_write(path, "wb") as file:
        file.write(b"\x00")
    assert path.read_bytes() == b"\x00"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_a_file_stays_as_it_was_when_writing_fails(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), atomic_write(path) as file:
        file.write("new")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_a_file_cannot_replace_a_folder_or_be_appended_to(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"), atomic_write(tmp_path):
        pass
    with pytest.raises(ValueError, match="mode is 'a'"), atomic_write(tmp_path / "x", "a"):
        pass


def _fill(path, content):
    with atomic_folder(path, marker="marker.json") as folder:
        (folder / "marker.json").write_text("{}")
        (folder / content).write_text(content)


def test_a_folder_is_written_and_replaced(tmp_path):
    path = tmp_path / "deep" / "folder"
    _fill(path, "one")
    assert sorted(p.name for p in path.iterdir()) == ["marker.json", "one"]
    _fill(path, "two")
    assert sorted(p.name for p in path.iterdir()) == ["marker.json", "two"]
    assert [p.name for p in path.parent.iterdir()] == ["folder"]


def test_a_folder_of_the_user_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other files"):
        _fill(tmp_path, "one")
    with pytest.raises(FileExistsError, match="is a file"):
        _fill(tmp_path / "thesis.tex", "one")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_folder_stays_as_it_was_when_writing_fails(tmp_path):
    path = tmp_path / "folder"
    _fill(path, "one")
    with pytest.raises(RuntimeError, match="half way"), atomic_folder(path, marker="marker.json") as folder:
        (folder / "marker.json").write_text("{}")
        raise RuntimeError("half way")
    with pytest.raises(FileNotFoundError, match="marker.json was not written"):
        with atomic_folder(path, marker="marker.json"):
            pass
    assert sorted(p.name for p in path.iterdir()) == ["marker.json", "one"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
