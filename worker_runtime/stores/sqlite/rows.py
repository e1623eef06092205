"""A job as a row of `worker_jobs`, and back.

Values are MessagePack; options name exception classes instead of holding them. A row has fixed
columns, written once, and changing ones, written with every recorded state. A row to be written has
no None in it, see `STANDS_FOR_NULL`; one that was read has.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from worker_runtime.errors import InvalidArguments, PayloadTooLarge
from worker_runtime.model.activity import Activity, AttemptRecord, Failure, Metric, Progress
from worker_runtime.model.bounded import Unencodable, cleaned, encode_value
from worker_runtime.model.job import Job, accepted_arguments, ttl_of, unless_same
from worker_runtime.model.outcome import Transition, with_ended_attempt
from worker_runtime.model.states import QUEUED, RUNNING, SCHEDULED, TERMINAL_STATES, State
from worker_runtime.model.tasks.definition import TaskDefinition
from worker_runtime.model.tasks.options import JobOptions
from worker_runtime.model.tasks.policy import qualified_name
from worker_runtime.stores.sqlite.exception_names import exception_class

logger = logging.getLogger("worker_runtime.stores")

Columns = tuple[Any, ...]

METRICS_STORED_MAX = 1000

FIXED = (
    "place",
    "id",
    "task",
    "queue",
    "priority",
    "created_at",
    "payload",
    "options",
    "must_encode",
)
CHANGING = (
    "state",
    "attempt",
    "crashes",
    "due_at",
    "started_at",
    "ended_at",
    "keep_until",
    "result",
    "failure",
    "activity",
)
ALL = FIXED + CHANGING

# What stands for NULL in a row to be written. The driver takes numbers, str and bytearray as they
# are; for each None or bytes it first looks for an adapter and, on Python 3.11, makes an exception.
NO_TIME = -1.0
NO_BYTES = bytearray()
STANDS_FOR_NULL = {
    "options": NO_BYTES,
    "started_at": NO_TIME,
    "ended_at": NO_TIME,
    "keep_until": NO_TIME,
    "result": NO_BYTES,
    "failure": NO_BYTES,
    "activity": NO_BYTES,
}

# Plain text: `State.value` is a Python-level property on 3.11, and too dear here.
_STATES = {str(state): state for state in State}
_WAITING = (QUEUED, SCHEDULED)
_SCHEDULED, _QUEUED, _RUNNING = str(SCHEDULED), str(QUEUED), str(RUNNING)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def _class_name(value: Any) -> str:
    """For the classes in `Retry.only_for`, which are all that needs a hook."""
    if isinstance(value, type) and issubclass(value, BaseException):
        return qualified_name(value)
    raise NotImplementedError(f"no encoding for {value!r:.100}")


def _named_class(_: Any, name: str) -> type[BaseException]:
    return exception_class(name)


class StoredActivity(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of `Activity`. The metrics are written once, with the end of the job, and of up
    to 10,000 only the newest `METRICS_STORED_MAX`; `metrics_dropped` counts those before them."""

    progress: Progress | None = None
    attempts: list[AttemptRecord] = []
    metrics: list[Metric] = []
    metrics_dropped: int = 0


_encode_words = msgspec.msgpack.Encoder(enc_hook=_class_name).encode
_decode_options = msgspec.msgpack.Decoder(JobOptions, dec_hook=_named_class).decode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode
_decode_activity = msgspec.msgpack.Decoder(StoredActivity).decode


# Into a row


def encode_payload(job: Job, bytes_max: int) -> bytes:
    """The arguments of `job`. Raises InvalidArguments where one has no encoding, PayloadTooLarge
    where all together exceed `bytes_max`."""
    arguments = accepted_arguments(job)
    try:
        encoded = _encode(arguments)
    except Exception:  # slow path: find the words for it
        try:
            encoded = encode_value(arguments, sys.maxsize)
        except Unencodable as error:
            raise InvalidArguments(f"task {job.task.name}: the arguments {error}") from None
    if len(encoded) > bytes_max:
        raise PayloadTooLarge(
            f"task {job.task.name}: the arguments take {len(encoded)} bytes encoded, "
            f"{bytes_max} are allowed"
        )
    return encoded


def new_row(job: Job, payload: bytes) -> list[Any]:
    """The row of a job as accepted: a slot may have it already, but nothing of it has run."""
    due_at = job.due_at or 0.0
    options = job.options
    return [
        job.order,
        job.id,
        job.task.name,
        job.queue,
        int(job.priority),
        job.created_at,
        bytearray(payload),
        NO_BYTES if options is None else _encode_text(options),
        int(job.must_encode),
        _SCHEDULED if due_at > job.created_at else _QUEUED,
        0,
        0,
        due_at,
        *(NO_TIME, NO_TIME, NO_TIME, NO_BYTES, NO_BYTES, NO_BYTES),
    ]


def change_row(row: list[Any], columns: Columns) -> None:
    """Put changing columns into a whole row."""
    row[len(FIXED) :] = columns


def started_columns(job: Job) -> Columns:
    """What the start of its attempt makes of a waiting job."""
    activity = job.activity
    return (
        _RUNNING,
        job.attempt,
        job.crashes,
        job.due_at,
        _time(job.started_at),
        *(NO_TIME, NO_TIME, NO_BYTES, NO_BYTES),
        NO_BYTES if activity is None else _encoded_activity(activity, activity.attempts),
    )


def changed_columns(job: Job, transition: Transition) -> Columns:
    """What `transition` makes of `job`, which still has its former state."""
    state, activity = transition.state, job.activity
    if state in TERMINAL_STATES:
        result = transition.encoded
        if result is None and transition.value is not None:
            result = encode_value(transition.value, sys.maxsize)
        failure = transition.failure
        return (
            str(state),
            transition.attempt,
            transition.crashes,
            job.due_at or 0.0,
            _time(job.started_at),
            transition.at,
            _keep_until(job, transition.at),
            NO_BYTES if result is None else bytearray(result),
            NO_BYTES if failure is None else _encode_text(failure),
            NO_BYTES if activity is None else _encode_ended(activity),
        )
    attempts = () if activity is None else activity.attempts
    if transition.failure is not None:
        attempts = with_ended_attempt(attempts, job, transition)
    return (
        str(state),
        transition.attempt,
        transition.crashes,
        transition.due_at or 0.0,
        _time(job.started_at),  # it has begun once: what `decode_job` needs to know of its expiry
        *(NO_TIME, NO_TIME, NO_BYTES, NO_BYTES),
        _encoded_activity(activity, attempts),
    )


def _time(at: float | None) -> float:
    return NO_TIME if at is None else at


def _encoded_activity(activity: Activity | None, attempts: Any) -> bytearray:
    progress = None if activity is None else activity.progress
    if progress is None and not attempts:
        return NO_BYTES
    return _encode_reports(StoredActivity(progress, list(attempts)))


def _encode_ended(activity: Activity) -> bytearray:
    if not activity.metrics:
        return _encoded_activity(activity, activity.attempts)
    newest = activity.metrics[-METRICS_STORED_MAX:]
    dropped = activity.metrics_dropped + len(activity.metrics) - len(newest)
    attempts = list(activity.attempts)
    return _encode_reports(StoredActivity(activity.progress, attempts, newest, dropped))


def _encode_reports(stored: StoredActivity) -> bytearray:
    """What was reported keeps no job from its end: where it has no encoding, it is left out."""
    try:
        return _encode_text(stored)
    except Exception as error:
        logger.warning("a job's progress and metrics are not kept: %s", error)
        return _encode_text(StoredActivity(attempts=stored.attempts))


def _encode_text(words: Failure | StoredActivity | JobOptions) -> bytearray:
    """MessagePack of a struct whose texts users wrote; half a surrogate pair has no encoding and
    must not keep a job from ending."""
    try:
        return bytearray(_encode_words(words))
    except UnicodeEncodeError:
        return bytearray(_encode(cleaned(words, _class_name)))


def _keep_until(job: Job, ended_at: float) -> float:
    ttl_s = ttl_of(job)
    return NO_TIME if ttl_s is None else ended_at + ttl_s


# Out of a row


def decode_job(row: Columns, tasks: Callable[[str], TaskDefinition], *, checked: bool) -> Job:
    """The job in `row` (the columns `ALL`), its task by name from `tasks`.

    `checked` converts the arguments to the task's annotations and raises InvalidArguments where
    they no longer fit; without it such arguments stay as decoded. Raises msgspec.MsgspecError for
    a value that is not what this module writes, KeyError for an unknown state.
    """
    task = tasks(row[2])
    args, kwargs = _decode(row[6])
    options = None if row[7] is None else _decode_options(row[7])
    bound, named = given = tuple(args), kwargs
    if options is None or options.takes_results is None:  # else some arguments are still to come
        try:
            bound, named = task.signature.bind(bound, named, wire=True)
        except InvalidArguments:
            if checked:
                raise
    queue = task.queue if row[3] == task.queue else row[3]  # a million jobs share one string
    job = Job(row[1], task, bound, named, queue, row[4], row[0], row[5], _STATES[row[9]])
    job.accepted = unless_same(given, bound, named)
    job.options = options
    job.must_encode = bool(row[8])
    job.attempt, job.crashes, job.due_at = row[10], row[11], row[12] or 0.0
    job.started_at, job.ended_at = row[13], row[14]
    job.has_begun = job.started_at is not None or job.attempt > 0
    if job.state in _WAITING:
        job.started_at = None
    if row[16] is not None:
        job.result = _result(row[16], task)
    if row[17] is not None:
        job.failure = _decode_failure(row[17])
    if row[18] is not None:
        stored = _decode_activity(row[18])
        job.activity = Activity(
            stored.progress, stored.metrics, stored.metrics_dropped, stored.attempts
        )
    return job


def late_options(options: bytes | None) -> bytes | bytearray | None:
    """A row's options for a job that is to begin however late it is; nothing else of them is read,
    as that may need the task's own classes. Raises msgspec.MsgspecError."""
    fields = None if options is None else _decode(options)
    if fields is None or fields.pop("expires_at", None) is None:
        return options
    return bytearray(_encode(fields)) if fields else None


def unique_key_in(options: bytes | None) -> str | None:
    """The unique key among a row's options. Raises msgspec.MsgspecError."""
    return None if options is None else _decode_options(options).unique_key


def _result(encoded: bytes, task: TaskDefinition) -> Any:
    """The stored value, as the task's return annotation where it fits."""
    value = _decode(encoded)
    try:
        return msgspec.convert(value, task.signature.returns)
    except (msgspec.ValidationError, RecursionError):
        return value
