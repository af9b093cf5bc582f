"""Names of files: what is accepted stays in its folder, and no name of a pickle passes."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgr_trainer.hub.file_names import PICKLES, check_names, files_to_upload, pickles
from dgr_trainer.hub.repositories import is_repo_id

PARTS = st.sampled_from(["..", ".", "", "a", "b.json", "\\", "C:", "~", "...", "a..b", "\0", "index"])


@given(st.lists(PARTS, min_size=1, max_size=5), st.booleans())
def test_an_accepted_name_stays_in_its_folder(parts, absolute):
    name = "/" * absolute + "/".join(parts)
    try:
        check_names([name], "x")
    except ValueError:
        return
    root = os.path.realpath("/somewhere/folder")
    assert os.path.commonpath([root, os.path.normpath(os.path.join(root, name))]) == root
    assert "\\" not in name and ":" not in name


@pytest.mark.parametrize("pattern", PICKLES)
def test_pickles_are_known_by_their_names_in_any_case_and_folder(pattern):
    name = f"deep/er/{pattern.replace('*', 'weights').upper()}"
    assert pickles(["a.json", name, f"last-checkpoint/{pattern}", f"checkpoint-12/{pattern}"]) == [name]
    with pytest.raises(ValueError, match=f"you/x holds {name}, which may be a pickle"):
        check_names([name], "you/x")


@pytest.mark.parametrize("name", ["safetensors.json", "model.safetensors", "bin", "a.binary", "tokenizer.model"])
def test_other_names_are_no_pickles(name):
    assert not pickles([name])


def test_what_belongs_to_this_machine_is_left_out(tmp_path):
    for name in ("a.json", "index/index.json", "index/verified.json", "index/index.lock", "index/.x/y", ".hidden",
                 "other/b.json", "index/made_of.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert files_to_upload(tmp_path, ["index", "missing"]) == ["a.json", "index/index.json"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("me/my-retriever", True), ("gpt2", True), ("/me/x", False), ("./me/x", False), ("../x", False),
        ("~/x", False), ("a/b/c", False), ("a b", False), ("", False), ("me/x.git", False),
    ],
)  # fmt: skip
def test_names_of_repositories(name, expected):
    assert is_repo_id(name) == expected
