"""The table of architectures says what holds."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = importlib.util.spec_from_file_location("verify_architectures", ROOT / "scripts" / "verify_architectures.py")
verify = importlib.util.module_from_spec(SCRIPT)
SCRIPT.loader.exec_module(verify)


def test_the_table_has_all_architectures():
    lines = [line for line in verify.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == ["architecture", *verify.ARCHITECTURES]


@pytest.mark.slow
@pytest.mark.parametrize("name", verify.ARCHITECTURES)
def test_a_row_of_the_table_holds(name):
    row = verify.table({name: verify.row(name)}).splitlines()[-1]
    assert row in verify.PAGE.read_text(encoding="utf-8")
