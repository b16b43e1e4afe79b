"""The OpenAPI document: FastAPI's paths and parameters, and the schemas of our Structs.

FastAPI would describe only Pydantic models; bodies and answers here are msgspec Structs, so their JSON Schemas are
made by msgspec and referred to by name. Every refusal is a problem document, and the document says so once for all
operations.
"""

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from comfy_balancer import batch_schemas, schemas, workflow_schemas
from comfy_shared.http.problems import MEDIA_TYPE, FieldError, Problem

SCHEMAS = (schemas, workflow_schemas, batch_schemas)  # modules whose Structs are described
REF = "#/components/schemas/{name}"
DESCRIPTION = """
One queue in front of many ComfyUIs. Submit a task by a workflow's name and its parameters, or a raw prompt; follow it
by server-sent events or a websocket; load its outputs.

Every refusal is a problem document (RFC 9457) that names the field at fault. Writes take `application/json`, and
where files are taken `multipart/form-data`.
"""
SECURITY: dict[str, dict[str, str]] = {
    "basic": {"type": "http", "scheme": "basic", "description": "The log-in; or any name, with an API key."},
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
}
TAGS = [
    {"name": "Tasks", "description": "Submit, find, cancel and retry tasks; follow them; load what they made."},
    {"name": "Batches", "description": "Tasks that were submitted together: a sweep, or a list."},
    {"name": "Inputs", "description": "Files for later tasks, addressed by their content."},
    {"name": "Run a workflow", "description": "Each published workflow as a call of its own."},
    {"name": "Workflows", "description": "Named templates, their parameters and versions."},
    {"name": "Agents", "description": "Who renders: one agent for each ComfyUI."},
    {"name": "Log-in", "description": "For clients that cannot send a header."},
    {"name": "Health", "description": "For load balancers; without a log-in."},
]


def answer(
    status: int,
    type_: type[msgspec.Struct],
    description: str,
    example: Any = None,
) -> dict[int | str, dict[str, Any]]:
    """The entry of `responses` for one status."""
    content: dict[str, Any] = {"schema": {"$ref": REF.format(name=type_.__name__)}}
    if example is not None:
        content["example"] = example
    return {status: {"description": description, "content": {"application/json": content}}}


def either(
    status: int, one: type[msgspec.Struct], other: type[msgspec.Struct], description: str
) -> dict[int | str, dict[str, Any]]:
    """The entry of `responses` for one status whose answer is of one of two kinds."""
    kinds = [{"$ref": REF.format(name=type_.__name__)} for type_ in (one, other)]
    return {status: {"description": description, "content": {"application/json": {"schema": {"anyOf": kinds}}}}}


def body(
    type_: type[msgspec.Struct] | None,
    *,
    examples: dict[str, Any] | None = None,
    form: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """`openapi_extra` for a route that reads its own body. `form` is the schema of a multipart body."""
    content: dict[str, Any] = {}
    if type_ is not None:
        content["application/json"] = {"schema": {"$ref": REF.format(name=type_.__name__)}}
        if examples:
            named = {name: {"summary": name, "value": value} for name, value in examples.items()}
            content["application/json"]["examples"] = named
    if form is not None:
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


def _structs() -> list[type[msgspec.Struct]]:
    """What goes over the wire."""
    found = {id(value): value for module in SCHEMAS for value in vars(module).values() if isinstance(value, type)}
    return [value for value in found.values() if issubclass(value, msgspec.Struct) and value is not msgspec.Struct]


def build(app: FastAPI) -> dict[str, Any]:
    """The whole document; made once."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=TAGS,
    )
    _, components = msgspec.json.schema_components([*_structs(), Problem, FieldError], ref_template=REF)
    components["TaskRequest"]["example"] = schemas.SMOKE_TASK
    known = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        known.pop(name, None)
    known.update(components)
    document["components"]["securitySchemes"] = SECURITY
    document["security"] = [{name: []} for name in SECURITY]
    problem = {
        "description": "Refused: a problem document.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(name="Problem")}}},
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            _describe_streams(operation)
            _drop_texts(operation)
            if path in ("/healthz", "/readyz"):
                operation["security"] = []
            else:
                operation["responses"]["default"] = problem
    app.openapi_schema = document
    return document


def _describe_streams(operation: dict[str, Any]) -> None:
    """FastAPI describes a stream of events by a word of OpenAPI 3.2 in a document of 3.1."""
    for response in operation["responses"].values():
        for content in response.get("content", {}).values():
            if content.pop("itemSchema", None):
                content["schema"] = {"type": "string", "description": "Server-sent events."}


def _drop_texts(operation: dict[str, Any]) -> None:
    """Of an answer that we encode ourselves FastAPI believes that it is a text, beside what we say of it."""
    for response in operation["responses"].values():
        for content in response.get("content", {}).values():
            schema = content.get("schema", {})
            if "$ref" in schema or "anyOf" in schema:
                schema.pop("type", None)
