"""Passages in comma-separated files; `tests/data/test_ways_in.py` reads the other kinds of data from them."""

import csv
import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgr_trainer import Corpus, Passage

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=20)


def test_columns_in_any_order_and_quoted_cells(tmp_path):
    path = tmp_path / "corpus.csv"
    path.write_text('Text,n,_ID,title,docid\nplain,1,a,T,7-2\n\n"two, ""quoted""\n\nlines",2,b,,\n', encoding="utf-8")
    expected = [Passage("a", "T", "plain", (), "7-2"), Passage("b", "", 'two, "quoted"\n\nlines')]
    assert list(Corpus.read(path)) == expected
    (tmp_path / "corpus.csv.gz").write_bytes(gzip.compress(path.read_bytes().replace(b"\n", b"\r\n")))
    assert list(Corpus.read(tmp_path / "corpus.csv.gz")) == expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT.filter(str.strip), min_size=1, max_size=5))
def test_what_the_csv_module_writes_comes_back(texts, tmp_path):
    with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "text"])
        writer.writerows(enumerate(texts))
    assert [passage.text for passage in Corpus.read(tmp_path / "a.csv")] == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "key,words\n1,x\n",
            r"line 2: a passage needs id .*The fields found are .'key', 'words'.. The first line has",
        ),
        ("id,words\n1,x\n", r"line 2: a passage needs a title or a text .*The fields found are .'id', 'words'."),
        ("id,text,text\n1,x,y\n", "line 1: two columns have the name 'text'"),
        ("id,text,pseudo_queries\n1,x,y\n", "line 2: a list of pseudo_queries does not fit a cell"),
        ("id,text\n1,x\n2,y,z\n", r"line 3: 3 columns, but 2 are expected .id, text.. Put text that holds commas"),
        (
            'id,text\n1,"x\ny\n',
            "line 3: not a line of comma-separated text .unexpected end of data.; the row begins on line 2. Check its",
        ),
        ('id,text\n1,"x" y\n', "line 2: not a line of comma-separated text .',' expected after"),
        ("id,text\n1 2,x\n", "line 2: the passage id '1 2' holds whitespace"),
    ],
)
def test_errors_name_the_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=f"a.csv, {message}"):
        Corpus.read(tmp_path / "a.csv")
