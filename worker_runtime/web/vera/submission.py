"""What `POST /task/submit` takes. A body that does not fit is looked at again, by hand, so that
each wrong field is named the way Vera's clients know it: FastAPI's list of `type`, `loc`, `msg` and
`input`."""

from __future__ import annotations

from typing import Any

import msgspec

from worker_runtime.web.wire.rejection import Rejection

_INPUT_CHARS_MAX = 200


class FieldErrors(Rejection):
    """A submission with wrong fields; `errors` is the answer's `detail`."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(422, "invalid_body", "; ".join(error["msg"] for error in errors))
        self.errors = errors


class Payload(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """What the guide's client sends, and nothing else. Where both are given, a record can tell the
    payload again from its job."""

    function: str
    args: list[Any] | msgspec.UnsetType = msgspec.UNSET
    kwargs: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Submission(msgspec.Struct, gc=False):
    payload: Payload
    task_id: str | None = None
    priority: str = "normal"


_EXPECTED: dict[type, tuple[str, str]] = {
    str: ("string_type", "Input should be a valid string"),
    dict: ("dict_type", "Input should be a valid dictionary"),
    list: ("list_type", "Input should be a valid list"),
}


def field_error(
    kind: str, location: tuple[str, ...], message: str, given: Any = None
) -> dict[str, Any]:
    """One entry of `detail`. The input is shown where it is short and plain."""
    if isinstance(given, str):
        given = given[:_INPUT_CHARS_MAX]
    elif isinstance(given, dict | list):
        given = {} if isinstance(given, dict) else []
    return {"type": kind, "loc": list(location), "msg": message, "input": given}


def read_submission(raw: Any) -> Submission:
    """The submission in a decoded body; what its payload has besides is left out. Raises
    FieldErrors with every field that keeps the body from being one."""
    if type(raw) is not dict:
        message = "Input should be a valid dictionary or object to extract fields from"
        raise FieldErrors([field_error("model_attributes_type", ("body",), message, raw)])
    errors: list[dict[str, Any]] = []

    def take(source: dict[str, Any], kind: type, *path: str, default: Any = ...) -> Any:
        name = path[-1]
        value = source.get(name, default)
        if value is ...:
            errors.append(field_error("missing", ("body", *path), "Field required", source))
        elif type(value) is not kind and value is not default:
            code, message = _EXPECTED[kind]
            errors.append(field_error(code, ("body", *path), message, value))
        else:
            return value
        return kind()

    task_id = take(raw, str, "task_id", default=None)
    priority = take(raw, str, "priority", default="normal")
    payload = take(raw, dict, "payload")
    if errors:  # what stands in a payload that is none cannot be told
        raise FieldErrors(errors)
    function = take(payload, str, "payload", "function")
    args = take(payload, list, "payload", "args", default=None)
    kwargs = take(payload, dict, "payload", "kwargs", default=None)
    if errors:
        raise FieldErrors(errors)
    return Submission(Payload(function, args or [], kwargs or {}), task_id, priority)
