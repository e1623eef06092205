"""How a task's jobs are run. Checked when it is made."""

from __future__ import annotations

import math
import random
import re
from typing import Literal, TypeGuard

import msgspec

from worker_runtime.errors import ConfigurationError, RemoteFailure
from worker_runtime.model.bounded import leaves_of
from worker_runtime.model.states import JOB_ID_PATTERN, Priority, no_priority

RunIn = Literal["loop", "thread", "process"]


OnCrash = Literal["retry", "fail"]


TASK_NAME_PATTERN = r"[A-Za-z0-9._:<>-]{1,128}"  # `<` and `>`: qualified names of inner functions


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number to reckon with; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def require(ok: bool, name: str, allowed: str, value: object) -> None:
    if not ok:
        raise ConfigurationError(f"{name} must be {allowed}, not {value!r}")


# The most that a row of SQLite can count.
ATTEMPTS_MAX = (1 << 63) - 1

_RETRY_NUMBERS = (
    ("max_attempts", 1, math.inf, "at least 1"),
    ("delay_s", 0, 1e9, "seconds, 0 or more"),
    ("factor", 1, 1e6, "at least 1"),
    ("delay_max_s", 0, 1e9, "0 or more"),
    ("jitter", 0, 1, "between 0 and 1"),
)


class Retry(msgspec.Struct, frozen=True):
    """When and how often a failed attempt is tried again.

    The n-th retry waits `delay_s * factor ** (n - 1)` seconds, at most `delay_max_s`, then up to
    `jitter` of that is taken off at random, so that jobs that failed together do not return
    together. A timeout counts as `TimeoutError`. An ExceptionGroup, what a failed TaskGroup raises,
    is tried again where `only_for` names its own class or covers every exception in it. Crashes
    have a budget of their own.
    """

    max_attempts: int = 3
    delay_s: float = 1.0
    factor: float = 2.0
    delay_max_s: float = 600.0
    jitter: float = 0.25
    only_for: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        for name, least, most, allowed in _RETRY_NUMBERS:
            value = getattr(self, name)
            require(is_number(value) and least <= value <= most, f"Retry.{name}", allowed, value)
        is_whole = isinstance(self.max_attempts, int)
        require(is_whole, "Retry.max_attempts", "a whole number", self.max_attempts)
        can_be_kept = self.max_attempts <= ATTEMPTS_MAX
        require(can_be_kept, "Retry.max_attempts", f"at most {ATTEMPTS_MAX}", self.max_attempts)
        require(isinstance(self.only_for, tuple), "Retry.only_for", "a tuple", self.only_for)
        for kind in self.only_for:
            is_exception = isinstance(kind, type) and issubclass(kind, BaseException)
            require(is_exception, "Retry.only_for", "exception classes", kind)

    def admits(self, error: BaseException) -> bool:
        """Whether `error` is of a kind that is tried again; a group is where each leaf of it is, as
        one that is not would fail the next attempt too."""
        if isinstance(error, RemoteFailure):
            names = {qualified_name(kind) for kind in self.only_for}
            if not names.isdisjoint(error.lineage):
                return True
            return bool(error.leaves) and not any(map(names.isdisjoint, error.leaves))
        if isinstance(error, self.only_for):
            return True
        is_group = isinstance(error, BaseExceptionGroup)
        return is_group and all(isinstance(leaf, self.only_for) for leaf in leaves_of(error))

    def wait_s(self, attempt: int) -> float:
        """Seconds to wait after the failed `attempt` (1 for the first)."""
        try:
            full_s = min(self.delay_max_s, self.delay_s * self.factor ** (attempt - 1))
        except OverflowError:
            full_s = self.delay_max_s
        return full_s * (1.0 - self.jitter * random.random())


NO_RETRY = Retry(max_attempts=1)


class Limit(msgspec.Struct, frozen=True):
    """At most `concurrency` attempts at a time, and `rate` starts in any `per_s` seconds.

    `burst` of these may start at once, the others one each `per_s / rate` seconds; None: all of
    them. A start is the call of the function, not the wait for a thread or child before it.
    """

    concurrency: int | None = None
    rate: int | None = None
    per_s: float = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "rate", "burst"):
            value = getattr(self, name)
            is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            require(value is None or is_whole, f"Limit.{name}", "a whole number, 1 or more", value)
        require(0 < self.per_s < 1e9, "Limit.per_s", "seconds above 0", self.per_s)
        require(
            self.concurrency is not None or self.rate is not None,
            "Limit",
            "given a concurrency, a rate or both",
            self,
        )
        if self.burst is not None:
            fits = self.rate is not None and self.burst <= self.rate
            require(fits, "Limit.burst", f"at most the rate, {self.rate}", self.burst)


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


def qualified_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def check_policy(policy: TaskPolicy) -> None:
    for name in ("timeout_s", "result_ttl_s"):
        value = getattr(policy, name)
        require(value is None or isinstance(value, int | float), name, "seconds", value)
    if policy.timeout_s is not None:
        require(0 < policy.timeout_s < 1e9, "timeout_s", "seconds above 0", policy.timeout_s)
    if policy.result_ttl_s is not None:
        require(0 <= policy.result_ttl_s < 1e10, "result_ttl_s", "0 or more", policy.result_ttl_s)
    require(
        policy.run_in in (None, "loop", "thread", "process"),
        "run_in",
        "loop, thread or process",
        policy.run_in,
    )
    require(policy.on_crash in ("retry", "fail"), "on_crash", "retry or fail", policy.on_crash)
    is_retry = policy.retry is None or isinstance(policy.retry, Retry)
    require(is_retry, "retry", "a Retry", policy.retry)
    for name, pattern in (("name", TASK_NAME_PATTERN), ("queue", JOB_ID_PATTERN)):
        word = getattr(policy, name)
        fits = word is None or (isinstance(word, str) and re.fullmatch(pattern, word))
        require(bool(fits), name, f"text that matches {pattern}", word)
    if not isinstance(policy.priority, Priority):
        raise ConfigurationError(no_priority(policy.priority))
