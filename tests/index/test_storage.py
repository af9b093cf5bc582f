import errno
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from launched_processes import exit_codes, launch

from dgr_trainer.files.job_lock import JobLock
from dgr_trainer.index import FMIndex, array_folders
from dgr_trainer.index.index_arrays import IndexArrays

SEQUENCES = [[5, 6, 7], [5, 6], [], [7, 5, 6, 7]]


def build(sequences=SEQUENCES, **options) -> FMIndex:
    ids = [f"p{number}" for number in range(len(sequences))]
    return FMIndex.build(sequences, passage_ids=ids, vocab_size=9, separator=2, progress=False, **options)


@pytest.fixture
def folder(tmp_path):
    build(tokenizer_fingerprint="tokenizer-one", corpus_fingerprint="corpus").save(tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("verify", [False, True])
def test_round_trip(folder, verify):
    index, loaded = build(), FMIndex.load(folder, verify=verify)
    assert (loaded.num_tokens, loaded.num_passages, loaded.vocab_size, loaded.separator) == (13, 4, 9, 2)
    assert (loaded.tokenizer_fingerprint, loaded.corpus_fingerprint) == ("tokenizer-one", "corpus")
    assert list(loaded.passage_ids) == list(index.passage_ids)
    for pattern in ([5, 6], [2, 5], [7, 2], [2], []):
        found = loaded.find(pattern)
        np.testing.assert_array_equal(found, index.find(pattern))
        for ours, theirs in zip(loaded.continuations(found), index.continuations(found), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(loaded.locate(loaded.whole, 1), index.locate(index.whole, 1))
    assert [loaded.extract(passage).tolist() for passage in range(4)] == SEQUENCES


def test_loading_maps_files_and_reads_no_objects(folder, monkeypatch):
    options = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda *a, **kwargs: (options.append(kwargs), load(*a, **kwargs))[1])
    FMIndex.load(folder)
    assert options and all(option == {"mmap_mode": "r", "allow_pickle": False} for option in options)


@pytest.mark.parametrize("sequences", [[[]], [[], []], [[1]], [[1, 1], [1, 1]]])
def test_tiny_indexes_round_trip(tmp_path, sequences):
    build(sequences).save(tmp_path / "index")
    loaded = FMIndex.load(tmp_path / "index", verify=True)
    assert [loaded.extract(passage).tolist() for passage in range(len(sequences))] == sequences
    assert loaded.count([2]) == len(sequences)


def test_the_same_input_gives_the_same_files(tmp_path, folder):
    build(tokenizer_fingerprint="tokenizer-one", corpus_fingerprint="corpus").save(tmp_path / "again")
    assert (tmp_path / "again" / "index.json").read_bytes() == (folder / "index.json").read_bytes()


def fail_at(number, action):
    """A `np.save` that fails at its call `number`, after writing a part of the file."""
    calls = []

    def save(stream, array, **options):
        calls.append(array)
        if len(calls) == number:
            stream.write(b"part")
            action()
        return original(stream, array, **options)

    original = np.save
    return save


def disk_full():
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [1, 6, 14])
@pytest.mark.parametrize(("action", "error"), [(disk_full, OSError), (interrupted, KeyboardInterrupt)])
def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch, number, action, error):
    monkeypatch.setattr(np, "save", fail_at(number, action))
    with pytest.raises(error):
        build().save(tmp_path / "index")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [1, 6, 14])
def test_a_failed_save_leaves_the_older_index(folder, monkeypatch, number):
    monkeypatch.setattr(np, "save", fail_at(number, disk_full))
    with pytest.raises(OSError, match="No space left"):
        build([[1, 1, 1]]).save(folder)
    assert FMIndex.load(folder, verify=True).count([5, 6]) == 3
    assert os.listdir(folder.parent) == ["index"]
    assert sorted(name.split("-")[0] for name in os.listdir(folder)) == ["index.json", "segment"]


KILLED = """
import os, sys
import numpy as np
from dgr_trainer.index import FMIndex, array_folders
index = FMIndex.build([[1, 1, 1]], passage_ids=["x"], vocab_size=9, separator=2, progress=False)
save, calls = np.save, []
def killed(stream, array, **options):
    calls.append(save(stream, array, **options))
    if len(calls) == 6:
        os._exit(9)
np.save = killed
index.save(sys.argv[1])
"""


def test_a_killed_save_leaves_the_older_index_and_no_new_one(folder, tmp_path):
    for path in (folder, tmp_path / "new"):
        assert subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=120).returncode == 9
    assert FMIndex.load(folder, verify=True).count([5, 6]) == 3
    with pytest.raises(FileNotFoundError, match="no index at .*new"):
        FMIndex.load(tmp_path / "new")
    for left in set(os.listdir(tmp_path)) - {"index"}:
        with pytest.raises(ValueError, match="not an index"):
            FMIndex.load(tmp_path / left)


def test_replacing_an_index_that_is_open(folder):
    older = FMIndex.load(folder)
    build([[1, 1, 1]]).save(folder)
    assert older.count([5, 6]) == 3 and older.extract(3).tolist() == SEQUENCES[3]
    assert FMIndex.load(folder, verify=True).count([1]) == 3


def test_a_folder_of_the_users_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="other files"):
        build().save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_another_tokenizer_is_refused(folder):
    assert FMIndex.load(folder, tokenizer_fingerprint="tokenizer-one").count([5]) == 3
    with pytest.raises(ValueError, match="made with another tokenizer.*tokenizer-on.*build the index again"):
        FMIndex.load(folder, tokenizer_fingerprint="tokenizer-two")


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index at .*nowhere.*Build one"):
        FMIndex.load(tmp_path / "nowhere")


def test_not_an_index(tmp_path):
    with pytest.raises(ValueError, match="is not an index: it has no index.json"):
        FMIndex.load(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="its index.json was written by another program"):
        FMIndex.load(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ValueError, match="index.json is damaged"):
        FMIndex.load(tmp_path)


def edit(folder, **changes):
    description = json.loads((folder / "index.json").read_text())
    description = {name: value for name, value in (description | changes).items() if value is not None}
    (folder / "index.json").write_text(json.dumps(description))


@pytest.mark.parametrize("version", [1, "2", None])
def test_unknown_version(folder, version):
    edit(folder, format_version=version)
    with pytest.raises(ValueError, match=f"format version {version}.*reads version 2.*Build the index again"):
        FMIndex.load(folder)


@pytest.mark.parametrize("changes", [{"separator": None}, {"segments": None}, {"separator": 3}, {"sha256": "0"}])
def test_a_changed_description_is_refused(folder, changes):
    edit(folder, **changes)
    with pytest.raises(ValueError, match="index.json is damaged.*SHA-256 in it.*build the index again"):
        FMIndex.load(folder)


def file_of(folder, name):
    (file,) = folder.glob(f"segment-*/{name}.npy")
    return file


@pytest.mark.parametrize("name", IndexArrays.__dataclass_fields__)
def test_missing_truncated_and_damaged_files(folder, name):
    file = file_of(folder, name)
    whole = file.read_bytes()
    for place in {0, len(whole) // 2, len(whole) - 1}:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"damaged: .*{name}.npy does not have the SHA-256"):
            FMIndex.load(folder)
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=f"incomplete: .*{name}.npy has {len(whole) - 1} bytes, but {len(whole)}"):
        FMIndex.load(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=f"incomplete: .*{name}.npy is missing"):
        FMIndex.load(folder)


@pytest.fixture
def large(monkeypatch, tmp_path):
    """An index above the size up to which all files are always verified."""
    monkeypatch.setattr("dgr_trainer.index.array_folders._ALWAYS_VERIFIED", 200)
    monkeypatch.setattr("dgr_trainer.index.storage._ALWAYS_VERIFIED", 200)
    build().save(tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def verified(monkeypatch):
    """The files above 200 bytes whose checksum is computed."""
    files, sha256 = [], array_folders._sha256

    def recorded(file):
        if file.stat().st_size > 200:
            files.append(file.name)
        return sha256(file)

    monkeypatch.setattr(array_folders, "_sha256", recorded)
    return files


def flip(file, place=-1):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


DAMAGED = "damaged: .*blocks.npy does not have the SHA-256"


def test_large_files_are_verified_once(large, verified):
    assert file_of(large, "blocks").stat().st_size > 200
    FMIndex.load(large)
    assert verified == []
    FMIndex.load(large, verify=True)
    assert "blocks.npy" in verified and len(verified) == len(set(verified))
    verified.clear()
    os.utime(file_of(large, "blocks"), ns=(0, 0))
    FMIndex.load(large)
    assert verified == ["blocks.npy"]
    FMIndex.load(large)
    assert verified == ["blocks.npy"]


def test_a_large_file_that_was_changed_is_refused(large):
    flip(file_of(large, "blocks"))
    for _ in range(2):
        with pytest.raises(ValueError, match=DAMAGED):
            FMIndex.load(large)
    FMIndex.load(large, verify=False)
    flip(file_of(large, "blocks"))
    assert FMIndex.load(large).count([5, 6]) == 3


def test_a_copy_is_verified(large, tmp_path, verified):
    shutil.copytree(large, tmp_path / "copy")  # With the times of the files.
    FMIndex.load(tmp_path / "copy")
    assert "blocks.npy" in verified
    verified.clear()
    FMIndex.load(tmp_path / "copy")
    assert verified == []
    shutil.copytree(large, tmp_path / "damaged")
    time, file = file_of(large, "blocks").stat().st_mtime_ns, file_of(tmp_path / "damaged", "blocks")
    flip(file)
    os.utime(file, ns=(time, time))
    with pytest.raises(ValueError, match=DAMAGED):
        FMIndex.load(tmp_path / "damaged")


def test_damage_by_the_disk_is_found_with_verify(large):
    file = file_of(large, "blocks")
    time = file.stat().st_mtime_ns
    flip(file)
    os.utime(file, ns=(time, time))
    FMIndex.load(large)
    with pytest.raises(ValueError, match=DAMAGED):
        FMIndex.load(large, verify=True)


def test_new_and_linked_files_count_as_verified(large, tmp_path, verified):
    index = FMIndex.load(large)
    index.add([[5, 6, 6]], passage_ids=["more"]).save(large)
    index.save(tmp_path / "linked", link=True)
    assert file_of(tmp_path / "linked", "blocks").stat().st_ino in {
        file.stat().st_ino for file in large.glob("segment-*/blocks.npy")
    }
    verified.clear()
    FMIndex.load(large)
    FMIndex.load(tmp_path / "linked")
    assert verified == []
    index.save(tmp_path / "copied")
    flip(file_of(tmp_path / "copied", "blocks"))
    FMIndex.load(tmp_path / "linked", verify=True)
    with pytest.raises(ValueError, match=DAMAGED):
        FMIndex.load(tmp_path / "copied")


@pytest.mark.parametrize("content", ["", "[]", '{"segment": 3}'])
def test_a_damaged_record_of_verified_files_is_ignored(large, verified, content):
    (large / "verified.json").write_text(content)
    FMIndex.load(large)
    assert "blocks.npy" in verified


def test_in_a_read_only_folder_all_files_are_verified_each_time(large, verified, monkeypatch):
    (large / "verified.json").unlink()

    def read_only(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("dgr_trainer.index.verified_files.atomic_write", read_only)
    for number in (1, 2):
        assert FMIndex.load(large).count([5, 6]) == 3
        assert verified.count("blocks.npy") == number


def test_the_header_of_a_file_is_always_read(large):
    file = file_of(large, "blocks")
    flip(file, file.read_bytes().index(b"u8"))
    with pytest.raises(ValueError, match="blocks.npy"):
        FMIndex.load(large, verify=False)


def test_a_damaged_file_is_not_reused_by_a_save(large):
    flip(file_of(large, "blocks"))
    build().save(large)
    assert FMIndex.load(large, verify=True).count([5, 6]) == 3


def test_a_damaged_array_folder_is_written_again(folder):
    file = file_of(folder, "blocks")
    file.write_bytes(file.read_bytes()[:-1])
    build(tokenizer_fingerprint="tokenizer-one", corpus_fingerprint="corpus").save(folder)
    assert FMIndex.load(folder, verify=True).count([5, 6]) == 3


def saving(processes, folder, sequences, rounds):
    for _ in range(rounds):
        build(sequences).save(folder)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_jobs_that_save_to_one_folder_take_turns(folder):
    texts = [[[token, token]] * 3 for token in (3, 4, 5)]
    jobs = [launch(1, saving, folder, sequences, 5) for sequences in texts]
    while any(process.is_alive() for job in jobs for process in job):
        index = FMIndex.load(folder, verify=True)
        assert [index.extract(passage).tolist() for passage in range(len(index.passage_ids))] in [SEQUENCES, *texts]
    assert [exit_codes(job) for job in jobs] == [[0]] * 3
    index = FMIndex.load(folder, verify=True)
    assert [index.extract(passage).tolist() for passage in range(3)] in texts
    assert sorted(name.split("-")[0] for name in os.listdir(folder)) == ["index.json", "segment"]


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_who_changes_an_index_is_named_to_those_who_wait(folder, caplog):
    lock = JobLock(folder / "index.lock")
    assert lock.acquire()
    opened = FMIndex.load(folder)  # Readers are not kept out.
    release = threading.Timer(2.0, lock.release)
    release.start()
    opened.remove(["p1"]).save(folder)
    release.join()
    assert f"The index at {folder} is being written by process {os.getpid()} on" in caplog.text
    assert FMIndex.load(folder).num_passages == 3
