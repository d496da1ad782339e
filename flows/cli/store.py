"""The commands `neuroscope store list` and `neuroscope store prune`."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import Group, app
from flows.cli.options import Json
from neuroscope.errors import NeuroscopeError, Option

if TYPE_CHECKING:
    from neuroscope.reporting.tables import Table
    from neuroscope.storage.housekeeping import StoredFolder

store = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List or remove the activations stored on this machine.",
)
app.add_typer(store, name="store")


@store.command("list")
def list_(json: Json = False) -> None:
    """List stored activations, the most recently used first."""
    from flows.display import print_json, print_text, show_table
    from neuroscope.files import size_text
    from neuroscope.storage.activation_store import store_root
    from neuroscope.storage.housekeeping import list_store

    entries = list_store()
    total = sum(entry.bytes for entry in entries)
    if json:
        document = {"bytes": total, "folders": [entry.to_dict() for entry in entries]}
        print_json(document)
        return
    if entries:
        show_table(_table(entries))
    print_text(f"{size_text(total)} in {store_root()}")


@store.command()
def prune(
    older_than: Annotated[
        float | None, typer.Option(help="Remove activations not used for this many days.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Remove all stored activations.")] = False,
    json: Json = False,
) -> None:
    """Remove stored activations; they are computed again when a study needs them."""
    from datetime import timedelta

    from flows.display import counted, print_json, print_text
    from neuroscope.files import size_text
    from neuroscope.storage.housekeeping import prune_store

    if older_than is not None and not 0 <= older_than < 1e6:
        raise NeuroscopeError(f"--older-than is {older_than:g}; give a number of days, 0 or more")
    if (older_than is None) != all:
        problem = (
            "--older-than and --all exclude each other" if all else "it is not said what to remove"
        )
        raise NeuroscopeError(
            problem,
            options=[
                Option("older_than", 30, "remove activations not used for 30 days"),
                Option("all", True, "remove all of them"),
            ],
        )
    pruned = prune_store(None if older_than is None else timedelta(days=older_than))
    if json:
        document = {
            "removed": [entry.to_dict() for entry in pruned.removed],
            "in_use": [str(folder) for folder in pruned.in_use],
            "bytes": pruned.bytes_freed,
        }
        print_json(document)
        return
    freed = f"removed {counted(len(pruned.removed), 'folder')}, {size_text(pruned.bytes_freed)}"
    skipped = f"; skipped {counted(len(pruned.in_use), 'folder')} in use" if pruned.in_use else ""
    print_text(freed + skipped)


def _table(entries: "list[StoredFolder]") -> "Table":
    """Return the table of stored activations."""
    from neuroscope.files import size_text
    from neuroscope.labels import model_label
    from neuroscope.reporting.tables import Column, Section, Table

    names = ("last used", "model", "sites", "prompts", "pool", "dtype", "size")
    rows = []
    for entry in entries:
        manifest = entry.manifest
        cells = (
            [
                model_label(manifest.provenance.model),
                _sites_text([str(site) for site in manifest.sites]),
                f"{manifest.prompts:,}",
                manifest.key.pool,
                manifest.key.dtype,
            ]
            if manifest
            else [entry.state, "", "", "", ""]
        )
        if manifest and entry.state != "complete":
            cells[0] += f" ({entry.state})"
        last_used = f"{entry.last_used.astimezone():%Y-%m-%d %H:%M}"
        rows.append([last_used, *cells, size_text(entry.bytes)])
    return Table("Stored activations", [Column(name) for name in names], [Section("", rows)])


def _sites_text(sites: list[str]) -> str:
    """Return the components of sites as text, each with its number of layers."""
    layers: dict[str, int] = {}
    for site in sites:
        component = site.partition(".")[0]
        layers[component] = layers.get(component, 0) + 1
    return ", ".join(f"{component} x {count}" for component, count in layers.items())
