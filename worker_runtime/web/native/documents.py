"""What the native dialect shows: jobs with their results, tasks with the schema of their
parameters."""

from __future__ import annotations

from typing import Any

import msgspec

from worker_runtime.contracts.job_documents import JobDocument, ShownJob
from worker_runtime.model.job import Job
from worker_runtime.model.snapshot import attempts_of, described_as
from worker_runtime.model.states import COMPLETED, PRIORITY_NAMES
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.model.tasks.signature import Signature
from worker_runtime.web.wire.bodies.answers import encode_json, encode_msgpack


def document_of(job: Job, *, packed: bool, bytes_max: int) -> JobDocument:
    """The job as JSON or MessagePack will show it."""
    document = described_as(JobDocument, job)
    if job.state is not COMPLETED or job.result is None:
        return document
    try:
        encoded = encode_msgpack(job.result) if packed else encode_json(job.result)
    except Exception as error:  # a user type's own hook or property may raise anything
        problem = f"the result cannot be encoded: {type(error).__name__}: {str(error)[:300]}"
        return msgspec.structs.replace(document, result_error=problem)
    if len(encoded) > bytes_max:
        problem = f"the result takes {len(encoded)} bytes encoded, {bytes_max} are shown"
        return msgspec.structs.replace(document, result_error=problem)
    return msgspec.structs.replace(document, result=msgspec.Raw(encoded))


def shown_job(job: Job, *, packed: bool, bytes_max: int) -> ShownJob:
    """`document_of` with the job's attempts, but not their tracebacks: those tell an outsider how
    the code is laid out, and stay with the log and `Runtime.inspect`."""
    attempts = tuple(
        msgspec.structs.replace(attempt, traceback=None) for attempt in attempts_of(job)
    )
    document = document_of(job, packed=packed, bytes_max=bytes_max)
    return ShownJob(**msgspec.structs.asdict(document), attempts=attempts)


class TaskDocument(msgspec.Struct):
    """A task and its policy. `parameters` is a JSON Schema object; a parameter whose annotation
    has no schema accepts anything."""

    name: str
    queue: str
    priority: str
    run_in: str
    timeout_s: float | None
    max_attempts: int
    description: str | None
    parameters: dict[str, Any]


def task_document(task: TaskDefinition) -> TaskDocument:
    text = (getattr(task.fn, "__doc__", None) or "").strip()
    return TaskDocument(
        name=task.name,
        queue=task.queue,
        priority=PRIORITY_NAMES[task.priority],
        run_in=task.run_in,
        timeout_s=task.timeout_s,
        max_attempts=task.max_attempts,
        description=text.split("\n\n")[0] or None,
        parameters=_schema(task.signature),
    )


def _schema(signature: Signature) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for name, kind in signature.types.items():
        try:
            (schema,), components = msgspec.json.schema_components(
                [kind], ref_template="#/$defs/{name}"
            )
        except Exception:  # a type with hooks of its own; its values are still checked
            schema, components = {}, {}
        properties[name] = schema
        definitions.update(components)
    document: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": signature.required,
    }
    if definitions:
        document["$defs"] = definitions
    return document
