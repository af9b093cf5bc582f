"""Codes of passages against plain computations: nearest centroids, limits of clusters, numbers, statistics."""

import json
import math
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import entropy

from dgr_trainer import Corpus, Passage, SemanticIds
from dgr_trainer.errors import DGRKeyError, DGRTypeError, DGRValueError, MissingPackageError
from dgr_trainer.semantic_ids import clustering, vectors
from dgr_trainer.semantic_ids.ids import _digits
from dgr_trainer.semantic_ids.paths import NO_CODE, prefix_groups


def make_vectors(count=300, dimensions=6, seed=0):
    """Vectors in clusters of uneven size, some of them equal."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, dimensions)) * 3
    made = centres[rng.zipf(1.5, count) % 12] + rng.standard_normal((count, dimensions))
    made[count - 9 :] = made[0]
    return made.astype(np.float32)


VECTORS = make_vectors()
NAMES = [f"p{row}" for row in range(len(VECTORS))]


def fit(given=VECTORS, names=NAMES, **chosen):
    return SemanticIds.fit(given, names, **{"levels": 2, "size": 8, "progress": False, **chosen})


def test_residual_codes_are_the_nearest_centroids_of_what_is_left(monkeypatch):
    monkeypatch.setattr("dgr_trainer.semantic_ids.quantizers.BLOCK", 70)
    monkeypatch.setattr("dgr_trainer.semantic_ids.clustering.BLOCK", 30)
    ids = fit(levels=3, size=[8, 6, 4])
    left = VECTORS.astype(np.float64)
    for level, centroids in enumerate(ids._quantizer.codebooks):
        assert centroids.shape == (ids.sizes[level], 6)
        codes = cdist(left, centroids).argmin(1)
        assert (codes == ids.paths[:, level]).mean() > 0.99  # float32 may tell a tie otherwise
        left = left - centroids[ids.paths[:, level]]
    # Each level explains more; and as much as another library's clusters do.
    from sklearn.cluster import KMeans

    other = KMeans(8, n_init=1, random_state=0).fit(VECTORS)
    first = ((VECTORS - ids._quantizer.codebooks[0][ids.paths[:, 0]]) ** 2).sum()
    assert first < 1.3 * other.inertia_ and (left**2).sum() < 0.8 * first


def test_a_tree_divides_what_is_larger_than_a_level():
    ids = fit(kind="hierarchical", levels=3, size=5)
    tree = ids._quantizer
    members = {}
    for path, vector in zip(ids.paths.tolist(), VECTORS, strict=True):
        node = 0
        for depth, code in enumerate(path):
            first, count = tree.children[node]
            if count == 0:
                assert path[depth:] == [NO_CODE] * (3 - depth)
                break
            assert code == cdist(vector[None], tree.centroids[first : first + count])[0].argmin()
            node = first + code
        members.setdefault((node, sum(code != NO_CODE for code in path)), []).append(vector)
    for (node, depth), of in members.items():
        assert tree.children[node, 1] == 0
        assert len(of) <= 5 or depth == 3 or len(np.unique(of, axis=0)) == 1
    assert len(members) > 20 and len(set(ids.values())) == len(VECTORS)
    assert np.array_equal(tree.encode(VECTORS), ids.paths)


@pytest.mark.parametrize("kind", ["residual", "hierarchical"])
def test_balanced_clusters_have_at_most_their_share(kind, monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", 50)
    plain, ids = fit(kind=kind), fit(kind=kind, balanced=True)
    groups = [ids.paths[:, :1], ids.paths[:, 1:] if kind == "residual" else ids.paths]
    for depth, codes in enumerate(groups):
        parents = (
            Counter(map(tuple, ids.paths[:, :depth].tolist())) if kind == "hierarchical" else {(): 300, (0,): 300}
        )
        for path, count in Counter(map(tuple, codes.tolist())).items():
            if path[-1] != NO_CODE:
                assert count <= math.ceil(parents[path[:-1]] / 8)
    assert max(Counter(plain.paths[:, 0].tolist()).values()) > 2 * math.ceil(300 / 8)
    assert ids.statistics().largest[0] == max(Counter(ids.paths[:, 0].tolist()).values()) == 38


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 9))
def test_a_balanced_assignment_is_stable(count, size, seed):
    """Nobody is nearer to another cluster than a member of it is, or than an empty place of it."""
    rng = np.random.default_rng(seed)
    rows, centroids = (np.round(rng.standard_normal((n, 2)), 1).astype(np.float32) for n in (count, size))
    with clustering.tqdm(disable=True) as bar:
        assigned = clustering._within_capacity(
            lambda positions: rows[positions], np.arange(count), centroids, -(-count // size), bar
        )
    sizes = np.bincount(assigned, minlength=size)
    assert sizes.sum() == count and sizes.max() <= -(-count // size)
    distances = cdist(rows, centroids, "sqeuclidean")
    for row in range(count):
        for cluster in range(size):
            if distances[row, cluster] < distances[row, assigned[row]] - 1e-4:
                assert sizes[cluster] == -(-count // size)
                assert distances[assigned == cluster, cluster].max() <= distances[row, cluster] + 1e-4


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda levels: st.lists(st.tuples(*[st.sampled_from([NO_CODE, 0, 1, 2**31 - 1])] * levels), min_size=1)
    )
)
def test_groups_are_passages_with_the_same_prefix(paths):
    for level, groups in enumerate(prefix_groups(np.array(paths, np.int32)), 1):
        prefixes = sorted({path[:level] for path in paths})
        assert groups.tolist() == [prefixes.index(path[:level]) for path in paths]


def test_passages_of_one_path_are_numbered_in_their_order():
    ids = fit()
    seen = Counter()
    for passage_id, path, number in zip(ids, ids.paths.tolist(), ids.numbers.tolist(), strict=True):
        assert number == seen[tuple(path)]
        seen[tuple(path)] += 1
        docid = "".join(f"<c{level}_{code}>" for level, code in enumerate(path, 1))
        assert ids[passage_id].startswith(docid) and ids.codes(passage_id) == tuple(path)
        assert (ids[passage_id] == docid) == (number == 0)
    assert len(set(ids.docids().values())) == len(VECTORS) == len(ids)
    assert {token for name in NAMES for token in ids.docid_tokens(name)} <= set(ids.tokens)
    assert max(seen.values()) > 8  # So that some numbers have two tokens.


@given(st.lists(st.integers(0, 500), unique=True), st.integers(2, 9))
def test_numbers_have_digits_of_their_own(numbers, base):
    digits = [tuple(_digits(number, base)) for number in numbers]
    assert len(set(digits)) == len(numbers) and all(0 <= digit < base for of in digits for digit in of)
    assert _digits(0, base) == [] and _digits(1, base) == [0] and _digits(base + 1, base) == [0, 0]
    assert all(len(of) <= 1 + math.log(max(number, 1), base) for number, of in zip(numbers, digits, strict=True))


@pytest.mark.parametrize("kind", ["residual", "hierarchical", "atomic"])
def test_what_is_added_moves_nobody_and_is_kept(kind, tmp_path):
    ids = fit(kind=kind)
    before, sizes = ids.docids(), ids.sizes
    ids.save(tmp_path / "ids")
    assert sorted(path.name for path in (tmp_path / "ids").iterdir()) == [
        "codes.safetensors", "passage_ids.txt", "semantic_ids.json",
    ]  # fmt: skip
    loaded = SemanticIds.load(tmp_path / "ids")
    assert repr(loaded) == repr(ids) and loaded.docids() == before and loaded.tokens == ids.tokens
    for one in (ids, loaded):
        added = one.add(VECTORS[:40].astype(np.float16), [f"n{row}" for row in range(40)])
        assert list(added) == [f"n{row}" for row in range(40)] == list(one)[300:]
        assert {name: one[name] for name in NAMES} == before and len(set(one.values())) == 340
        if kind == "atomic":
            assert one.sizes == (340,)
        else:
            same = [one.codes(f"n{row}") == one.codes(f"p{row}") for row in range(40)]
            assert one.sizes == sizes and np.mean(same) > 0.95  # float16 rounds
    assert ids.docids() == loaded.docids()
    with pytest.raises(DGRValueError, match="1 of 2 passages have a docid already, such as 'p3'"):
        ids.add(VECTORS[:2], ["new", "p3"])
    if kind != "atomic":
        with pytest.raises(DGRValueError, match="have 3 dimensions, but the codes were learnt from vectors of 6"):
            ids.add(VECTORS[:1, :3], ["new"])


def test_a_seed_gives_the_same_codes_from_memory_and_from_a_file(tmp_path):
    halves = VECTORS.astype(np.float16)
    np.save(tmp_path / "vectors.npy", halves)
    chosen = {"sample": 100, "seed": 7}
    ids = fit(halves, **chosen)
    for other in (tmp_path / "vectors.npy", str(tmp_path / "vectors.npy"), halves.astype(np.float64)):
        assert fit(other, **chosen).docids() == ids.docids()
    assert fit(halves, sample=100, seed=8).docids() != ids.docids()

    class Encoder:
        corpus = Corpus.from_passages(Passage(name, title="A title") for name in NAMES)
        passage_vectors = halves

    assert fit(Encoder(), names=None, **chosen).docids() == ids.docids()


def test_statistics():
    ids = fit(VECTORS[:120], NAMES[:120], size=[6, 4])
    found = ids.statistics(VECTORS[:120], neighbours=5, sample=40)
    paths = ids.paths.tolist()
    for level in range(2):
        counts = Counter(path[level] for path in paths)
        assert found.used[level] == len(counts) and found.largest[level] == max(counts.values())
        assert found.entropy[level] == pytest.approx(entropy(list(counts.values()), base=2))
        assert found.prefixes[level] == len({tuple(path[: level + 1]) for path in paths})
    assert found.collisions == 120 - found.prefixes[1]
    assert found.longest == max(len(ids.docid_tokens(name)) for name in NAMES[:120])
    everyone = ids.statistics(VECTORS[:120], neighbours=5, sample=1000)
    distances = cdist(VECTORS[:120], VECTORS[:120])
    np.fill_diagonal(distances, np.inf)
    for level in range(2):

        def share(pairs, length=level + 1):
            return np.mean([paths[one][:length] == paths[other][:length] for one, other in pairs])

        nearest = [(row, other) for row in range(120) for other in np.argsort(distances[row])[:5]]
        assert everyone.neighbours[level] == pytest.approx(share(nearest))
        pairs = [(one, other) for one in range(120) for other in range(120) if one != other]
        assert everyone.chance[level] == found.chance[level] == pytest.approx(share(pairs))
    assert found.neighbours[0] > 3 * found.chance[0]
    heading, columns, *rows = str(found).splitlines()
    assert (
        heading
        == f"residual ids of 120 passages: {found.collisions} collisions " + heading.partition("collisions ")[2]
    )
    assert (
        columns.split() == "level codes used entropy of largest prefixes neighbours chance".split() and len(rows) == 2
    )
    assert json.loads(json.dumps(found.to_dict()))["prefixes"] == list(found.prefixes)
    with pytest.raises(DGRValueError, match="neighbours=0 and sample=1000 have to be at least 1"):
        ids.statistics(neighbours=0)


def test_a_corpus_with_docids():
    ids = fit()
    corpus = Corpus.from_passages(Passage(name, title="A title", pseudo_queries=("who",)) for name in NAMES[::-1])
    with_docids = ids.with_docids(corpus)
    assert list(with_docids.ids) == NAMES[::-1] and with_docids.get("p7").pseudo_queries == ("who",)
    assert all(passage.docid == ids[passage.id] for passage in with_docids)
    with pytest.raises(DGRValueError, match="1 of 1 passages have no semantic id, such as 'elsewhere'"):
        ids.with_docids(Corpus.from_passages([Passage("elsewhere", title="A title")]))
    for read in (ids.__getitem__, ids.codes, ids.docid_tokens):
        with pytest.raises(DGRKeyError, match="The passage 'elsewhere' has no semantic id"):
            read("elsewhere")


NOT_FINITE = VECTORS.copy()
NOT_FINITE[5, 2] = np.inf
LONG = VECTORS.copy()
LONG[7] = 1e30
INPUTS = {
    "no ids": ({"names": None}, "passage_ids are missing"),
    "a string of ids": ({"names": "p1"}, "passage_ids is the string 'p1'"),
    "few ids": ({"names": NAMES[:-1]}, "has 300 rows, but there are 299 passage ids"),
    "an id twice": ({"names": [*NAMES[:-1], "p3"]}, "The passage id 'p3' occurs twice"),
    "an id with a space": ({"names": [*NAMES[:-1], "a b"]}, "row 299: the passage id 'a b' holds whitespace"),
    "one dimension": ({"given": VECTORS[:, 0]}, r"has the shape \(300,\), but vectors need the shape"),
    "infinity": ({"given": NOT_FINITE}, r"The vector of passage 'p5' \(row 5\) holds NaN or infinity"),
    "long": ({"given": LONG}, r"The vector of passage 'p7' \(row 7\) .*whose squares are beyond float32"),
    "integers": ({"given": VECTORS.astype(int)}, "has the dtype int64, but vectors are floating-point numbers"),
    "a list": ({"given": VECTORS.tolist()}, "vectors is a list. Give a NumPy array"),
    "a kind": ({"kind": "flat"}, "kind='flat' is unknown; use one of residual, hierarchical, atomic"),
    "levels": ({"levels": 0}, "levels=0, but a docid needs at least 1 code"),
    "sizes": ({"size": [8]}, r"size=\[8\] has 1 entries, but there are 2 levels"),
    "a size of 1": ({"size": 1}, "size=1, but a level needs at least 2 codes"),
    "a size as text": ({"size": "256"}, "size='256' is a str. Give a number of codes"),
    "many codes": ({"size": 301}, "There are 300 vectors, but a level has 301 codes.*such as 17"),
    "a small sample": ({"sample": 7}, "sample=7 at least the largest size, 8"),
    "iterations": ({"iterations": 0}, "iterations=0 has to be at least 1"),
    "a name": ({"name": "C1"}, "name='C1' cannot begin tokens"),
    "atomic, twice": ({"kind": "atomic", "names": ["p1"] * 300}, "The passage id 'p1' occurs twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", INPUTS)
def test_input_that_cannot_be_used(case):
    chosen, message = INPUTS[case]
    with pytest.raises((DGRValueError, DGRTypeError), match=message):
        fit(**chosen)


def test_atomic_ids_need_ids():
    with pytest.raises(DGRValueError, match="Atomic ids need passage ids, each of them once"):
        SemanticIds.atomic([])
    with pytest.raises(DGRTypeError, match=r"passage_ids is 'p12' \(str\). Give a collection of passage ids"):
        SemanticIds.atomic("p12")
    assert SemanticIds.atomic(["a", "b"], name="item").docids() == {"a": "<item1_0>", "b": "<item1_1>"}


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file of vectors at"):
        fit(tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(DGRValueError, match="text.npy is no .npy file of vectors"):
        fit(tmp_path / "text.npy")
    np.savez(tmp_path / "several.npz", VECTORS)
    with pytest.raises(DGRTypeError, match="holds several arrays"):
        fit(tmp_path / "several.npz")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DGRValueError, match="objects.npy is no .npy file of vectors"):
        fit(tmp_path / "objects.npy")


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no semantic ids: it has no semantic_ids.json"):
        SemanticIds.load(tmp_path)
    fit().save(tmp_path / "ids")
    description = tmp_path / "ids" / "semantic_ids.json"
    text = description.read_text()
    description.write_text(text.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(DGRValueError, match="have format version 9; this version of dgr-trainer reads version 1"):
        SemanticIds.load(tmp_path / "ids")
    description.write_text("{")
    with pytest.raises(DGRValueError, match="are damaged"):
        SemanticIds.load(tmp_path / "ids")
    description.write_text(text)
    passage_ids = tmp_path / "ids" / "passage_ids.txt"
    passage_ids.write_text("p1\n")
    with pytest.raises(DGRValueError, match=r"its files are of \[1, 300\] passages"):
        SemanticIds.load(tmp_path / "ids")
    passage_ids.unlink()
    with pytest.raises(FileNotFoundError, match="passage_ids.txt is missing"):
        SemanticIds.load(tmp_path / "ids")


def test_faiss_is_named_before_anything_is_encoded(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)

    class Encoder:
        corpus = Corpus.from_passages([Passage("p1", title="A title")])

        @property
        def passage_vectors(self):
            raise AssertionError("encoded")

    with pytest.raises(MissingPackageError, match=r'k-means of faiss: pip install "dgr-trainer\[faiss\]"'):
        SemanticIds.fit(Encoder())
    monkeypatch.undo()
    with pytest.raises(DGRValueError, match="There are 1 vectors, but a level has 256 codes"):
        SemanticIds.fit(Encoder())


@pytest.mark.parametrize("kind", ["residual", "hierarchical"])
@pytest.mark.parametrize("balanced", [False, True])
def test_equal_vectors_all_get_docids(kind, balanced):
    ids = fit(np.ones((40, 3), np.float32), NAMES[:40], kind=kind, size=4, balanced=balanced)
    assert len(set(ids.values())) == 40
    assert ids.statistics(np.ones((40, 3), np.float32)).collisions > 0
