"""Parquet tables of stored activations: prompts, tokens, and the values of each site."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations import Floats
from neuroscope.options import Pool, TokenRule
from neuroscope.prompts import Prompt
from neuroscope.storage.parts import Part, damaged, read_part
from neuroscope.tokens import TokenBlock, Vocabulary


def prompt_columns(prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return the columns of a table with one row per prompt: id, text, and labels as JSON."""
    return {
        "id": [prompt.id for prompt in prompts],
        "text": [prompt.text for prompt in prompts],
        "labels": [json.dumps(dict(prompt.labels)) for prompt in prompts],
    }


def read_prompt_part(folder: Path, expected: Part) -> list[Prompt]:
    """Return the prompts of a part.

    Raises:
        StoreError: the file is missing or damaged.
    """
    rows = read_part(folder, expected, ["id", "text", "labels"]).to_pylist()
    try:
        return [Prompt(row["id"], row["text"], json.loads(row["labels"])) for row in rows]
    except (TypeError, ValueError) as error:
        raise damaged(expected.path(folder), error) from error


def token_columns(ids: Sequence[str], tokens: TokenBlock) -> dict[str, Any]:
    """Return the columns of a table with one row per token: prompt, position, token and flags."""
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


def read_token_table(folder: Path, expected: Part, ids: Sequence[str]) -> Any:
    """Return the tokens of a part as an Arrow table.

    Args:
        folder: folder of the activations.
        expected: header that the part must have.
        ids: ids of the part's prompts.

    Raises:
        StoreError: the file is missing or damaged, or its rows are not those of the prompts.
    """
    columns = ["prompt", "position", "id", "text", "special", "unknown"]
    table = read_part(folder, expected, columns)
    ends = _ends(table)
    if len(ends) != len(ids):
        raise damaged(expected.path(folder), f"it holds {len(ends)} of {len(ids)} prompts")
    _check_rows(expected.path(folder), table, ids, np.diff(ends, prepend=0))
    return table


def token_block(tables: Sequence[Any]) -> TokenBlock:
    """Return the tokens of Arrow tables, with a vocabulary of the tokens that occur in them."""
    import pyarrow as pa

    table = pa.concat_tables(tables)
    ids = table["id"].to_numpy()
    first_rows = np.full(int(ids.max()) + 1, -1)  # per id; -1 if the id does not occur
    first_rows[ids[::-1]] = np.arange(len(ids))[::-1]  # in reverse: the first row is written last
    present = np.flatnonzero(first_rows >= 0)
    rows = table.select(["text", "special", "unknown"]).take(pa.array(first_rows[present]))
    texts = np.full(len(first_rows), "", dtype=object)
    texts[present] = rows["text"].to_pylist()
    special = frozenset(present[rows["special"].to_numpy()].tolist())
    unknown = present[rows["unknown"].to_numpy()].tolist()
    vocabulary = Vocabulary(texts.tolist(), special, unknown[0] if unknown else None)
    return TokenBlock(ids, _ends(table), vocabulary)


def read_token_block(folder: Path, expected: Part, vocabulary: Vocabulary) -> TokenBlock:
    """Return the tokens of a part's prompts.

    Raises:
        StoreError: the file is missing or damaged.
    """
    table = read_part(folder, expected, ["position", "id"])
    return TokenBlock(table["id"].to_numpy(), _ends(table), vocabulary)


def _ends(tokens: Any) -> NDArray[np.int64]:
    """Return the row after each prompt's last token, (prompts,)."""
    starts = np.flatnonzero(tokens["position"].to_numpy() == 0)
    return np.append(starts[1:], len(tokens)).astype(np.int64)


def site_columns(
    ids: Sequence[str], tokens: TokenBlock, values: Floats, pool: Pool, token_rule: TokenRule
) -> dict[str, Any]:
    """Return the columns of a table with one row per prompt, or per counted token.

    Args:
        ids: ids of the prompts.
        tokens: tokens of the prompts.
        values: (rows, neurons) activations.
        pool: way of pooling; with `none` there is one row per counted token.
        token_rule: rule on which tokens count.
    """
    import pyarrow as pa

    values = np.ascontiguousarray(values, dtype=np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    if pool != "none":
        return {"prompt": list(ids), "values": lists}
    return {
        "prompt": _repeated(ids, tokens.kept_counts(token_rule)),
        "position": tokens.positions[tokens.kept(token_rule)],
        "values": lists,
    }


def read_site_part(
    folder: Path, expected: Part, ids: Sequence[str], counts: NDArray[np.int64]
) -> Floats:
    """Return the values of a part at a site, (rows, neurons), read-only.

    Args:
        folder: folder of the activations.
        expected: header that the part must have.
        ids: ids of the part's prompts.
        counts: (prompts,) number of rows per prompt.

    Raises:
        StoreError: the file is missing or damaged, or its rows are not those of the prompts.
    """
    table = read_part(folder, expected, ["prompt", "values"])
    _check_rows(expected.path(folder), table, ids, counts)
    column = table["values"].combine_chunks()
    values: Floats = column.flatten().to_numpy()
    return values.reshape(len(column), -1)


def _check_rows(path: Path, table: Any, ids: Sequence[str], counts: NDArray[np.int64]) -> None:
    """Raise StoreError unless a table has the given number of rows per prompt, in order."""
    if not table["prompt"].combine_chunks().equals(_repeated(ids, counts)):
        raise damaged(path, f"its {len(table)} rows do not match the {counts.sum()} of its prompts")


def _repeated(ids: Sequence[str], counts: Any) -> Any:
    """Return an Arrow array in which each id is repeated as often as its count says."""
    import pyarrow as pa

    return pa.array(ids, pa.string()).take(pa.array(np.repeat(np.arange(len(ids)), counts)))
