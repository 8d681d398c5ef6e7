"""Reader of manifest.csv, which lists labeled images and videos."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from jdance.data.splits import class_name
from jdance.errors import UserError

SUFFIXES = (".csv", ".tsv")


def read(
    path: Path, where: str = "", split_column: str = "split"
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a manifest with their line numbers; columns are in lower case.

    Args:
        path: a CSV file with the columns path and label.
        where: "column=value" keeps only these rows.
        split_column: the column that the rows get as their split; only "split" may be missing.

    Raises:
        UserError: the file is not a CSV file, or a column is missing.
    """
    columns, rows = read_table(path)
    if not {"path", "label"} <= set(columns):
        raise UserError(
            f"{path}: the first line must name the columns path and label; it has "
            f"{', '.join(columns) or 'none'}"
        )
    splits = split_column.strip().casefold()
    if splits not in (*columns, "split"):
        raise UserError(
            f"--split_column={split_column}: {path} has the columns {', '.join(columns)}"
        )
    column, _, value = where.partition("=")
    column = column.strip().casefold()
    if where and column not in columns:
        raise UserError(f"--where={where}: {path} has the columns {', '.join(columns)}")
    for line, row in rows:
        if not where or class_name(row.get(column, "")) == class_name(value):
            yield line, row | {"split": row.get(splits, "")}


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Column names and numbered rows of a CSV file; empty rows are dropped.

    Accepts what spreadsheets write: commas, semicolons or tabs, UTF-8 or UTF-16, "sep=" lines.
    """
    try:
        data = path.read_bytes()
        utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a CSV file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: cannot be read as a CSV file ({error}); save it with the encoding UTF-8"
        ) from error
    skipped = 0
    if text.startswith("sep="):  # Excel's separator line
        text, skipped = text.partition("\n")[2], 1
    header = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=header.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    filled = (
        (lines.line_num + skipped, fields)
        for line in lines
        if any(fields := [field.strip() for field in line])
    )
    try:
        _, header_fields = next(filled, (0, []))
        columns = [name.casefold() for name in header_fields]
    except csv.Error as error:
        raise _damaged(path, error) from error
    return columns, _rows(path, columns, filled)


def _rows(
    path: Path, columns: list[str], filled: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        for number, fields in filled:
            yield number, dict(zip(columns, fields))  # noqa: B905
    except csv.Error as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: csv.Error) -> UserError:
    return UserError(f"{path}: cannot be read as a CSV file ({error})")


def box(row: dict[str, str]) -> tuple[float, ...] | None:
    """The box x, y, width, height of a row in pixels, if any."""
    if not row.get("box"):
        return None
    values = tuple(_number(text, "box") for text in row["box"].replace(",", " ").split())
    if len(values) != 4 or min(values[2:]) < 0:
        raise UserError(f"box {row['box']!r}: expected x,y,width,height")
    return values


def person(row: dict[str, str]) -> int | None:
    """The index of the person in a row, counted from the left, if any."""
    if not row.get("person"):
        return None
    number = _number(row["person"], "person")
    if number < 0 or number != int(number):
        raise UserError(f"person {row['person']!r}: expected 0 or a whole number above it")
    return int(number)


def time_span(row: dict[str, str]) -> tuple[float, float]:
    """Start and end of a row in seconds; the whole video by default."""
    start = _number(row["start"], "start") if row.get("start") else 0.0
    end = _number(row["end"], "end") if row.get("end") else math.inf
    if not 0 <= start < end:
        raise UserError(f"start {row['start']!r}, end {row['end']!r}: expected 0 <= start < end")
    return start, end


def _number(text: str, column: str) -> float:
    try:
        value = float(text.replace(",", "."))  # decimal commas
    except ValueError:
        value = math.nan
    if not abs(value) < 1e6:
        raise UserError(f"{column} {text!r}: expected a number of pixels, people or seconds")
    return value
