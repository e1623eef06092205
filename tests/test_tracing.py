"""Each attempt is a span, with what became of it."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from worker_runtime import Retry, RunAgain, Runtime, task
from worker_runtime.tracing import tracing


class Spans:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self._provider.get_tracer("tests")

    def named(self, name: str) -> list[ReadableSpan]:
        return [s for s in self._exporter.get_finished_spans() if s.name == name]


@pytest.fixture
def spans() -> Spans:
    return Spans()


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


async def test_an_attempt_is_a_span_that_says_which(spans: Spans) -> None:
    @task(queue="mail")
    async def send() -> None:
        with spans.tracer.start_as_current_span("inside"):
            pass

    async with Runtime([send], middleware=[tracing(spans.tracer)]) as runtime:
        job = await runtime.enqueue(send)
        await job.result(timeout_s=5)
    [span] = spans.named("run send")
    assert span.kind is SpanKind.CONSUMER
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["messaging.message.id"] == job.id
    assert span.attributes["messaging.destination.name"] == "mail"
    assert span.attributes["worker_runtime.attempt"] == 1
    [inside] = spans.named("inside")
    assert inside.parent is not None
    assert inside.parent.span_id == id_of(span)


async def test_a_thread_sees_the_span_too(spans: Spans) -> None:
    def work() -> int:
        return trace.get_current_span().get_span_context().span_id

    async with Runtime([work], middleware=[tracing(spans.tracer)]) as runtime:
        seen = await (await runtime.enqueue(work)).result(timeout_s=5)
    [span] = spans.named("run work")
    assert id_of(span) == seen


async def test_each_try_is_a_span_and_a_failed_one_is_an_error(spans: Spans) -> None:
    tries = 0

    @task(retry=Retry(max_attempts=2, delay_s=0.001))
    async def flaky() -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise KeyError("x")
        return "fine"

    async with Runtime([flaky], middleware=[tracing(spans.tracer)]) as runtime:
        assert await (await runtime.enqueue(flaky)).result(timeout_s=5) == "fine"
    first, second = spans.named("run flaky")
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "KeyError"
    assert [event.name for event in first.events] == ["exception"]
    assert second.status.status_code is StatusCode.UNSET
    assert second.attributes is not None
    assert second.attributes["worker_runtime.attempt"] == 2


async def test_a_request_to_run_again_is_no_error(spans: Spans) -> None:
    tries = 0

    async def poll() -> RunAgain | str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RunAgain(0.001)
        return RunAgain(0.001) if tries == 2 else "there"

    async with Runtime([poll], middleware=[tracing(spans.tracer)]) as runtime:
        assert await (await runtime.enqueue(poll)).result(timeout_s=5) == "there"
    found = spans.named("run poll")
    assert [s.status.status_code for s in found] == [StatusCode.UNSET] * 3
    assert [[event.name for event in s.events] for s in found] == [["run again"]] * 2 + [[]]


async def test_a_cancelled_attempt_ends_its_span(spans: Spans) -> None:
    started = asyncio.Event()

    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    async with Runtime([endless], middleware=[tracing(spans.tracer)]) as runtime:
        job = await runtime.enqueue(endless)
        await started.wait()
        await job.cancel()
        assert await job.wait(timeout_s=5) == "cancelled"
    [span] = spans.named("run endless")
    assert span.status.description == "CancelledError"
