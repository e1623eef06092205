"""What a child says besides its results, made into what the rest of the program knows: progress and
metrics in the job's record, log records, lines of output, exceptions."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from worker_runtime.errors import ChildCrashed, JobInterrupted, RemoteFailure, RunAgain
from worker_runtime.executors.process import frames
from worker_runtime.executors.process.parent.output import OutputReader
from worker_runtime.model.bounded import error_text
from worker_runtime.model.context import RecordReporter
from worker_runtime.model.job import Job
from worker_runtime.model.tasks.policy import qualified_name

child_logger = logging.getLogger("worker_runtime.child")

_ERROR_BYTES_MAX = 1000

_raised = msgspec.msgpack.Decoder(frames.Raised)
_again = msgspec.msgpack.Decoder(frames.Again)
_report = msgspec.msgpack.Decoder(frames.Report)
_log_line = msgspec.msgpack.Decoder(frames.LogLine)


class ChildMessages:
    """One child's reports, log records and output, told as those of the job that runs in it, or
    that ran in it last."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stdout: int, stderr: int) -> None:
        self.pid: int | None = None
        self._job: Job | None = None  # while it runs: an idle child keeps no result alive
        self._names: tuple[str | None, str | None] = (None, None)
        self._stdout = OutputReader(loop, stdout, lambda line: self._log_output("stdout", line))
        self._stderr = OutputReader(loop, stderr, lambda line: self._log_output("stderr", line))

    def crash(self, clause: str, note: str) -> ChildCrashed:
        """The error for a job whose child ended as `clause` says, with what it last wrote."""
        text = f"child process {self.pid} {clause}"
        if self._stderr.tail:
            text += "; its last output:\n" + "\n".join(self._stderr.tail)
        return ChildCrashed(text, note=note, retryable=note != "memory_limit")

    def begin_job(self, job: Job) -> None:
        if self._stdout.was_heard:
            self._stdout.begin_job()
        if self._stderr.was_heard:
            self._stderr.begin_job()
        self._job = job
        self._names = (job.id, job.task.name)

    def rest(self) -> None:
        """Nothing runs in the child now."""
        self._job = None

    def drain(self) -> None:
        self._stdout.drain()
        self._stderr.drain()

    def close(self) -> None:
        self._stdout.close()
        self._stderr.close()

    def report(self, payload: bytes) -> None:
        """Write a report into the running job's record."""
        job = self._job
        if job is None:
            return
        report = _report.decode(payload)
        reporter = RecordReporter(job)
        if report.progress is not None:
            reporter.progress(report.progress)
        for metric in report.metrics:
            reporter.metric(metric)
        if report.metrics_dropped:
            job.activity_made().metrics_dropped += report.metrics_dropped

    def log(self, payload: bytes) -> None:
        """Hand a child's log record to the logger of the same name here."""
        line = _log_line.decode(payload)
        logger = logging.getLogger(None if line.logger == "root" else line.logger)
        if not logger.isEnabledFor(line.level):
            return
        record = logger.makeRecord(
            line.logger, line.level, "(child)", 0, line.message, (), None, extra=self._extra()
        )
        record.created = line.created
        record.exc_text = line.exception
        logger.handle(record)

    def _log_output(self, stream: str, line: str) -> None:
        child_logger.info("%s", line, extra={**self._extra(), "stream": stream})

    def _extra(self) -> dict[str, Any]:
        job_id, task = self._names
        return {"job_id": job_id, "task": task, "child_pid": self.pid}


def error_of(kind: int, payload: bytes) -> BaseException:
    """The exception that stands here for what a task raised there."""
    if kind == frames.RUN_AGAIN:
        again = _again.decode(payload)
        return RunAgain(again.delay_s, uses_attempt=again.uses_attempt)
    if kind == frames.INTERRUPTED:
        return JobInterrupted(payload.decode("utf-8", "replace"))
    raised = _raised.decode(payload)
    return RemoteFailure(
        raised.error_type,
        raised.error,
        lineage=raised.lineage,
        traceback=raised.traceback,
        leaves=raised.leaves,
    )


def undecodable(error: BaseException) -> RemoteFailure:
    """For a result that does not unpickle here: it fails its job, and only it."""
    text = error_text(error, _ERROR_BYTES_MAX)
    return RemoteFailure(
        type(error).__name__,
        f"the result cannot be read in the parent process: {text}",
        lineage=tuple(qualified_name(kind) for kind in type(error).__mro__),
        traceback="",
    )
