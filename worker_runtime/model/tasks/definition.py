"""Tasks: registered functions and the policy each runs under."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from worker_runtime.errors import ConfigurationError
from worker_runtime.model.states import Priority
from worker_runtime.model.tasks.policy import (
    NO_RETRY,
    TASK_NAME_PATTERN,
    Limit,
    OnCrash,
    Retry,
    RunIn,
    TaskPolicy,
    check_policy,
    require,
)
from worker_runtime.model.tasks.signature import Signature
from worker_runtime.model.tasks.tally import Tally

P = ParamSpec("P")
R = TypeVar("R")


_POLICY_ATTRIBUTE = "__worker_runtime_task__"


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
    require(is_function, "@task's first argument", "a function", fn)
    checked = TaskPolicy(**policy)
    check_policy(checked)

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
        "is_cancellable",
        "is_limited",
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
        "takes_mutable",
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
        self.is_limited = policy.limit is not None or policy.per_key is not None
        self.domain = policy.domain
        self.is_async = fn is not None and _is_async(fn)
        self.run_in: RunIn = policy.run_in or ("loop" if self.is_async else "thread")
        self.signature = Signature(fn if fn is not None else _parked, context_type)
        self.takes_mutable = self.signature.takes_mutable
        self.needs_context = self.signature.context_name is not None
        # In a child: by its context's flag, or as a coroutine, also one behind a sync decorator.
        self.is_cancellable = self.needs_context or (fn is not None and _is_async(_innermost(fn)))
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
        what = "behind a sync decorator" if _is_async(_innermost(fn)) else "a sync function"
        raise ConfigurationError(
            f"task {name!r} is {what} and would block the event loop; "
            "make it async or run it in a thread or process"
        )
    if definition.run_in == "thread" and definition.is_async:
        raise ConfigurationError(f"task {name!r} is async: run it in the loop or a process")
    return definition


def _innermost(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind partials and decorators, as far as these say what they wrap."""
    try:
        return _unwrapped(inspect.unwrap(_unwrapped(fn)))
    except ValueError:  # it wraps itself
        return fn


def _is_async(fn: Callable[..., Any]) -> bool:
    target = _unwrapped(fn)
    if inspect.iscoroutinefunction(target):
        return True
    return inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004


def _parked(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a parked task has no function and is never started")
