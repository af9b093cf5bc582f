import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from dgr_trainer.files import atomic
from dgr_trainer.files.atomic import atomic_folder, atomic_write, read_folder, restore_folder


@pytest.fixture(params=["exchanged", "set aside"])
def way(request, monkeypatch):
    """Both ways to replace a folder: in one step, and where the file system has none."""
    if request.param == "set aside":
        monkeypatch.setattr(atomic, "_renameat2", None)
    elif atomic._renameat2 is None:
        pytest.skip("This system has no renameat2.")
    return request.param


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


def test_a_folder_is_written_and_replaced(tmp_path, way):
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


def test_a_link_leads_to_the_folder_that_is_replaced(tmp_path, way):
    _fill(tmp_path / "folder", "one")
    (tmp_path / "link").symlink_to("folder")
    _fill(tmp_path / "link", "two")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "folder" / "two").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link"]


@pytest.mark.parametrize("name", [".", "inner/.."])
def test_the_current_folder(tmp_path, way, monkeypatch, name):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "marker.json").touch()
    monkeypatch.chdir(tmp_path / "folder")
    _fill(name, "one")
    # The process is in the new folder, not in the one that is deleted.
    assert os.getcwd() == str(tmp_path / "folder") and sorted(os.listdir()) == ["marker.json", "one"]
    restore_folder(".")
    assert read_folder(".", lambda folder: sorted(os.listdir(folder))) == ["marker.json", "one"]
    _fill(".", "two")
    assert sorted(os.listdir()) == ["marker.json", "two"] and os.listdir(tmp_path) == ["folder"]


def test_a_file_system_that_cannot_exchange(tmp_path, monkeypatch):
    def fails(*arguments, number=errno.EINVAL):
        atomic.ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(atomic, "_renameat2", fails)
    _fill(tmp_path / "folder", "one")
    _fill(tmp_path / "folder", "two")
    assert (tmp_path / "folder" / "two").is_file()
    monkeypatch.setattr(atomic, "_renameat2", lambda *arguments: fails(number=errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        _fill(tmp_path / "folder", "three")
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["marker.json", "two"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_was_set_aside_is_put_back(tmp_path, caplog):
    path = tmp_path / "folder"
    _fill(path, "one")
    os.rename(path, tmp_path / ".folder.replaced")
    assert read_folder(path, lambda folder: sorted(os.listdir(folder))) == ["marker.json", "one"]
    assert "was put back" in caplog.text and [p.name for p in tmp_path.iterdir()] == ["folder"]
    os.rename(path, tmp_path / ".folder.replaced")
    _fill(path, "two")  # Who writes next puts it back, too.
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_was_set_aside_and_cannot_be_put_back_is_named(tmp_path, monkeypatch):
    _fill(tmp_path / ".folder.replaced", "one")

    def refuse(*paths):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(
        FileNotFoundError,
        match="stopped while it replaced the folder.*in .*folder.replaced.*Permission denied.*Rename it",
    ):
        restore_folder(tmp_path / "folder")


def test_what_was_set_aside_by_a_killed_writer_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_renameat2", None)
    _fill(tmp_path / "folder", "one")
    _fill(tmp_path / ".folder.replaced", "older")
    _fill(tmp_path / "folder", "two")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"] and (tmp_path / "folder" / "two").is_file()


def test_what_killed_writers_left_is_deleted_and_what_others_write_is_not(tmp_path):
    left, other = tmp_path / ".folder.0123456789ab.tmp", tmp_path / ".folder.old.0123456789ab.tmp"
    left.mkdir()
    other.mkdir()
    with atomic_folder(tmp_path / "folder", marker="marker.json") as first:
        assert not left.exists()
        _fill(tmp_path / "folder", "second")
        (first / "marker.json").write_text("{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [other.name, "folder"]
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["marker.json"]


def test_what_a_killed_writer_of_a_file_left_is_deleted_and_what_others_write_is_not(tmp_path):
    path = tmp_path / "b.txt"
    block = f"with atomic_write({str(path)!r}): print(flush=True); input()"
    code = f"from dgr_trainer.files.atomic import atomic_write\n{block}"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        with atomic_write(path) as file:
            file.write("ours")
        [theirs] = [p for p in tmp_path.iterdir() if p != path]
        writer.kill()
    (tmp_path / ".b.txt.old.0123456789ab.tmp").touch()
    assert theirs.exists()
    with atomic_write(path) as file:
        file.write("ours again")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.txt.old.0123456789ab.tmp", "b.txt"]
    assert path.read_text() == "ours again"


def test_a_folder_that_may_be_written_but_not_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    with atomic_write(tmp_path / "b.txt") as file:
        file.write("new")
    assert (tmp_path / "b.txt").read_text() == "new"


def test_the_root_of_a_folder_can_be_filled_by_what_writes_such_folders(tmp_path):
    with atomic_folder(tmp_path / "folder", marker="marker.json") as folder:
        _fill(folder, "one")
        _fill(tmp_path / "folder", "two")  # Another writer, which leaves what is being written alone.
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["marker.json", "one"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_folder_replaced_while_it_is_read_is_read_again(tmp_path, way):
    path = tmp_path / "folder"
    _fill(path, "0")
    seen = []

    def read(folder):
        seen.append((folder / str(len(seen))).read_text())
        if len(seen) < 3:
            _fill(path, str(len(seen)))
            if len(seen) == 1:
                raise ValueError("a file of the old folder is missing")
        return seen[-1]

    assert read_folder(path, read) == "2" and seen == ["0", "1", "2"]
    with pytest.raises(FileNotFoundError):
        read_folder(path, lambda folder: (folder / "nowhere").read_text())


def test_a_reader_who_looked_twice_between_two_folders_looks_again(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    seen = iter([None, None])  # Away both times, though there always was one.
    _fill(path, "content")
    identity = atomic._identity
    monkeypatch.setattr(atomic, "_identity", lambda folder: next(seen, identity(folder)))
    calls = []

    def read(folder):
        calls.append(folder)
        return (folder / ("nowhere" if len(calls) == 1 else "content")).read_text()

    assert read_folder(path, read) == "content" and len(calls) == 2


def _replaced_again_and_again(path, stop):
    number = 0
    while not stop.is_set():
        number += 1
        with atomic_folder(path, marker="marker.json") as folder:
            for name in ("marker.json", "content"):
                (folder / name).write_text(str(number))


def test_readers_beside_a_writer_find_a_folder_always(tmp_path, way):
    path, stop = tmp_path / "folder", threading.Event()
    _fill(path, "content")
    writer = threading.Thread(target=_replaced_again_and_again, args=(path, stop))
    writer.start()
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            if way == "exchanged":
                assert path.is_dir()
            files = read_folder(path, lambda folder: {f: (folder / f).read_text() for f in ("marker.json", "content")})
            assert len(set(files.values())) == 1 or files["content"] == "content"
    finally:
        stop.set()
        writer.join()


WRITER = """
import sys
from dgr_trainer.files import atomic
if sys.argv[2] == "set aside":
    atomic._renameat2 = None
number = int(sys.argv[3])
while True:
    number += 1
    with atomic.atomic_folder(sys.argv[1], marker="marker.json") as folder:
        for name in ("marker.json", *map(str, range(20))):
            (folder / name).write_text(str(number))
    print(number, flush=True)
"""


def _check_kills(tmp_path, way, kills):
    path, number = tmp_path / "folder", 0
    chance = random.Random(1)
    for _ in range(kills):
        command = [sys.executable, "-c", WRITER, str(path), way, str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            written = int(process.stdout.readline())
            time.sleep(chance.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            written = max([written, *map(int, process.stdout.read().split())])
        if way == "exchanged":
            assert path.is_dir()
        files = read_folder(path, lambda folder: {file.name: file.read_text() for file in folder.iterdir()})
        assert len(files) == 21 and len(set(files.values())) == 1
        number = int(files["marker.json"])
        assert number in (written, written + 1)
    _fill(path, "last")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_killed_writer_leaves_the_old_folder_or_the_new(tmp_path, way):
    _check_kills(tmp_path, way, 5)


@pytest.mark.slow
def test_many_killed_writers_leave_the_old_folder_or_the_new(tmp_path, way):
    _check_kills(tmp_path, way, 60)
