"""The parts of stored activations: the header of each file, and writing and reading Parquet."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from neuroscope.errors import StoreError
from neuroscope.files import atomic_write

HEADER = "neuroscope"
"""The entry of a file that holds its `Part` as JSON: in Parquet metadata, or an array of text."""
VALUES_PER_GROUP = 2**25
"""Numbers per Parquet row group (134 MB): readers count them with 32 bits."""

PARQUET, NUMPY = ".parquet", ".npz"
"""Suffixes of the files, of tables and of statistics."""
PROMPTS, TOKENS = "prompts", "tokens"
"""Folders of the tables beside those of the sites."""


@dataclass(frozen=True)
class Part:
    """The header of one file, which states what the file is, so that no other can replace it."""

    key: str
    """Digest of the activations' key."""
    table: str
    """A site, `prompts`, `tokens`, or the name of statistics: the folder of the file."""
    number: int
    """Of the part, from 0."""
    first: int
    """Index of its first prompt among all prompts."""
    prompts: int
    """How many prompts it holds."""
    nonfinite: int = 0
    """Rows with NaN or infinity."""

    def path(self, folder: Path, suffix: str = PARQUET) -> Path:
        """Return the path of the file in a folder of activations."""
        return folder / self.table / f"{part_name(self.number)}{suffix}"

    def matches(self, expected: "Part") -> bool:
        """Return whether this is the expected part; the count of non-finite rows may differ."""
        return replace(self, nonfinite=0) == replace(expected, nonfinite=0)

    def to_json(self) -> str:
        """Return the header as it is written."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Part | None":
        """Return the header that `to_json` gave, or None for any other text."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


def part_name(number: int) -> str:
    """Return the name of a part's files, without suffix."""
    return f"part-{number:05d}"


def write_part(
    folder: Path, part: Part, columns: dict[str, Any], values_per_group: int = VALUES_PER_GROUP
) -> int:
    """Write a part as Parquet, atomically.

    Args:
        folder: of the activations.
        part: the header of the file.
        columns: name -> values of all rows.
        values_per_group: most numbers of the column `values` in a row group.

    Returns:
        By how many bytes the folder has grown.

    Raises:
        OSError: the disk is full or fails; the part is not written then.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = part.path(folder)
    path.parent.mkdir(exist_ok=True)
    before = path.stat().st_size if path.is_file() else 0
    table = pa.table(columns, metadata={HEADER: part.to_json()})
    options: dict[str, Any] = {"compression": "zstd"}
    if "values" in columns:
        # compression takes time and makes floats no smaller
        options["compression"] = dict.fromkeys(columns, "zstd") | {"values.list.element": "none"}
        options |= {"use_dictionary": ["prompt"], "write_statistics": ["prompt"]}
        options["row_group_size"] = max(1, values_per_group // table["values"].type.list_size)
    with atomic_write(path) as file:
        pq.write_table(table, file, write_page_checksum=True, **options)
        size = file.tell()
    return size - before


def read_part_header(path: Path) -> Part | None:
    """Return the header of a Parquet file, or None if the file is missing or truncated.

    Pages are verified only when they are read.
    """
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        return _part_of(pq.read_metadata(path).metadata)
    except (ArrowException, OSError):
        return None


def verified_part(folder: Path, expected: Part) -> Part | None:
    """Return the stored header of a part, or None if the file is missing, truncated or foreign."""
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
    return Part.from_json((metadata or {}).get(HEADER.encode(), b""))


def check_header(path: Path, part: Part | None, expected: Part) -> None:
    """Raise StoreError unless the header in a file is the expected one."""
    if not part or not part.matches(expected):
        raise damaged(path, "it is a part of something else")


def damaged(path: Path, reason: object) -> StoreError:
    """Return the error for a file whose content is not what was written."""
    return StoreError(
        f"{path} is damaged ({reason})",
        remedy="delete it and run the same extraction again; it computes only what is missing",
    )


def missing(path: Path) -> StoreError:
    """Return the error for a file that is not there."""
    return StoreError(
        f"{path} is missing",
        remedy="run the same extraction again; it computes only what is missing",
    )


def unreadable(path: Path, error: OSError) -> StoreError:
    """Return the error for a file that may be complete but cannot be opened."""
    return StoreError(
        f"{path} cannot be read ({error.strerror})", remedy="check its permissions and its disk"
    )
