"""Page of the service's endpoints, made of its OpenAPI schema: without scripts, and without other servers."""

from __future__ import annotations

import json
from html import escape
from typing import Any

PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em }
pre { background: #f4f4f4; color: #111; padding: 0.7rem; overflow-x: auto }
table { border-collapse: collapse } td, th { text-align: left; padding: 0.2rem 1rem 0.2rem 0; vertical-align: top }
h2 { border-top: 1px solid #ccc; padding-top: 1rem; font-size: 1.1rem }
"""


def docs_page(schema: dict[str, Any]) -> str:
    """A page in HTML.

    Args:
        schema: of OpenAPI, with local references only.
    """
    title = f"{schema['info']['title']} {schema['info']['version']}"
    sections = [
        _endpoint(schema, method, path, operation)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(schema['info'].get('description', ''))}</p>"
        "<p>The schema for programs: <a href=/openapi.json>/openapi.json</a>.</p>" + "".join(sections) + "</html>\n"
    )


def _endpoint(schema: dict, method: str, path: str, operation: dict) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    fields = _resolved(schema, body)
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('summary', ''))}</p>"]
    if fields.get("properties"):
        parts.append("<table><tr><th>Field<th>Type<th>Default<th>Meaning</tr>")
        parts += [_row(schema, name, one, fields.get("required", ())) for name, one in fields["properties"].items()]
        parts.append("</table>")
    for example in fields.get("examples", ()):
        command = f"curl -s localhost:8000{path} -H 'content-type: application/json' -d '{json.dumps(example)}'"
        parts.append(f"<pre>{escape(command, quote=False)}</pre>")
    answers = [
        f"<tr><td>{escape(status)}<td>{escape(one.get('description', ''))}</tr>"
        for status, one in sorted(operation.get("responses", {}).items())
    ]
    return "".join([*parts, "<details><summary>Answers</summary><table>", *answers, "</table></details>"])


def _row(schema: dict, name: str, field: dict, required) -> str:
    default = "required" if name in required else json.dumps(field.get("default"))
    cells = (name, _kind(schema, field), default, field.get("description", ""))
    return "<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells) + "</tr>"


def _kind(schema: dict, field: dict) -> str:
    """The type of a field in words, such as `array of string`."""
    field = _resolved(schema, field)
    if "anyOf" in field:
        return " or ".join(_kind(schema, one) for one in field["anyOf"])
    if field.get("type") == "array":
        return f"array of {_kind(schema, field.get('items', {}))}"
    return field.get("type", "any")


def _resolved(schema: dict, part: dict) -> dict:
    """The part itself, or that which it refers to."""
    name = part.get("$ref", "").rpartition("/")[2]
    return schema["components"]["schemas"][name] if name else part
