"""Reading and writing files of records without holding them in memory.

Read: one JSON array of any layout, or JSON lines, UTF-8, plain or packed as xz, gzip or zstd; or Parquet. Content tells
which, not the name. A folder is read as its files in sorted order, one behind another.
Written: one JSON array, one record a line, so that every JSON reader takes it and ours can cut it into pieces.

What becomes of a fault in a file:

| fault | outcome |
|---|---|
| file missing, a folder, or unreadable | BadFile |
| empty file | BadFile |
| empty array | no records; a stage that needs some says so |
| git-LFS pointer, HTML page, zip archive, Arrow file or packed Parquet instead of JSON | BadFile that says which |
| UTF-8 byte order mark, UTF-16, UTF-32 | BadFile: `json.load` refuses them too |
| bytes that are not UTF-8; a NUL or another bare control character in a string | BadFile with the row |
| JSON cut short, xz, gzip or zstd cut short or damaged, text after the array | BadFile with the row |
| Parquet cut short or damaged | BadFile, with the row if some were read |
| Parquet values that JSON has not, such as dates and bytes | read as text |
| NaN or Infinity; a number of thousands of digits; nesting too deep for a parser | BadFile with the row |
| a key twice in one object | BadFile with the row: JSON readers disagree which one counts |
| one JSON object instead of an array of them | BadFile |
| CRLF line ends, blank lines between JSON lines, any indentation | read: they are JSON's own white space |
| a very long row, very many turns | read |
| a row of the wrong type or shape, a lone surrogate in a text | read; rejected where it is parsed |
"""

import codecs
import gzip
import json
import lzma
import mmap
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, cast

import orjson

from amberline.core.files import whole_file

CHUNK_BYTES = 2**20
WORK_BYTES = 2**21  # of a piece that a process works on
WHITE_SPACE = re.compile(r"[ \t\r\n]*")
BEGUN_ESCAPE = re.compile("u[0-9a-fA-F]{0,4}")
ARRAY_START = b"[\n"
ARRAY_END = b"\n]\n"
EMPTY_ARRAY = b"[\n]\n"


class BadFile(Exception):
    """A file cannot be read as records: file, row (from 1; 0: the file as a whole), what is wrong, and the fix, in the
    words that follow `Fix: `."""

    def __init__(self, file: Path | str, row: int, what: str, fix: str) -> None:
        super().__init__(file, row, what, fix)
        self.file, self.row, self.what, self.fix = file, row, what, fix

    def __str__(self) -> str:
        """The message for the user."""
        where = f"{self.file}, row {self.row}" if self.row else f"{self.file}"
        return f"{where}: {self.what}. Fix: {self.fix}"


class Record(NamedTuple):
    """One JSON value of a file, and where it stands there: the number of the array's element or of the line, from 1."""

    number: int
    value: Any


def by_name(files: Sequence[Path]) -> dict[str, Path]:
    """Files of one stage by their names without endings, for its manifest. Raises BadFile if two have the same name."""
    named = {stem(file): file for file in files}
    for file in files:
        if named[stem(file)] != file:
            raise BadFile(file, 0, f"another source has the same name, {named[stem(file)]}", "rename one of them.")
    if len(named) < len(files):
        raise BadFile(files[0], 0, "a source is given twice", "name each source once.")
    return named


def stem(file: Path) -> str:
    """A file's name without the endings of its kind and of compression; a name may have dots of its own."""
    return re.sub(r"(\.(jsonl?|xz|gz|zst|parquet|files))+$", "", file.name)


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a file, or of the files of a folder, in order; memory is that of the longest record.

    The rows of a folder are numbered through. Raises BadFile (see the table above) when the reading comes to the fault,
    so a caller must not publish what it made before the last record was read.
    """
    before = number = 0
    for file in files_of(path):
        for number, value in _records(file):
            yield Record(before + number, value)
        before, number = before + number, 0


def files_of(path: Path) -> list[Path]:
    """The files that a path is read as: itself, or those of a folder, hidden ones aside, in sorted order."""
    if not path.is_dir():
        return [path]
    found = [file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")]
    if not found:
        raise BadFile(path, 0, "there is no file in this folder", "check the path.")
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def container(path: Path) -> str:
    """What kind of file holds the records, for people. Raises BadFile."""
    head = _head(path)
    if head.startswith(PARQUET):
        return "Parquet"
    with closing(_Text(path)) as text:
        text.fill()
        kind = "JSON array" if text.skip_white_space() == "[" else "JSON lines"
    packed = next((f", {name}" for start, name in PACKED.items() if head.startswith(start)), "")
    return kind + packed


def _records(path: Path) -> Iterator[Record]:
    if _head(path).startswith(PARQUET):
        # The recipe imports this file at every `snakemake -n`, and has no use for Arrow.
        from amberline.data.parquet import read_parquet

        yield from read_parquet(path)
        return
    with closing(_Text(path)) as text:
        text.fill()
        if text.window.startswith(PARQUET.decode()):
            raise BadFile(path, 0, "it is a Parquet file that was packed", "unpack it: Parquet is compressed inside.")
        match text.skip_white_space():
            case "[":
                yield from _array(text)
            case "{":
                yield from _lines(text)
            case "":
                raise BadFile(path, 0, "the file is empty", "get it again, or remove it from the configuration.")
            case other:
                text.bad(
                    f"JSON starts with [ or {{, but this file with {other!r}",
                    "save it as JSON lines, a JSON array or Parquet, if it is the right file.",
                )


def _array(text: "_Text") -> Iterator[Record]:
    text.position += 1
    number = 1
    if text.skip_white_space() != "]":
        while True:
            yield Record(number, text.value(number))
            match text.skip_white_space():
                case ",":
                    text.position += 1
                    number += 1
                    text.row = number
                    text.skip_white_space()
                case "]":
                    break
                case "":
                    text.cut_short()
                case other:
                    text.bad(
                        f"expected , or ] after the row, found {other!r}",
                        "put a comma between the rows, or get the file again.",
                    )
    text.position += 1
    if text.skip_white_space():
        text.bad("more text follows the end of the array", "make it one array, or JSON lines.")


def _lines(text: "_Text") -> Iterator[Record]:
    number = 1
    while (line := text.line()) is not None:
        if line.strip(" \t\r\n"):
            yield Record(number, text.parse_line(line))
        number += 1
        text.row = number


class _Text:
    """A window that slides over a file's text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row = 1
        self.window = ""
        self.position = 0
        self.ended = False
        self._bytes = _open(path)
        self._decode = codecs.getincrementaldecoder("utf-8")("strict").decode
        self._fault: UnicodeDecodeError | None = None
        self._parser = json.JSONDecoder(object_pairs_hook=_object_without_twins, parse_constant=_refuse_constant)

    def close(self) -> None:
        """Close the file."""
        self._bytes.close()

    def fill(self) -> None:
        """Drop what was read, and read on: as much again as is still held, so that long rows cost linear time."""
        self.window = self.window[self.position :]
        self.position = 0
        if self._fault is not None:
            # Everything before the bad byte has been handed out by now, so the row is known.
            self.bad(
                f"a byte is not UTF-8 (0x{self._fault.object[self._fault.start]:02x})",
                "convert the file to UTF-8, or get it again.",
            )
        try:
            data = self._bytes.read(max(CHUNK_BYTES, len(self.window)))
        except (EOFError, lzma.LZMAError, zlib.error, OSError) as error:
            self.bad(f"the file is cut short or damaged ({error})", "get it again.")
        self.ended = not data
        try:
            self.window += self._decode(data, self.ended)
        except UnicodeDecodeError as fault:
            self.window += fault.object[: fault.start].decode("utf-8")
            self._fault, self.ended = fault, False

    def skip_white_space(self) -> str:
        """Move to the next character that is none; return it, or "" at the end of the file."""
        while True:
            found = WHITE_SPACE.match(self.window, self.position)
            self.position = found.end() if found else self.position
            if self.position < len(self.window):
                return self.window[self.position]
            if self.ended:
                return ""
            self.fill()

    def value(self, row: int) -> Any:
        """Parse the JSON value at the position and move behind it."""
        self.row = row
        while True:
            try:
                value, end = self._parser.raw_decode(self.window, self.position)
            except json.JSONDecodeError as error:
                if not _breaks_off(error):
                    self._not_json(error)
                if self.ended:
                    self.cut_short()
            except RecursionError:
                self.bad("values are nested too deep", "take the row out of the file, if it is the right file.")
            except ValueError as error:
                self.bad(str(error), "correct the row, or take it out of the file.")
            else:
                # A number may go on behind the window.
                if end < len(self.window) or self.ended:
                    self.position = end
                    return value
            self.fill()

    def line(self) -> str | None:
        """The next line with its line end, or None at the end of the file."""
        searched = self.position
        while (end := self.window.find("\n", searched)) < 0 and not self.ended:
            searched = len(self.window) - self.position
            self.fill()
        start, self.position = self.position, end + 1 if end >= 0 else len(self.window)
        return self.window[start : self.position] or None

    def parse_line(self, line: str) -> Any:
        """Parse one line of JSON lines."""
        try:
            return self._parser.decode(line.rstrip(" \t\r\n"))
        except json.JSONDecodeError as error:
            if not _breaks_off(error):
                self._not_json(error)
            if not line.endswith("\n"):
                self.cut_short()
            self.bad(
                "the row is not complete on its line",
                "make it a JSON array, or JSON lines with one object a line.",
            )
        except RecursionError:
            self.bad("values are nested too deep", "take the row out of the file, if it is the right file.")
        except ValueError as error:
            self.bad(str(error), "correct the row, or take it out of the file.")

    def _not_json(self, error: json.JSONDecodeError) -> NoReturn:
        found = repr(error.doc[error.pos : error.pos + 20])
        self.bad(
            f"not JSON: {error.msg[0].lower()}{error.msg[1:]}, at {found}", "correct the row, or get the file again."
        )

    def cut_short(self) -> NoReturn:
        """The file ends inside a value."""
        self.bad("the file ends in the middle of its JSON: it was cut short", "get it again.")

    def bad(self, what: str, fix: str) -> NoReturn:
        """Raise BadFile for the current row."""
        raise BadFile(self.path, self.row, what, fix)


def _breaks_off(error: json.JSONDecodeError) -> bool:
    """Whether the text ends before its JSON does, so that more of it might fix the error."""
    rest = error.doc[error.pos :]
    return (
        not rest.strip(" \t\r\n")
        or error.msg.startswith("Unterminated string")
        or any(word.startswith(rest) for word in ("true", "false", "null", "-Infinity", "Infinity", "NaN"))
        # The scanner stops before a fraction or exponent without digits: 12 | .  or  1.5 | e-
        or rest in {".", "e", "E", "e+", "e-", "E+", "E-"}
        # An escape with too few digits: \u00
        or (error.msg.startswith("Invalid \\u") and BEGUN_ESCAPE.fullmatch(rest) is not None)
    )


def _object_without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twin!r} stands twice in one object, and readers disagree which one counts")
    return made


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


IMPOSTORS = {
    b"version https://git-lfs": ("it is a git-LFS pointer, not the data", "fetch the file itself (git lfs pull)."),
    b"<": ("it is a web page, probably an error page saved as data", "get it again, and look at what the server says."),
    b"\xef\xbb\xbf": ("it begins with a byte order mark", "remove the first three bytes: tail -c +4 OLD > NEW."),
    b"\xff\xfe\x00\x00": ("it is UTF-32", "convert it: iconv -f UTF-32 -t UTF-8 OLD > NEW."),
    b"\x00\x00\xfe\xff": ("it is UTF-32", "convert it: iconv -f UTF-32 -t UTF-8 OLD > NEW."),
    b"\xff\xfe": ("it is UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW."),
    b"\xfe\xff": ("it is UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW."),
    b"PK\x03\x04": ("it is a zip archive", "unpack it."),
    b"ARROW1": ("it is an Arrow file", "save it as Parquet: Dataset.to_parquet(FILE)."),
}
PARQUET = b"PAR1"
PACKED = {b"\xfd7zXZ\x00": "xz", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


def _head(path: Path) -> bytes:
    """The first bytes of a file. Raises BadFile for what cannot be records."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(64)
    except FileNotFoundError:
        raise BadFile(path, 0, "there is no such file", "check the path.") from None
    except OSError as error:
        raise BadFile(path, 0, f"it cannot be read ({error.strerror})", "check the path and its permissions.") from None
    for start, (what, fix) in IMPOSTORS.items():
        if head.lstrip().startswith(start) if start == b"<" else head.startswith(start):
            raise BadFile(path, 0, what, fix)
    return head


def _open(path: Path) -> IO[bytes] | gzip.GzipFile | lzma.LZMAFile:
    """Open a plain or packed file of text. Raises BadFile for what cannot be records."""
    head = _head(path)
    match next((name for start, name in PACKED.items() if head.startswith(start)), None):
        case "xz":
            return lzma.open(path)
        case "gzip":
            return gzip.open(path)
        case "zstd":
            import pyarrow as pa

            return cast(IO[bytes], pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


class ArrayWriter:
    """Writes records as the lines of one JSON array."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._separator = ARRAY_START
        self.rows = 0

    def write(self, value: Any) -> None:
        """Write one record."""
        self.write_line(orjson.dumps(value))

    def write_line(self, line: bytes) -> None:
        """Write one record that is JSON on one line already, without its line end."""
        self._handle.write(self._separator)
        self._handle.write(line)
        self._separator = b",\n"
        self.rows += 1

    def _end(self) -> None:
        self._handle.write(ARRAY_END if self.rows else EMPTY_ARRAY)


@contextmanager
def write_array(path: Path) -> Iterator[ArrayWriter]:
    """Write one JSON array with one record a line, in UTF-8, atomically: whole if the block ends well."""
    with whole_file(path) as partial, open(partial, "wb", buffering=CHUNK_BYTES) as handle:
        writer = ArrayWriter(handle)
        yield writer
        writer._end()
        handle.flush()


class Piece(NamedTuple):
    """Part of a file of records: bytes from `start` to `end`, which hold `rows` lines, numbered from `first_row`.

    `end` 0: the whole file, whatever its layout.
    """

    start: int
    end: int
    first_row: int
    rows: int


def pieces(path: Path, count: int) -> list[Piece]:
    """Cut a file written by `write_array` into at most `count` pieces of about equal size, at record borders.

    A file of another layout (or compressed) comes back as one piece. Raises BadFile if the file cannot be opened.
    """
    _open(path).close()
    size = path.stat().st_size
    with open(path, "rb") as handle:
        if size == len(EMPTY_ARRAY) and handle.read() == EMPTY_ARRAY:
            return []
        if not _one_record_a_line(handle, size):
            return [Piece(0, 0, 1, 0)]
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            end_of_rows = size - len(ARRAY_END) + 1
            made: list[Piece] = []
            start, row = len(ARRAY_START), 1
            for index in range(1, count + 1):
                wanted = len(ARRAY_START) + (end_of_rows - len(ARRAY_START)) * index // count
                end = min(content.find(b"\n", wanted - 1) + 1 or end_of_rows, end_of_rows)
                if end > start:
                    rows = _count_lines(content, start, end)
                    made.append(Piece(start, end, row, rows))
                    start, row = end, row + rows
            return made


def work_pieces(path: Path) -> list[Piece]:
    """Pieces of a file as `pieces` cuts it, of a size that one process works on at a time."""
    return pieces(path, path.stat().st_size // WORK_BYTES + 1)


def _one_record_a_line(handle: IO[bytes], size: int) -> bool:
    """Whether the file looks as `write_array` leaves it: brackets on lines of their own, the first row on one line."""
    handle.seek(0)
    if handle.read(len(ARRAY_START)) != ARRAY_START or size < len(EMPTY_ARRAY):
        return False
    first = handle.readline()
    handle.seek(size - len(ARRAY_END))
    return first.startswith(b"{") and first.rstrip(b",\n").endswith(b"}") and handle.read() == ARRAY_END


def _count_lines(content: mmap.mmap, start: int, end: int) -> int:
    return sum(content[at : min(at + CHUNK_BYTES, end)].count(b"\n") for at in range(start, end, CHUNK_BYTES))


def read_piece(path: Path, piece: Piece) -> Iterator[Record]:
    """Yield the records of one piece, numbered as in the whole file. Raises BadFile.

    The fast way to read: for files that `write_array` made, and whose manifest was verified.
    """
    if piece.end == 0:
        yield from read_records(path)
        return
    with open(path, "rb") as handle:
        handle.seek(piece.start)
        for row in range(piece.first_row, piece.first_row + piece.rows):
            line = handle.readline()
            try:
                yield Record(row, orjson.loads(line.rstrip(b"\r\n").removesuffix(b",")))
            except orjson.JSONDecodeError as error:
                raise BadFile(path, row, f"not one JSON record on its line ({error})", "make the file again.") from None
