"""The Parquet files of stored activations: what is in them, and how one is written whole."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations import Floats
from neuroscope.errors import StoreError
from neuroscope.files import atomic_write
from neuroscope.options import Pool, TokenRule
from neuroscope.prompts import Prompt
from neuroscope.tokens import TokenBlock, Vocabulary

_FACTS = b"neuroscope"  # the entry in a file's metadata that holds its `Part`, as JSON
_VALUES_A_GROUP = 2**25  # 134 MB; readers count those of a group of rows with 32 bits

PROMPTS, TOKENS = "prompts", "tokens"
"""Folders of the tables that stand beside the sites."""


@dataclass(frozen=True)
class Part:
    """One Parquet file, as it says of itself, so that it cannot be taken for another.

    It is about `prompts` prompts, of which `first` is the place of the first among all.
    """

    key: str  # digest of the key that it belongs to
    table: str  # a site, or what stands beside the sites
    number: int  # of the part, from 0
    first: int
    prompts: int
    nonfinite: int = 0  # rows with a value that is not finite

    def path(self, folder: Path) -> Path:
        return folder / self.table / f"part-{self.number:05d}.parquet"

    def is_for(self, place: "Part") -> bool:
        """Whether it is what belongs in a place, whatever its values."""
        return replace(self, nonfinite=0) == replace(place, nonfinite=0)


def write_part(folder: Path, part: Part, columns: dict[str, Any]) -> int:
    """Writes a part, which gets its name when it is whole and on the disk.

    Args:
        folder: of the activations.
        part: what it is, and is to say of itself.
        columns: name -> values of all rows.

    Returns:
        By how many bytes the folder has grown.

    Raises:
        OSError: the disk is full or fails; the part is not there then.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = part.path(folder)
    path.parent.mkdir(exist_ok=True)
    before = path.stat().st_size if path.is_file() else 0
    found = pa.table(columns, metadata={_FACTS: json.dumps(asdict(part))})
    options: dict[str, Any] = {"compression": "zstd"}
    if "values" in columns:
        # compression takes time and makes floats no smaller
        options["compression"] = dict.fromkeys(columns, "zstd") | {"values.list.element": "none"}
        options |= {"use_dictionary": ["prompt"], "write_statistics": ["prompt"]}
        options["row_group_size"] = max(1, _VALUES_A_GROUP // found["values"].type.list_size)
    with atomic_write(path) as file:
        pq.write_table(found, file, write_page_checksum=True, **options)
        size = file.tell()
    return size - before


def read_part_header(path: Path) -> Part | None:
    """What a file says of itself, or None unless it is there to its end.

    Its pages are checked when they are read.
    """
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        return _part_of(pq.read_metadata(path).metadata)
    except (ArrowException, OSError):
        return None


def verified_part(folder: Path, place: Part) -> Part | None:
    """The part in its place, with its count of values that are not finite; None if not whole."""
    found = read_part_header(place.path(folder))
    return found if found and found.is_for(place) else None


def read_part(folder: Path, place: Part, columns: list[str]) -> Any:
    """Columns of a part as an Arrow table.

    Raises:
        StoreError: it is missing, damaged, or another's.
    """
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    path = place.path(folder)
    try:
        table = pq.read_table(path, columns=columns, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise StoreError(
            f"{path} is missing: run the same extraction again, which makes only what is missing"
        ) from error
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (ArrowException, OSError) as error:
        raise damaged(path, str(error).partition("\n")[0]) from error
    found = _part_of(table.schema.metadata)
    if not found or not found.is_for(place):
        raise damaged(path, "it is a part of something else")
    return table


def _part_of(metadata: Mapping[bytes, bytes] | None) -> Part | None:
    try:
        return Part(**json.loads((metadata or {})[_FACTS]))
    except (KeyError, ValueError, TypeError):
        return None


def damaged(path: Path, reason: object) -> StoreError:
    """What to do about a file that cannot be read."""
    return StoreError(
        f"{path} is damaged ({reason}): delete it and run the same extraction again, which makes"
        " only what is missing"
    )


def unreadable(path: Path, error: OSError) -> StoreError:
    """What to do about a file that may be whole but cannot be opened."""
    return StoreError(
        f"{path} cannot be read ({error.strerror}): see to its permissions and its disk"
    )


def prompt_columns(prompts: Sequence[Prompt]) -> dict[str, Any]:
    return {
        "id": [prompt.id for prompt in prompts],
        "text": [prompt.text for prompt in prompts],
        "labels": [json.dumps(dict(prompt.labels)) for prompt in prompts],
    }


def read_prompt_part(folder: Path, place: Part) -> list[Prompt]:
    """The prompts of a part.

    Raises:
        StoreError: it is missing or damaged.
    """
    rows = read_part(folder, place, ["id", "text", "labels"]).to_pylist()
    try:
        return [Prompt(row["id"], row["text"], json.loads(row["labels"])) for row in rows]
    except (TypeError, ValueError) as error:
        raise damaged(place.path(folder), error) from error


def token_columns(ids: Sequence[str], tokens: TokenBlock) -> dict[str, Any]:
    """One row a token: its prompt's id, its place in the prompt, and what it is."""
    import pyarrow as pa

    texts = pa.array(tokens.vocabulary.texts, pa.string())
    return {
        "prompt": _repeated(ids, tokens.lengths),
        "position": tokens.positions,
        "id": tokens.ids,
        "text": texts.take(pa.array(tokens.ids)),
        "special": tokens.special,
        "unknown": tokens.unknown,
    }


def read_token_table(folder: Path, place: Part, ids: Sequence[str]) -> Any:
    """The tokens of a part as an Arrow table; `ids` are those of its prompts.

    Raises:
        StoreError: it is missing or damaged, or its rows are not those of the prompts.
    """
    names = ["prompt", "position", "id", "text", "special", "unknown"]
    table = read_part(folder, place, names)
    ends = _ends(table)
    if len(ends) == len(ids):
        _check_rows(place.path(folder), table, ids, np.diff(ends, prepend=0))
        return table
    raise damaged(place.path(folder), f"{len(ends)} of {len(ids)} prompts")


def token_block(tables: Sequence[Any]) -> TokenBlock:
    """Tokens from Arrow tables, with what is known of their vocabulary from these alone."""
    import pyarrow as pa

    table = pa.concat_tables(tables)
    ids = table["id"].to_numpy()
    first = np.full(int(ids.max()) + 1, -1)
    first[ids[::-1]] = np.arange(len(ids))[::-1]  # id -> its first row; the last write counts
    known = np.flatnonzero(first >= 0)
    rows = table.select(["text", "special", "unknown"]).take(pa.array(first[known]))
    texts = np.full(len(first), "", dtype=object)
    texts[known] = rows["text"].to_pylist()
    special = frozenset(known[rows["special"].to_numpy()].tolist())
    unknown = known[rows["unknown"].to_numpy()].tolist()
    return TokenBlock(
        ids, _ends(table), Vocabulary(texts.tolist(), special, unknown[0] if unknown else None)
    )


def read_token_block(folder: Path, place: Part, vocabulary: Vocabulary) -> TokenBlock:
    """The tokens of a part's prompts, end to end.

    Raises:
        StoreError: it is missing or damaged.
    """
    table = read_part(folder, place, ["position", "id"])
    return TokenBlock(table["id"].to_numpy(), _ends(table), vocabulary)


def _ends(tokens: Any) -> NDArray[np.int64]:
    """(prompts,) the row after each prompt's last token."""
    starts = np.flatnonzero(tokens["position"].to_numpy() == 0)
    return np.append(starts[1:], len(tokens)).astype(np.int64)


def site_columns(
    ids: Sequence[str], tokens: TokenBlock, values: Floats, pool: Pool, rule: TokenRule
) -> dict[str, Any]:
    """One row a prompt; at token level one row for each token that counts."""
    import pyarrow as pa

    values = np.ascontiguousarray(values, dtype=np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    if pool != "none":
        return {"prompt": list(ids), "values": lists}
    return {
        "prompt": _repeated(ids, tokens.kept_counts(rule)),
        "position": tokens.positions[tokens.kept(rule)],
        "values": lists,
    }


def read_site_part(
    folder: Path, place: Part, ids: Sequence[str], counts: NDArray[np.int64]
) -> Floats:
    """(rows, neurons) of a part.

    Args:
        ids: of its prompts.
        counts: (prompts,) how many rows each has.

    Raises:
        StoreError: it is missing or damaged, or its rows are not those of the prompts.
    """
    table = read_part(folder, place, ["prompt", "values"])
    _check_rows(place.path(folder), table, ids, counts)
    column = table["values"].combine_chunks()
    values: Floats = column.flatten().to_numpy()
    return values.reshape(len(column), -1)


def _check_rows(path: Path, table: Any, ids: Sequence[str], counts: NDArray[np.int64]) -> None:
    """Raises StoreError unless a table has so many rows of each prompt, in their order."""
    if not table["prompt"].combine_chunks().equals(_repeated(ids, counts)):
        raise damaged(path, f"its {len(table)} rows are not the {counts.sum()} of its prompts")


def _repeated(ids: Sequence[str], counts: Any) -> Any:
    import pyarrow as pa

    return pa.array(ids, pa.string()).take(pa.array(np.repeat(np.arange(len(ids)), counts)))
