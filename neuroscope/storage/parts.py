"""Parts of stored activations: the header of each file, and writing and reading Parquet."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from neuroscope.errors import StoreError
from neuroscope.files import atomic_write

HEADER = "neuroscope"
"""Name of the entry of Parquet metadata, or of the array, that holds a file's `Part` as JSON."""
VALUES_PER_GROUP = 2**25
"""Most numbers per Parquet row group (134 MB); readers count them with 32 bits."""

PARQUET, NUMPY = ".parquet", ".npz"
"""Suffixes of the files of tables and of statistics."""
PROMPTS, TOKENS = "prompts", "tokens"
"""Folders of the tables of prompts and tokens, beside those of the sites."""


@dataclass(frozen=True)
class Part:
    """Header of one file, which identifies the file, so that no other is read in its place."""

    key: str
    """Digest of the activations' key."""
    table: str
    """Folder of the file: a site, `prompts`, `tokens`, or the name of statistics."""
    number: int
    """Number of the part, from 0."""
    first: int
    """Index of the part's first prompt among all prompts."""
    prompts: int
    """Number of prompts in the part."""
    nonfinite: int = 0
    """Number of rows with NaN or infinity."""

    def path(self, folder: Path, suffix: str = PARQUET) -> Path:
        """Return the path of the file in a folder of activations."""
        return folder / self.table / f"{part_name(self.number)}{suffix}"

    def matches(self, expected: "Part") -> bool:
        """Return whether this is the expected part; the number of non-finite rows may differ."""
        return replace(self, nonfinite=0) == replace(expected, nonfinite=0)

    def to_json(self) -> str:
        """Return the header as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Part | None":
        """Return the header from the text that `to_json` returned, or None for any other text."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


def part_name(number: int) -> str:
    """Return the name of a part's files, without the suffix."""
    return f"part-{number:05d}"


def result_files(root: Path) -> Iterator[Path]:
    """Yield the complete files of values and statistics in the folders of activations in `root`."""
    for file in root.glob("*/*/part-*"):
        if file.parent.name not in (PROMPTS, TOKENS) and file.suffix in (PARQUET, NUMPY):
            yield file


def write_part(
    folder: Path, part: Part, columns: dict[str, Any], values_per_group: int = VALUES_PER_GROUP
) -> int:
    """Write a part as Parquet, atomically.

    Args:
        folder: folder of the activations.
        part: header of the file.
        columns: values of all rows, by the name of the column.
        values_per_group: largest number of neurons' values in a row group.

    Returns:
        Number of bytes by which the folder has grown.

    Raises:
        OSError: the disk is full or fails, and the part is not written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = part.path(folder)
    path.parent.mkdir(exist_ok=True)
    before = path.stat().st_size if path.is_file() else 0
    table = pa.table(columns, metadata={HEADER: part.to_json()})
    options: dict[str, Any] = {"compression": "zstd"}
    if "values" in columns:
        # compression takes time and hardly makes floats smaller
        options["compression"] = dict.fromkeys(columns, "zstd") | {"values.list.element": "none"}
        options |= {"use_dictionary": ["prompt"], "write_statistics": ["prompt"]}
        options["row_group_size"] = max(1, values_per_group // table["values"].type.list_size)
    with atomic_write(path) as file:
        pq.write_table(table, file, write_page_checksum=True, **options)
        size = file.tell()
    return size - before


def read_part_header(path: Path) -> Part | None:
    """Return the header of a Parquet file, or None if the file is missing or truncated.

    Only the header is verified; the pages of values are verified when they are read.
    """
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        return _part_of(pq.read_metadata(path).metadata)
    except (ArrowException, OSError):
        return None


def verified_part(folder: Path, expected: Part) -> Part | None:
    """Return the header of a part's file, or None if that is missing, truncated or another part."""
    part = read_part_header(expected.path(folder))
    return part if part and part.matches(expected) else None


def read_part(folder: Path, expected: Part, columns: list[str]) -> Any:
    """Return columns of a part as an Arrow table.

    Raises:
        StoreError: the file is missing, damaged, or not the expected part.
    """
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    path = expected.path(folder)
    try:
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise missing(path) from error
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (ArrowException, OSError) as error:
        raise damaged(path, str(error).partition("\n")[0]) from error
    check_header(path, _part_of(table.schema.metadata), expected)
    return table


def _part_of(metadata: Mapping[bytes, bytes] | None) -> Part | None:
    """Return the header in the metadata of a Parquet file, or None if it has none."""
    return Part.from_json((metadata or {}).get(HEADER.encode(), b""))


def check_header(path: Path, part: Part | None, expected: Part) -> None:
    """Raise StoreError unless the header in a file is the expected one."""
    if not part or not part.matches(expected):
        raise damaged(path, "its header is that of another file")


def damaged(path: Path, reason: object) -> StoreError:
    """Return the error for a file whose content is not what was written."""
    return StoreError(
        f"{path} is damaged ({reason})",
        remedy="delete it and run the same extraction again; it computes only what is missing",
    )


def missing(path: Path) -> StoreError:
    """Return the error for a file that does not exist."""
    return StoreError(
        f"{path} is missing",
        remedy="run the same extraction again; it computes only what is missing",
    )


def unreadable(path: Path, error: OSError) -> StoreError:
    """Return the error for a file that may be complete but cannot be opened."""
    return StoreError(
        f"{path} cannot be read ({error.strerror})", remedy="check its permissions and its disk"
    )
