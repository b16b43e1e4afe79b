"""The objects of Comfy API v2 as JSON Schemas, written from the contract's text: each answer is held to them."""

from typing import Any

import jsonschema

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "integer"}
ID: dict[str, Any] = {"type": "string", "minLength": 1}
TIME: dict[str, Any] = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
LINK: dict[str, Any] = {"type": "string", "pattern": r"^http://[^/]+/api/v2/"}
HASH: dict[str, Any] = {"type": ["string", "null"], "pattern": "^blake3:[0-9a-f]{64}$"}
STATUS: dict[str, Any] = {
    "enum": ["queued", "running", "succeeded", "canceling", "canceled", "failed", "expired"],
}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": [*required], "properties": required | (optional or {})}


PROGRESS = _object(
    {"value": {"type": "number", "minimum": 0, "maximum": 1}, "nodes_done": NUMBER, "nodes_total": NUMBER},
    {
        "current_node": _or_null(TEXT),
        "current_node_class": _or_null(TEXT),
        "step": _or_null(NUMBER),
        "steps": _or_null(NUMBER),
        "message": _or_null(TEXT),
    },
)
OUTPUT = _object(
    {
        "node_id": TEXT,
        "name": TEXT,
        "type": {"enum": ["image", "video", "audio", "text", "file", "latent"]},
        "content_type": TEXT,
        "size_bytes": NUMBER,
        "id": ID,
        "hash": HASH,
        "url": LINK,
        "url_expires_at": TIME,
    },
    {"job_id": _or_null(ID)},
)
ASSET = _object(
    {
        "id": ID,
        "hash": HASH,
        "size_bytes": NUMBER,
        "content_type": TEXT,
        "created_at": TIME,
        "url": LINK,
        "url_expires_at": TIME,
    },
    {"file_path": _or_null(TEXT), "created_new": {"type": "boolean"}, "expires_at": _or_null(TIME), "job_id": ID},
)
JOB = _object(
    {
        "id": ID,
        "status": STATUS,
        "created_at": TIME,
        "started_at": _or_null(TIME),
        "completed_at": _or_null(TIME),
        "expires_at": TIME,
        "queue_position": _or_null(NUMBER),
        "progress": _or_null(PROGRESS),
        "outputs": {"type": "array", "items": OUTPUT},
        "error": _or_null(
            _object(
                {"code": TEXT, "message": TEXT},
                {"node_id": _or_null(TEXT), "class_type": _or_null(TEXT), "traceback": _or_null(TEXT)},
            )
        ),
        "urls": _object({"self": LINK, "events": LINK, "cancel": LINK}),
    },
    {"metrics": {"type": "object", "additionalProperties": _or_null(NUMBER)}},
)
JOB_LIST = _object({"jobs": {"type": "array", "items": JOB}}, {"next_cursor": TEXT})
WORKFLOW = _object({"workflow": {"type": "object"}, "format": {"enum": ["save", "api"]}})
ERROR = _object({"error": _object({"code": TEXT, "message": TEXT}, {"details": _or_null({"type": "object"})})})
EVENTS = {
    "status": _object({"status": STATUS}, {"queue_position": _or_null(NUMBER)}),
    "progress": PROGRESS,
    "output": OUTPUT,
    "preview": _object({"node_id": TEXT, "content_type": TEXT, "data_base64": TEXT}),
}


def check(body: Any, schema: dict[str, Any]) -> Any:
    """The body, if it keeps to the schema."""
    jsonschema.validate(body, schema)
    return body
