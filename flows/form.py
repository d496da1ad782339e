"""Types of fields in forms, with what Prefect's page checks at the field.

The page forwards only some keywords of a field's JSON schema to the check: `allOf` and what is said
of the items of a list, but neither `pattern` nor `minLength` of a text. The server checks all of
them. An emptied field is missing, so that its default applies, unless it is required. Fields with
a choice are texts, because a select of that page closes when it is clicked, except on its arrow.
"""

from typing import Annotated, Any

from pydantic import Field

from neuroscope.options import Dtype, StudySite, choices

NOT_BLANK = r"\S"
"""Pattern of a text that is not blank."""
ITEM = Annotated[str, Field(pattern=NOT_BLANK)]
"""Text in a list, not blank."""
Models = Annotated[list[ITEM], Field(min_length=1)]
"""Names of one or more models."""
Prompts = Annotated[list[ITEM], Field(min_length=2)]
"""Two or more prompts."""


def checks(*schemas: dict[str, Any]) -> dict[str, Any]:
    """Return JSON schemas as the part of a text's schema that the page checks."""
    return {"allOf": list(schemas)}


def _one_of(choice: Any) -> str:
    """Return a pattern of the values of a choice; with `enum` the page would show a select."""
    return f"^({'|'.join(choices(choice))})$"


Template = Annotated[
    str,
    Field(
        json_schema_extra=checks({"pattern": r"^$|\{\}"}, {"not": {"pattern": r"\{\}[\s\S]*\{\}"}})
    ),
]
"""Text that contains {} exactly once, or nothing."""
OptionalFile = Annotated[str, Field(json_schema_extra=checks({"pattern": rf"^$|{NOT_BLANK}"}))]
"""Path of a file, or nothing."""
Site = Annotated[str, Field(json_schema_extra=checks({"pattern": _one_of(StudySite)}))]
"""Component that a study reads."""
NumberFormat = Annotated[str, Field(json_schema_extra=checks({"pattern": _one_of(Dtype)}))]
"""Number format of the forward pass."""
OptionalSite = Annotated[
    str, Field(json_schema_extra=checks({"pattern": f"^$|{_one_of(StudySite)}"}))
]
"""Component that a study reads, or nothing."""
OptionalDtype = Annotated[str, Field(json_schema_extra=checks({"pattern": f"^$|{_one_of(Dtype)}"}))]
"""Number format of the forward pass, or nothing."""
