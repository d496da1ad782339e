"""Flow that removes stored activations that are no longer used, on a schedule or on demand."""

from datetime import timedelta
from functools import partial
from typing import Annotated

from prefect import get_run_logger
from pydantic import Field

from flows.study_flow import form_flow
from neuroscope.files import size_text
from neuroscope.labels import counted
from neuroscope.storage.housekeeping import prune_store


def run_prune(older_than: timedelta) -> None:
    """Remove activations that were not used for some time, and log what was removed.

    Raises:
        StoreError: a folder cannot be removed.
    """
    pruned = prune_store(older_than)
    skipped = f"; {counted(len(pruned.in_use), 'folder')} in use" if pruned.in_use else ""
    removed = f"{counted(len(pruned.removed), 'folder')}, {size_text(pruned.bytes_freed)}"
    get_run_logger().info(f"removed {removed}{skipped}")


@partial(form_flow, work=run_prune, name_of=lambda age: f"prune older than {age.days} days")
def prune(days: Annotated[int, Field(ge=0, le=36500)] = 90) -> timedelta:
    """Remove stored activations of this worker; studies compute them again when they need them.

    Args:
        days: Remove activations that were not used for this many days.
    """
    return timedelta(days=days)
