"""Sheets of text cells, CSV or XLSX, that go back to a file with every cell that was not changed as it was.

A CSV file is cut into the very characters of its cells (quotes, blanks, line ends, byte order mark included), so that
writing it without changes gives the same bytes. An XLSX file is opened for reading only, formulas are never evaluated,
and its sizes are looked at in the directory of the archive before memory is taken.
"""

import csv
import dataclasses
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from landcal_jax.errors import complain, complaint_of
from landcal_jax.io.files import read_bytes

LARGEST = 50_000_000  # bytes, unpacked: a list of a thousand parameters by PFT has less than one million
DECLARATION = re.compile(rb"<\0?!\0?(?:D\0?O|E\0?N)")
MOST_ROWS, MOST_COLUMNS = 20_000, 500
Cell = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Rows of text cells (without blanks around them), the row of the column names, and what they were read from.

    `source` is what errors call it. `raw` has the verbatim cells and separators of a CSV file, `content` the bytes of
    an XLSX file, `title` the name of its sheet.
    """

    source: str
    rows: list[list[str]]
    header: int = 0
    separator: str = ","
    encoding: str = "utf-8"
    raw: list[list[tuple[str, str]]] | None = None
    content: bytes = b""
    title: str = ""

    @property
    def columns(self) -> list[str]:
        """Names of the columns in lower case, with single blanks."""
        return [" ".join(cell.split()).lower() for cell in self.rows[self.header]]

    def column(self, *names: str) -> int | None:
        """Position of the first of these columns that is there; a name that ends with * stands for its beginning."""
        for name in names:
            for position, column in enumerate(self.columns):
                if column == name or (name.endswith("*") and column.startswith(name[:-1])):
                    return position
        return None

    def where(self, row: int) -> str:
        """Row in words, counted as a spreadsheet does."""
        return f"row {row + 1} of {self.source}"

    @property
    def body(self) -> list[int]:
        """Rows below the column names that are not blank."""
        return [row for row in range(self.header + 1, len(self.rows)) if any(self.rows[row])]

    @property
    def frame(self) -> pd.DataFrame:
        """The verbatim cells below the column names as text; the index counts rows as a spreadsheet does."""
        names = [cell or f"column {position + 1}" for position, cell in enumerate(self.rows[self.header])]
        verbatim = self._verbatim()
        return pd.DataFrame([verbatim[row] for row in self.body], columns=names, dtype=object,
                            index=pd.Index([row + 1 for row in self.body], name="row"))

    def _verbatim(self) -> list[list[str]]:
        if self.raw is None:
            return self.rows
        return [[_unquoted(cell) for cell, _ in row] for row in self.raw]

    def written(self, changes: Mapping[Cell, str | float], suffix: str) -> bytes:
        """The content of a file with `changes` of cells (row, column); a column that is not there yet is added."""
        width = len(self.rows[self.header])
        if suffix == ".xlsx":
            return self._xlsx(changes)
        if self.raw is None:
            verbatim = [list(row) for row in self.rows]
            raw = [[(_quoted(cell, ","), ",") for cell in row[:-1]] + [(_quoted(row[-1], ","), "\n")] for row in verbatim]
        else:
            raw = [list(row) for row in self.raw]
        separator = "," if self.raw is None else self.separator
        added = sorted({column for _, column in changes if column >= width})
        for _ in added:
            for row in raw:
                if len(row) >= width:  # a blank line stays blank
                    row.append(("", row[-1][1]))
                    row[-2] = (row[-2][0], separator)
        for (row, column), value in changes.items():
            position = column if column < width else width + added.index(column)
            raw[row][position] = (_quoted(as_text(value), separator), raw[row][position][1])
        text = "".join(cell + end for row in raw for cell, end in row)
        return text.encode(self.encoding)

    def _xlsx(self, changes: Mapping[Cell, str | float]) -> bytes:
        import openpyxl

        if self.content:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                book = openpyxl.load_workbook(io.BytesIO(self.content))
            sheet = book[self.title]
        else:
            book = openpyxl.Workbook()
            sheet = book.active
            for row in self._verbatim():
                sheet.append([_typed(cell) for cell in row])
        for (row, column), value in changes.items():
            cell = sheet.cell(row + 1, column + 1, value)
            if isinstance(value, str):
                cell.data_type = "s"  # a text that begins with "=" stays a text
        _keep_digits(book)
        content = io.BytesIO()
        book.save(content)
        return content.getvalue()


def _keep_digits(book) -> None:
    """openpyxl writes 16 digits: numbers that need 17 are handed to it as the text of a number."""
    for sheet in book.worksheets:
        for row in sheet.iter_rows():
            for cell in row:
                if isinstance(cell.value, float) and float(f"{cell.value:.16g}") != cell.value:
                    cell.value = repr(cell.value)
                    cell.data_type = "n"


def as_text(value: str | float) -> str:
    """A number with all its digits, as short as they can be said."""
    return value if isinstance(value, str) else repr(value)


def _typed(cell: str) -> str | float | None:
    """A number where the spreadsheet can give back the same text."""
    for kind in (int, float):
        try:
            number = kind(cell)
        except ValueError:
            continue
        if repr(number) == cell:
            return number
    return cell or None


def _quoted(cell: str, separator: str) -> str:
    if any(character in cell for character in (separator, '"', "\n", "\r")):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _unquoted(cell: str) -> str:
    bare = cell.strip(" \t")
    if len(bare) > 1 and bare[0] == bare[-1] == '"':
        return bare[1:-1].replace('""', '"')
    return cell


# ---------------------------------------------------------------------- reading


def read_sheet(path: str | Path, wanted: tuple[str, ...]) -> Sheet:
    """The sheet of a CSV or XLSX file. `wanted`: names of columns, any of which marks the row of the column names.

    Raises ValueError for what is no sheet, is too large, has rows of unequal lengths, or lacks such a row.
    """
    what = "a list of parameters as CSV or XLSX"
    content = read_bytes(path, what)
    if len(content) > LARGEST:
        raise ValueError(complain(f"{what} of at most {LARGEST / 1e6:g} MB", f"{path}, {len(content) / 1e6:.3g} MB",
                                  "save the sheet of the parameters alone"))
    if content[:4] == b"PK\x03\x04":
        return read_xlsx(content, str(path), wanted)
    if b"\0" in content:
        raise ValueError(complain(what, f"{path}, which is no text", "save it as .csv or .xlsx (not .xls or .ods)"))
    return sheet_of_text(content, str(path), wanted)


def sheet_of_text(content: bytes, source: str, wanted: tuple[str, ...]) -> Sheet:
    """The sheet of a CSV text: commas, semicolons or tabs, and any line ends."""
    encoding = "utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        encoding = "latin-1"
        text = content.decode(encoding)
    separator = _separator(text, wanted)
    raw = _cut(text, separator, source)
    rows = [[_unquoted(cell).strip() for cell, _ in row] for row in raw]
    sheet = Sheet(source, rows, _header_of(rows, wanted, source), separator, encoding, raw)
    width = len(rows[sheet.header])
    for row in sheet.body:
        if len(rows[row]) != width:
            raise ValueError(complain(f"{width} cells in {sheet.where(row)}, as in the row of column names",
                                      f"{len(rows[row])}, beginning with {rows[row][0][:60]!r}",
                                      "quote a cell that holds a separator; the file may be cut short"))
    return sheet


def _separator(text: str, wanted: tuple[str, ...]) -> str:
    """The separator by which one of the first lines has the names of columns that are wanted."""
    for line in text.splitlines()[:20]:
        for separator in ",;\t":
            if sum(_unquoted(cell).strip().lower() in wanted for cell in line.split(separator)) >= 2:
                return separator
    return ","


def _cut(text: str, separator: str, source: str) -> list[list[tuple[str, str]]]:
    mark = re.escape(separator)
    pattern = re.compile(rf'([ \t]*"(?:[^"]|"")*"[^{mark}\r\n]*|[^{mark}\r\n]*)({mark}|\r\n|\n|\r|\Z)')
    rows, row, position = [], [], 0
    while position < len(text):
        match = pattern.match(text, position)
        cell, end = match.groups()
        if cell.lstrip(" \t").startswith('"') and not _closed(cell):
            raise ValueError(complain(f"closed quotes in row {len(rows) + 1} of {source}", repr(cell[:60]),
                                      "close the quotes, and double the quotes inside of a cell"))
        row.append((cell, end))
        position = match.end()
        if end != separator:
            rows.append(row)
            row = []
    if row:
        rows.append([*row, ("", "")])
    if len(rows) > MOST_ROWS:
        raise ValueError(complain(f"at most {MOST_ROWS} rows in {source}", f"{len(rows)}", "one row a parameter"))
    return rows


def _closed(cell: str) -> bool:
    bare = cell.strip(" \t")
    return len(bare) > 1 and bare.endswith('"') and bare.count('"') % 2 == 0


def _header_of(rows: list[list[str]], wanted: tuple[str, ...], source: str) -> int:
    for position, row in enumerate(rows[:20]):
        names = [" ".join(cell.split()).lower() for cell in row]
        if sum(name in names for name in wanted) >= 2:
            repeated = sorted({name for name in names if name and names.count(name) > 1})
            if repeated:
                raise ValueError(complain(f"each column once in row {position + 1} of {source}",
                                          f"{', '.join(repeated)} more than once", "rename or remove one of them"))
            return position
    first = next((row for row in rows if any(row)), [])
    raise ValueError(complain(f"a row of column names in {source}: name and prior; param or name, min and max (CLM); "
                              "or Parameter, Value, Min and Max (ecLand)", ", ".join(cell[:40] for cell in first[:12]) or "nothing",
                              "name the columns so; documentation: landcal_jax.io.parameter_lists.reading"))


def read_xlsx(content: bytes, source: str, wanted: tuple[str, ...]) -> Sheet:
    """The first sheet of a workbook that has a row of column names; cells as text, formulas as they were typed."""
    import openpyxl

    _check_archive(content, source)
    try:
        with warnings.catch_warnings():  # of styles and extensions, which are not read
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=False)
            sheets = {sheet.title: _rows_of(sheet, source) for sheet in book.worksheets}
    except Exception as error:  # whatever a damaged archive or its XML makes the library say
        if complaint_of(error):
            raise
        raise ValueError(_no_workbook(source, error)) from error
    found = None
    for title, rows in sheets.items():
        try:
            header = _header_of(rows, wanted, source)
        except ValueError as error:
            found = found or error
            continue
        width = len(rows[header])
        return Sheet(source, [(row + [""] * width)[:max(width, len(row))] for row in rows], header, content=content, title=title)
    raise found or ValueError(_no_workbook(source, ValueError("no sheet in it")))


def _no_workbook(source: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return complain("an XLSX workbook", f"{source}, which cannot be read as one ({reason})", "save the sheet as CSV")


def _check_archive(content: bytes, source: str) -> None:
    """Refuse an archive that grows beyond the limit, or whose XML declares entities, before anything is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > LARGEST:
                raise ValueError(complain(f"an XLSX workbook of at most {LARGEST / 1e6:g} MB once it is unpacked",
                                          f"{source}, {size / 1e6:.4g} MB", "save the sheet of the parameters alone, as CSV"))
            for entry in archive.infolist():
                if entry.filename.endswith((".xml", ".rels")) and DECLARATION.search(archive.read(entry)):
                    raise ValueError(complain("an XLSX workbook without document types in its XML",
                                              f"{source} declares one in {entry.filename}", "save it anew, or as CSV"))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError, ValueError, zlib.error) as error:
        if complaint_of(error):
            raise
        raise ValueError(_no_workbook(source, error)) from error


def _rows_of(sheet, source: str) -> list[list[str]]:
    rows: list[list[str]] = []
    for values in sheet.iter_rows(max_row=MOST_ROWS + 1, max_col=MOST_COLUMNS + 1, values_only=True):
        row = ["" if value is None else str(value).strip() for value in values]
        while row and not row[-1]:
            row.pop()
        if len(row) > MOST_COLUMNS:
            raise ValueError(complain(f"at most {MOST_COLUMNS} columns in {source}", f"more in row {len(rows) + 1}",
                                      "remove what stands beside the table"))
        rows.append(row)
    if len(rows) > MOST_ROWS:
        raise ValueError(complain(f"at most {MOST_ROWS} rows in {source}", "more", "remove what lies below the table"))
    while rows and not any(rows[-1]):
        rows.pop()
    return rows


def sheet_of_frame(frame: pd.DataFrame, wanted: tuple[str, ...], source: str = "the DataFrame") -> Sheet:
    """The sheet of a DataFrame; blank cells of any kind as ''."""
    def text(cell) -> str:
        if isinstance(cell, str):
            return cell
        if cell is None or cell is pd.NA or cell != cell:
            return ""
        return str(int(cell)) if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15 else repr(
            cell.item() if hasattr(cell, "item") else cell)

    rows = [[str(column) for column in frame.columns], *([text(cell) for cell in record] for record in frame.itertuples(index=False))]
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows(rows)
    return sheet_of_text(content.getvalue().encode(), source, wanted)
