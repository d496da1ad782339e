"""Whether the file of an atlas is complete, without reading all of it."""

from pathlib import Path

from neuroscope.errors import StoreError
from neuroscope.storage.atlas_reader import AtlasReader

_HEADER_BYTES = 3 * 4096
"""Bytes of a DuckDB file before its blocks."""
_BLOCKS = """
SELECT block_size * total_blocks AS bytes FROM pragma_database_size()
WHERE database_name = 'atlas'
"""


def is_intact(path: Path) -> bool:
    """Return whether a file exists, is an atlas, and is not truncated.

    DuckDB opens a file of which blocks are missing, and reports them only when it reads them.
    """
    if not path.is_file():
        return False
    try:
        with AtlasReader.open(path) as atlas:
            blocks = int(atlas.sql(_BLOCKS)["bytes"][0])
    except StoreError:
        return False
    return path.stat().st_size >= _HEADER_BYTES + blocks
