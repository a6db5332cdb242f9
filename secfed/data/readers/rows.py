"""Rows of a CSV file as spreadsheets write it: UTF-8 with or without a mark at its start, `,` or `;` between fields."""

import csv
from collections.abc import Iterator
from pathlib import Path

from secfed.errors import DataError

# A table of cases is small; more than this is another kind of file.
_MOST_BYTES = 64 * 2**20


def read_rows(path: Path, *, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Every row with the number of its line, by the names in the first one, without blanks around names and fields.

    Raises:
        DataError: the file cannot be read, a needed column is missing or stands twice, or a row has too many fields.
    """
    lines = _text(path).splitlines()
    header = header_of(path, lines)
    missing = [name for name in needed if name not in header]
    if missing:
        raise DataError(f"{path}: has no column {', '.join(missing)}; the first line names {', '.join(header)}")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: has two columns {', '.join(twice)}")
    return list(_rows(path, lines, header))


def header_of(path: Path, lines: list[str] | None = None) -> list[str]:
    """The names of the columns, in small letters."""
    first = next(iter(_text(path).splitlines() if lines is None else lines), "")
    return [name.strip().lower() for name in next(csv.reader([first], delimiter=_delimiter(first)), [])]


def _rows(path: Path, lines: list[str], header: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(lines[1:], delimiter=_delimiter(lines[0]), strict=True)
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if len(fields) > len(header):
                raise DataError(
                    f"{path}, line {reader.line_num + 1}: has {len(fields)} fields, but there are {len(header)} columns"
                )
            filled = [*(field.strip() for field in fields), *[""] * (len(header) - len(fields))]
            yield reader.line_num + 1, dict(zip(header, filled, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + 1}: {error}") from error


def _delimiter(first: str) -> str:
    return ";" if first.count(";") > first.count(",") else ","


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path}: larger than {_MOST_BYTES} bytes, so it is no table of cases")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); save the table as CSV UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
