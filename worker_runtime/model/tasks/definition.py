"""Tasks: registered functions and the policy each runs under."""

from __future__ import annotations

import functools
import inspect
import random
import re
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar, overload

import msgspec

from worker_runtime.errors import ConfigurationError, RemoteFailure
from worker_runtime.model.job import JOB_ID_PATTERN, Priority, no_priority
from worker_runtime.model.tally import Tally
from worker_runtime.model.tasks.signature import Signature

P = ParamSpec("P")
R = TypeVar("R")

RunIn = Literal["loop", "thread", "process"]
OnCrash = Literal["retry", "fail"]

TASK_NAME_PATTERN = r"[A-Za-z0-9._:<>-]{1,128}"  # `<` and `>`: qualified names of inner functions

_POLICY_ATTRIBUTE = "__worker_runtime_task__"


def _require(ok: bool, name: str, allowed: str, value: object) -> None:
    if not ok:
        raise ConfigurationError(f"{name} must be {allowed}, not {value!r}")


class Retry(msgspec.Struct, frozen=True):
    """When and how often a failed attempt is tried again.

    The n-th retry waits `delay_s * factor ** (n - 1)` seconds, at most `delay_max_s`, then up to
    `jitter` of that is taken off at random, so that jobs that failed together do not return
    together. A timeout counts as `TimeoutError`. Crashes have a budget of their own.
    """

    max_attempts: int = 3
    delay_s: float = 1.0
    factor: float = 2.0
    delay_max_s: float = 600.0
    jitter: float = 0.25
    only_for: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        _require(self.max_attempts >= 1, "Retry.max_attempts", "at least 1", self.max_attempts)
        _require(0 <= self.delay_s < 1e9, "Retry.delay_s", "seconds, 0 or more", self.delay_s)
        _require(1 <= self.factor < 1e6, "Retry.factor", "at least 1", self.factor)
        _require(0 <= self.delay_max_s < 1e9, "Retry.delay_max_s", "0 or more", self.delay_max_s)
        _require(0 <= self.jitter <= 1, "Retry.jitter", "between 0 and 1", self.jitter)
        _require(isinstance(self.only_for, tuple), "Retry.only_for", "a tuple", self.only_for)
        for kind in self.only_for:
            is_exception = isinstance(kind, type) and issubclass(kind, BaseException)
            _require(is_exception, "Retry.only_for", "exception classes", kind)

    def admits(self, error: BaseException) -> bool:
        """Whether `error` is of a kind that is tried again."""
        if isinstance(error, RemoteFailure):
            names = {qualified_name(kind) for kind in self.only_for}
            return not names.isdisjoint(error.lineage)
        return isinstance(error, self.only_for)

    def wait_s(self, attempt: int) -> float:
        """Seconds to wait after the failed `attempt` (1 for the first)."""
        try:
            full_s = min(self.delay_max_s, self.delay_s * self.factor ** (attempt - 1))
        except OverflowError:
            full_s = self.delay_max_s
        return full_s * (1.0 - self.jitter * random.random())


NO_RETRY = Retry(max_attempts=1)


class Limit(msgspec.Struct, frozen=True):
    """At most `concurrency` attempts at a time, and `rate` starts in `per_s` seconds."""

    concurrency: int | None = None
    rate: int | None = None
    per_s: float = 1.0

    def __post_init__(self) -> None:
        _require(
            self.concurrency is None or self.concurrency >= 1,
            "Limit.concurrency",
            "at least 1",
            self.concurrency,
        )
        _require(self.rate is None or self.rate >= 1, "Limit.rate", "at least 1", self.rate)
        _require(0 < self.per_s < 1e9, "Limit.per_s", "seconds above 0", self.per_s)
        _require(
            self.concurrency is not None or self.rate is not None,
            "Limit",
            "given a concurrency, a rate or both",
            self,
        )


class TaskPolicy(msgspec.Struct, frozen=True):
    """How a task's jobs are run. None means: the runtime's default.

    queue         the line its jobs wait in
    timeout_s     the longest an attempt may run
    run_in        `loop` (async functions), `thread` (sync functions) or `process`
    result_ttl_s  how long an ended job is kept
    on_crash      a job whose process died is tried again (`retry`), at most three times, or failed
    limit         for all jobs of the task together
    per_key       for the jobs of the task that share a key (`runtime.options(key=...)`)
    domain        the operations dialect serves the task at `POST /{domain}/start`
    """

    name: str | None = None
    queue: str | None = None
    priority: Priority = Priority.NORMAL
    timeout_s: float | None = None
    retry: Retry | None = None
    run_in: RunIn | None = None
    result_ttl_s: float | None = None
    on_crash: OnCrash = "retry"
    limit: Limit | None = None
    per_key: Limit | None = None
    domain: str | None = None


class JobOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one job overrides of its task's policy, and what only a job can have.

    UNSET means: as the task says. `expires_at` is Unix seconds: a job that has not started by then
    fails as `expired`. `label` is free text shown back to whoever asks; `key` names whose limits
    count; `unique_key` is what no second job may have (see `Runtime.options`). The job is held
    until those with the ids in `after` have completed; `takes_results` puts the first one's result,
    or a list of all, before its own arguments. `sent` is the call as JSON text, for a door that
    shows it as it came where the arguments do not tell.
    """

    timeout_s: float | msgspec.UnsetType | None = msgspec.UNSET
    retry: Retry | msgspec.UnsetType | None = msgspec.UNSET
    result_ttl_s: float | msgspec.UnsetType = msgspec.UNSET
    expires_at: float | None = None
    label: str | None = None
    key: str | None = None
    unique_key: str | None = None
    after: tuple[str, ...] = ()
    takes_results: Literal["one", "all"] | None = None
    sent: str | None = None


@overload
def task(fn: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def task(
    *,
    name: str | None = None,
    queue: str | None = None,
    priority: Priority = Priority.NORMAL,
    timeout_s: float | None = None,
    retry: Retry | None = None,
    run_in: RunIn | None = None,
    result_ttl_s: float | None = None,
    on_crash: OnCrash = "retry",
    limit: Limit | None = None,
    per_key: Limit | None = None,
    domain: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def task(fn: Callable[P, R] | None = None, /, **policy: Any) -> Any:
    """Mark a function as a task and say how its jobs run; see `TaskPolicy` for the meanings.

    The function itself is returned, unwrapped: calling it still just calls it. Raises
    ConfigurationError for a value out of range, and for a callable that cannot carry a mark.
    """
    is_function = fn is None or callable(fn) or isinstance(fn, classmethod)
    _require(is_function, "@task's first argument", "a function", fn)
    checked = TaskPolicy(**policy)
    _check_policy(checked)

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        inner = function.__func__ if isinstance(function, staticmethod | classmethod) else function
        try:
            setattr(inner, _POLICY_ATTRIBUTE, checked)
        except (AttributeError, TypeError):
            raise ConfigurationError(
                f"{function!r} cannot be marked as a task; mark a method where its class defines "
                "it, and call a built-in function from one of your own"
            ) from None
        return function

    return mark(fn) if fn is not None else mark


def policy_of(found: object) -> TaskPolicy | None:
    """The policy that `@task` left on a function; None for anything that is not marked."""
    policy = getattr(found, _POLICY_ATTRIBUTE, None)
    return policy if isinstance(policy, TaskPolicy) else None


def name_of(task: Callable[..., Any] | str) -> str:
    """The name a task is registered under where nobody gives it another."""
    if isinstance(task, str):
        return task
    function = _unwrapped(task)
    policy = policy_of(task) or policy_of(function)
    name = None if policy is None else policy.name
    return name or str(getattr(function, "__name__", type(function).__name__))


def _unwrapped(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn.func if isinstance(fn, functools.partial) else fn


class TaskDefinition:
    """A task as one runtime has it: function, signature, and policy with the defaults filled in.

    `fn` is None for a task that stored jobs name but this process does not have: such jobs are
    kept, visible and parked.
    """

    __slots__ = (
        "domain",
        "executor",
        "fn",
        "is_async",
        "is_bare",
        "limit",
        "max_attempts",
        "name",
        "needs_context",
        "on_crash",
        "per_key",
        "priority",
        "queue",
        "result_ttl_s",
        "retry",
        "run_in",
        "signature",
        "tally",
        "timeout_s",
    )

    def __init__(
        self,
        fn: Callable[..., Any] | None,
        policy: TaskPolicy,
        *,
        name: str,
        queue: str = "default",
        timeout_s: float | None = None,
        context_type: type | None = None,
    ) -> None:
        self.fn = fn
        self.name = name
        self.queue = policy.queue or queue
        self.priority = int(policy.priority)
        self.timeout_s = policy.timeout_s if policy.timeout_s is not None else timeout_s
        self.retry = policy.retry or NO_RETRY
        self.max_attempts = self.retry.max_attempts
        self.result_ttl_s = policy.result_ttl_s
        self.on_crash = policy.on_crash
        self.limit = policy.limit
        self.per_key = policy.per_key
        self.domain = policy.domain
        self.is_async = fn is not None and _is_async(fn)
        self.run_in: RunIn = policy.run_in or ("loop" if self.is_async else "thread")
        self.signature = Signature(fn if fn is not None else _parked, context_type)
        self.needs_context = self.signature.context_name is not None
        self.is_bare = False  # set by the assembly: awaiting the function is all there is to do
        self.executor: Any = None  # set once by the assembly: looked up here, not per job
        self.tally = Tally()

    def __repr__(self) -> str:
        return f"<task {self.name} in {self.run_in}>"

    @property
    def is_parked(self) -> bool:
        return self.fn is None

    def call(self, context: object, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        """Call the function, with the context where it asks for one."""
        fn = self.fn
        assert fn is not None, "a parked task is never started"
        if self.signature.context_name is not None:
            args, kwargs = self.signature.with_context(context, args, kwargs)
        return fn(*args, **kwargs) if kwargs else fn(*args)


def define(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    queue: str = "default",
    timeout_s: float | None = None,
    context_type: type | None = None,
    any_name: bool = False,
) -> TaskDefinition:
    """A definition of `fn`, marked with `@task` or plain; `any_name`: the name need not match
    TASK_NAME_PATTERN. Raises ConfigurationError."""
    if not callable(fn):
        raise ConfigurationError(f"a task must be a function, not {fn!r}")
    target = _unwrapped(fn)
    policy = policy_of(fn) or policy_of(target) or TaskPolicy()
    name = name or name_of(fn)
    if not any_name and not re.fullmatch(TASK_NAME_PATTERN, name):
        raise ConfigurationError(
            f"task name {name!r} must match {TASK_NAME_PATTERN}; pass name=..."
        )
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        raise ConfigurationError(f"task {name!r} is a generator function; a task returns once")
    try:
        definition = TaskDefinition(
            fn, policy, name=name, queue=queue, timeout_s=timeout_s, context_type=context_type
        )
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"task {name!r} has no usable signature: {error}") from error
    if definition.run_in == "loop" and not definition.is_async:
        raise ConfigurationError(
            f"task {name!r} is a sync function and would block the event loop; "
            "make it async or run it in a thread or process"
        )
    if definition.run_in == "thread" and definition.is_async:
        raise ConfigurationError(f"task {name!r} is async: run it in the loop or a process")
    return definition


def qualified_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_async(fn: Callable[..., Any]) -> bool:
    target = _unwrapped(fn)
    if inspect.iscoroutinefunction(target):
        return True
    return inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004


def _parked(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a parked task has no function and is never started")


def _check_policy(policy: TaskPolicy) -> None:
    for name in ("timeout_s", "result_ttl_s"):
        value = getattr(policy, name)
        _require(value is None or isinstance(value, int | float), name, "seconds", value)
    if policy.timeout_s is not None:
        _require(0 < policy.timeout_s < 1e9, "timeout_s", "seconds above 0", policy.timeout_s)
    if policy.result_ttl_s is not None:
        _require(0 <= policy.result_ttl_s < 1e10, "result_ttl_s", "0 or more", policy.result_ttl_s)
    _require(
        policy.run_in in (None, "loop", "thread", "process"),
        "run_in",
        "loop, thread or process",
        policy.run_in,
    )
    _require(policy.on_crash in ("retry", "fail"), "on_crash", "retry or fail", policy.on_crash)
    is_retry = policy.retry is None or isinstance(policy.retry, Retry)
    _require(is_retry, "retry", "a Retry", policy.retry)
    for name, pattern in (("name", TASK_NAME_PATTERN), ("queue", JOB_ID_PATTERN)):
        word = getattr(policy, name)
        fits = word is None or (isinstance(word, str) and re.fullmatch(pattern, word))
        _require(bool(fits), name, f"text that matches {pattern}", word)
    if not isinstance(policy.priority, Priority):
        raise ConfigurationError(no_priority(policy.priority))
