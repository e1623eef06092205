"""OpenTelemetry: a span around each attempt. Needs the `otel` extra."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

import worker_runtime
from worker_runtime.engine.attempt import Middleware
from worker_runtime.errors import RunAgain
from worker_runtime.model.context import JobContext


def tracing(tracer: trace.Tracer | None = None) -> Middleware:
    """A middleware for `Runtime(..., middleware=[tracing()])`: each attempt runs inside a span that
    is called `run TASK`, of `tracer` or of the application's own provider.

    The span has the attributes `messaging.message.id` (the job's), `messaging.destination.name`
    (its queue) and `worker_runtime.task` and `.attempt`. What the task raised is recorded in it and
    makes it an error; a request to be run again is an event. Spans of a task in the loop or in a
    thread are its children; a child process has a provider of its own.
    """
    chosen = tracer or trace.get_tracer("worker_runtime", worker_runtime.__version__)

    async def traced(ctx: JobContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
        with chosen.start_as_current_span(
            f"run {ctx.task}",
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "worker_runtime",
                "messaging.operation.type": "process",
                "messaging.message.id": ctx.job_id,
                "messaging.destination.name": ctx.queue,
                "worker_runtime.task": ctx.task,
                "worker_runtime.attempt": ctx.attempt,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                value = await call_next()
            except RunAgain as request:
                span.add_event("run again", {"delay_s": request.delay_s})
                raise
            except BaseException as error:
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise
            if isinstance(value, RunAgain):
                span.add_event("run again", {"delay_s": value.delay_s})
            return value

    return traced
