"""CSV files with one row for each recording."""

import csv
import io
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from stable_longform.data.bad_tracks import BadTrackError
from stable_longform.data.metadata import FIELD_ALIASES, LIST_FIELDS
from stable_longform.data.recordings import Recording
from stable_longform.utils.text_files import printable, read_text

PATH_COLUMNS = ("path", "file_name")
TEXT_ALIASES = ("caption", "text", "tempo")  # names of other tools whose values are not lists


def read_csv(path: Path) -> Iterator[Recording | BadTrackError]:
    """The recordings of a CSV file with the column `path` or `file_name`, relative to its folder, and metadata.

    Raises:
        ValueError: the file cannot be read as CSV in UTF-8, has no such column, or two columns have the same name.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    seen = set()
    try:
        columns = reader.fieldnames or []
        column = next((name for name in PATH_COLUMNS if name in columns), None)
        if column is None:
            raise ValueError(f"{path} must have a column {' or '.join(PATH_COLUMNS)}, got {columns}.")
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{path} has two columns {twice!r}.")
        for row in reader:
            name = row.pop(column)
            if name is None or "\0" in name:
                raise ValueError(f"{printable(path)}:{reader.line_num} has no file name.")
            file = path.parent / name
            if os.path.normpath(file) in seen:
                yield BadTrackError(Path(f"{file} (line {reader.line_num})"), "repeated", "named before")
                continue
            seen.add(os.path.normpath(file))
            yield Recording(file, name.replace("\\", "/"), partial(_parse_cells, row))
    except csv.Error as error:
        raise ValueError(f"{printable(path)}:{reader.line_num + 1} cannot be read as CSV: {error}.") from error


def _parse_cells(row: dict) -> dict:
    """Parses the cells of a row that hold lists.

    Raises:
        ValueError: it has more or fewer cells than the header.
    """
    if None in row or None in row.values():
        raise ValueError("the number of cells in its line differs from the header's")
    row = {key: value.strip() for key, value in row.items()}
    for key in row.keys() & {*LIST_FIELDS, *FIELD_ALIASES} - set(TEXT_ALIASES):
        row[key] = [part.strip() for part in row[key].split(";") if part.strip()]
    return row
