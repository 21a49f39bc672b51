"""The JSON Schema of topology files, for editors."""

from __future__ import annotations

import json
from typing import Any

from labctl.topology.model import Topology

__all__ = ["schema_json"]


def schema_json() -> str:
    """The schema as JSON text (draft 2020-12), the same at every call, with a newline at its end.

    It knows what one value can say of itself; what values say of each other, `labctl validate` checks.
    """
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Topology.model_json_schema()}
    return json.dumps(_without_titles(schema), indent=2) + "\n"


def _without_titles(schema: Any) -> Any:
    """pydantic titles every field with its own name, which editors then show in place of the description."""
    if isinstance(schema, dict):
        return {key: _without_titles(value) for key, value in schema.items() if key != "title"}
    if isinstance(schema, list):
        return [_without_titles(value) for value in schema]
    return schema
