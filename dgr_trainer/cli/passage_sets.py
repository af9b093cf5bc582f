"""Files of passages to search among, or to leave out."""

from __future__ import annotations

from collections.abc import Collection

from dgr_trainer.cli.paths import input_path
from dgr_trainer.data.ids import as_id
from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.compression import undamaged
from dgr_trainer.files.lines import line_location, numbered_lines

PassageSets = list[str] | dict[str, list[str]]
"""Ids of passages: for all queries, or by the ids of queries."""


def read_passage_sets(option: str, path: str | None) -> PassageSets | None:
    """Read the ids of passages.

    Args:
        option (`str`): The option that names the file, for the error.
        path (`str`, *optional*): A file of one id a line, for all queries; or of two columns with a tab between them,
            query id and passage id, for passages of each query.

    Raises:
        ValueError: if a line has other columns than the first one, an id is not valid, or the file is empty.
    """
    if path is None:
        return None
    file = input_path(option, path, folder=False)
    ids: list[str] = []
    of_queries: dict[str, list[str]] = {}
    columns = 0
    with undamaged(file):
        for number, line in numbered_lines(file):
            where = line_location(file, number)
            cells = line.split("\t")
            columns = columns or len(cells)
            if len(cells) != columns or columns > 2:
                raise DGRValueError(
                    f"{where}: {len(cells)} columns. Give the id of a passage on each line, or on each line the id of "
                    "a query and that of a passage, separated by a tab."
                )
            passage_id = as_id(cells[-1], "passage", where)
            if columns == 1:
                ids.append(passage_id)
            else:
                of_queries.setdefault(as_id(cells[0], "query", where), []).append(passage_id)
    if not columns:
        raise DGRValueError(f"{option}: {path} is empty. Give the ids of passages, one a line.")
    return of_queries or ids


def check_sets(option: str, sets: PassageSets | None, queries: Collection[str], all_queries: bool) -> None:
    """Raise a `ValueError` if the queries of sets are not those of the search; with `all_queries`, if one has none."""
    if not isinstance(sets, dict):
        return
    if not queries:
        raise DGRValueError(
            f"{option} has passages for the query {next(iter(sets))!r}, but typed queries have no ids. Give a file of "
            "one passage id a line, or the queries with --queries."
        )
    unknown = [query for query in sets if query not in queries]
    if unknown:
        raise DGRValueError(
            f"{option} has passages for the query {unknown[0]!r}, which is not among the queries ({len(unknown)} of "
            f"{len(sets)} are not). Use the ids of the file of queries."
        )
    missing = [query for query in queries if query not in sets]
    if missing and all_queries:
        raise DGRValueError(
            f"{option} has no passages for the query {missing[0]!r} ({len(missing)} of {len(queries)} queries have "
            "none). Give at least one passage for each query."
        )
