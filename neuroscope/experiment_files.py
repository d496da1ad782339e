"""Experiment files: YAML 1.2, with the line number of every key."""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from neuroscope.errors import ExperimentError, NeuroscopeError
from neuroscope.experiment_faults import Keys


@dataclass(frozen=True)
class ExperimentFile:
    """Keys and values of an experiment file, with their line numbers.

    >>> file = ExperimentFile.read("experiments/cat_dog.yaml")
    >>> file.data["kind"]
    'compare'
    """

    path: Path
    data: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "ExperimentFile":
        """Read an experiment file without checking its values.

        Raises:
            ExperimentError: the file is missing, is not YAML or has no keys; the message names
                the file and the line.
        """
        path = Path(path)
        try:
            data = _parse(path, path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ExperimentError(
                f"cannot read experiment '{path}': {error.strerror}",
                remedy="give the path of a YAML file such as experiments/cat_dog.yaml",
            ) from error
        except UnicodeDecodeError as error:
            raise ExperimentError(f"{path} is not UTF-8 text; save it as UTF-8") from error
        if not isinstance(data, dict):
            raise ExperimentError(
                f"{path}: expected keys such as 'kind: compare' and 'models: […]'"
            )
        return cls(path, data)

    def where(self, keys: Keys) -> str:
        """Return the file and line (from 1) of a value, or of the nearest value around it."""
        node: Any = self.data
        line = node.lc.line
        for key in keys:
            positions = getattr(getattr(node, "lc", None), "data", None) or {}
            if key not in positions:
                break
            line, node = positions[key][0], node[key]
        return f"{self.path}, line {line + 1}: "


@contextmanager
def located(path: str | Path, replaced: Container[str] = ()) -> Iterator[None]:
    """Add the file and the line to an error of the block about a key of an experiment file.

    Args:
        path: the experiment file.
        replaced: keys whose values are not those of the file.
    """
    try:
        yield
    except NeuroscopeError as error:
        if not error.keys or error.keys[0] in replaced:
            raise
        where = ExperimentFile.read(path).where(error.keys)
        raise type(error)(
            where + error.problem, options=error.options, remedy=error.remedy
        ) from error


def _parse(path: Path, text: str) -> Any:
    """Return the document in a YAML text; raise ExperimentError with the line of a fault."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        line, key = error.problem_mark.line + 1, str(error.problem).split('"')[1]
        raise ExperimentError(
            f"{path}, line {line}: key '{key}' appears twice; remove one"
        ) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line_text = f", line {mark.line + 1}" if mark else ""
        raise ExperimentError(f"{path}{line_text}: not YAML: {error.problem}") from error
    except (YAMLError, ValueError) as error:  # a date that does not exist is a ValueError
        raise ExperimentError(
            f"{path}: not YAML: {error}", remedy="quote values that are texts"
        ) from error


def yaml_text(document: dict[str, Any]) -> str:
    """Return keys and values as YAML, in the order of the document."""
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.allow_unicode = True
    stream = StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()
