"""Tables of the documentation, generated from the code; `make docs-tables` writes them."""

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neuroscope.experiment import Settings
from neuroscope.reporting.metrics import Metric


def print_keys(settings: type[Settings], leave_out: Iterable[type[Settings]] = ()) -> None:
    """Print a table of the keys of an experiment, or of a group of keys.

    Args:
        settings: the class that declares them.
        leave_out: classes whose keys are in another table.
    """
    elsewhere = {name for group in leave_out for name in group.model_fields} - {"kind"}
    print("| key | meaning | default |\n| --- | --- | --- |")
    for name, field in settings.model_fields.items():
        if name not in elsewhere:
            default = "required" if field.is_required() else _default(field.default)
            print(f"| `{field.alias or name}` | {field.description} | {default} |")


def print_metrics(metrics: Mapping[str, Metric]) -> None:
    """Print a table of the metrics of a study."""
    print("| column | heading | what it is |\n| --- | --- | --- |")
    for metric in metrics.values():
        print(f"| `{metric.name}` | {metric.heading} | {metric.meaning} |")


def print_schema() -> None:
    """Print the tables of an atlas with their columns."""
    from neuroscope.storage.atlas_schema import MEANINGS, TABLES

    for name, columns in TABLES.items():
        print(f"### `{name}`\n\n{MEANINGS[name]}\n")
        print("| column | type | meaning |\n| --- | --- | --- |")
        for column in columns:
            print(f"| `{column.name}` | `{column.type}` | {column.meaning} |")
        print()


def print_components(components: Mapping[str, str], aliases: Mapping[str, str]) -> None:
    """Print a table of the sites and of their names in TransformerLens."""
    print("| site | what it is | TransformerLens, after `blocks.5.` |\n| --- | --- | --- |")
    for component, meaning in components.items():
        names = ", ".join(f"`{alias}`" for alias, name in aliases.items() if name == component)
        print(f"| `{component}` | {meaning} | {names or '-'} |")


def print_commands() -> None:
    """Print every command with its options."""
    from typer.main import get_command

    from flows import cli

    for name, command in sorted(get_command(cli.app).commands.items()):  # type: ignore[attr-defined]
        for path, subcommand in _with_subcommands(name, command):
            arguments = [
                f" {parameter.name.upper()}"
                for parameter in subcommand.params
                if parameter.param_type_name == "argument"
            ]
            print(f"### `neuroscope {path}{''.join(arguments)}`\n\n{subcommand.help.strip()}\n")
            if subcommand.params:
                print("| option | meaning | default |\n| --- | --- | --- |")
            for parameter in subcommand.params:
                option = f"`{'`, `'.join([*parameter.opts, *parameter.secondary_opts])}`"
                meaning, _, default = parameter.help.partition(" [default: ")
                default = default.removesuffix("]") or _default(parameter.default)
                print(f"| {option} | {meaning} | {'required' if parameter.required else default} |")
            print()


def _with_subcommands(name: str, command: Any) -> list[tuple[str, Any]]:
    if hasattr(command, "commands"):
        return [(f"{name} {child}", inner) for child, inner in sorted(command.commands.items())]
    return [(name, command)]


def _default(value: Any) -> str:
    if value in (None, "", [], ()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{', '.join(value) if isinstance(value, list) else value}`"


def print_tree(*folders: str) -> None:
    """Print the Python files of folders, each with the first sentence of its docstring."""
    root = Path(__file__).parents[1]
    paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    names = [str(path.relative_to(root)) for path in paths if path.name != "__main__.py"]
    width = max(map(len, names))
    print("```text")
    for name in names:
        docstring = ast.get_docstring(ast.parse((root / name).read_text(encoding="utf-8"))) or ""
        sentence = re.split(r"(?<=[^.])[.](?:\s|$)", docstring.replace("\n", " "))[0]
        shown = name.removesuffix("__init__.py") if name.endswith("__init__.py") else name
        print(f"{shown:<{width}}  {sentence}")
    print("```")
