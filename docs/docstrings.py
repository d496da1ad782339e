"""Docstrings as Markdown, for the page of the Python API."""

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^>>> .*(?:\n\S.*)*", re.MULTILINE)


class Examples(Extension):
    """Extension of griffe that shows the examples of docstrings as code."""

    def on_instance(self, *, obj: Object, **options: Any) -> None:
        """Put each example of a docstring, up to the next empty line, into a block of code."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(r"```python\n\g<0>\n```", obj.docstring.value)
