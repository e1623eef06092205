"""Settings: one frozen struct, read once, each wrong value refused with the variable's name.

Every field that the environment can set names its variables in its own annotation, so that this
table is the only place where a variable, its range and its default meet.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from worker_runtime.errors import ConfigurationError
from worker_runtime.model.tasks.policy import Limit

Dialect = Literal["sandbox", "vera", "operations"]
DIALECTS: tuple[Dialect, ...] = typing.get_args(Dialect)

# How a name begins that was made up for a worker of which no type is known.
UNTYPED_NAME = re.compile(r"^worker-worker-(?=[0-9a-f]{8}$)")

# Where a backend has its API; its address may be given with or without.
API_PREFIX = "/api/v1"

_DEFAULT_PORT = {"sandbox": 8080, "vera": 5000, "operations": 5003}

_LINE = r"^[^\x00-\x1f\x7f]+$"
_URL = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s/]+(/\S*)?$"
_IN_WORDS = {_LINE: "a line of text", _URL: "an http:// or https:// URL"}


def _env(*names: str, **limits: Any) -> msgspec.Meta:
    """Variables that set a field, preferred name first, and the limits of its value."""
    return msgspec.Meta(extra={"env": names}, **limits)


class QueueSettings(msgspec.Struct, frozen=True):
    """One named queue. None means: as the runtime's settings say.

    concurrency  attempts that run at a time
    capacity     jobs that may wait, scheduled ones included
    limit        a rate for the queue as a whole
    per_key      for the jobs in the queue that share a key
    aging_s      a waiting job rises one priority for each `aging_s` seconds; None: strict for ever
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None
    capacity: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] | None = None
    aging_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    limit: Limit | None = None
    per_key: Limit | None = None


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The children that run process tasks. None means: no such limit.

    size_max                the most children; None: as many as there are cores
    size_min                children that are there even when nothing waits for one
    grace_s                 from the order to stop until SIGTERM
    term_grace_s            from SIGTERM until SIGKILL
    jobs_per_child_max      a child is replaced after so many jobs
    child_memory_bytes_max  a job that needs more fails as crashed; private memory is refused by the
                            kernel at this size (RLIMIT_DATA), resident memory is watched
    recycle_memory_bytes    a child that grew above this is replaced after its job
    idle_retire_s           a child above `size_min` ends after so long without work
    start_timeout_s         the longest that imports and the setup may take
    setup                   called once in each child, or `module:function`; what it returns (of a
                            context manager: what it yields) is `ctx.state` there
    preload                 import the tasks' modules once and fork; else once in each child
    """

    size_max: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    size_min: Annotated[int, msgspec.Meta(ge=0, le=256)] = 1
    grace_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 2.0
    term_grace_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    jobs_per_child_max: Annotated[int, msgspec.Meta(ge=1)] | None = None
    child_memory_bytes_max: Annotated[int, msgspec.Meta(ge=64 << 20)] | None = None
    recycle_memory_bytes: Annotated[int, msgspec.Meta(ge=16 << 20)] | None = None
    idle_retire_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    start_timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0
    setup: Any = None
    preload: bool = True


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be configured. Read with `Settings.from_environment()`."""

    # Who and where
    name: Annotated[
        str, _env("WORKER_NAME", "WORKER_ID", "KTRDR_WORKER_ID", pattern=_LINE, max_length=128)
    ] = "worker-1"
    color: Annotated[str, _env("WORKER_COLOR", pattern=_LINE, max_length=64)] = "#10b981"
    host: Annotated[str, _env("WORKER_HOST")] = "127.0.0.1"
    port: (
        Annotated[int, _env("PORT", "WORKER_PORT", "KTRDR_WORKER_PORT", ge=0, le=65535)] | None
    ) = None
    metrics_port: Annotated[int, _env("METRICS_PORT", ge=0, le=65535)] | None = None
    dialects: Annotated[tuple[Dialect, ...], _env("WORKER_DIALECTS")] = DIALECTS
    token: Annotated[str, _env("WORKER_TOKEN", min_length=1)] | None = None
    allow_anonymous: Annotated[bool, _env("WORKER_ALLOW_ANONYMOUS")] = False
    import_modules: Annotated[tuple[str, ...], _env("WORKER_IMPORT")] = ()

    # How much at a time
    concurrency: (
        Annotated[int, _env("MAX_CONCURRENT", "MAX_CONCURRENT_REQUESTS", ge=1, le=100_000)] | None
    ) = None
    queue_capacity: Annotated[int, _env("QUEUE_CAPACITY", "QUEUE_SIZE", ge=1, le=100_000_000)] = 100
    threads: Annotated[int, _env("MAX_WORKERS", ge=1, le=1000)] | None = None
    processes: Annotated[int, _env("WORKER_PROCESSES", ge=1, le=256)] | None = None
    process: ProcessSettings = ProcessSettings()
    queues: tuple[QueueSettings, ...] = ()

    # What is kept, and how long
    store: Annotated[str, _env("WORKER_STORE")] = "memory://"
    history_count_max: Annotated[int, _env("WORKER_HISTORY_COUNT", ge=0)] = 10_000
    history_ttl_s: Annotated[float, _env("WORKER_HISTORY_TTL", ge=0)] = 86_400.0

    # Limits
    task_timeout_s: Annotated[float, _env("TASK_TIMEOUT", gt=0, le=1e9)] | None = None
    cancel_grace_s: Annotated[float, _env("WORKER_CANCEL_GRACE", ge=0, le=3600)] = 3.0
    stop_within_s: Annotated[float, _env("WORKER_STOP_WITHIN", ge=0, le=3600)] = 25.0
    abandoned_max: Annotated[int, _env("WORKER_ABANDONED_MAX", ge=0, le=10_000)] = 10
    payload_bytes_max: Annotated[int, _env("WORKER_PAYLOAD_BYTES", ge=1)] = 1 << 20
    result_bytes_max: Annotated[int, _env("WORKER_RESULT_BYTES", ge=1)] = 1 << 20
    error_bytes_max: Annotated[int, msgspec.Meta(ge=64)] = 8192
    waiters_max: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    crashes_max: Annotated[int, msgspec.Meta(ge=1)] = 3
    loop_lag_warn_s: Annotated[float, _env("WORKER_LOOP_LAG_WARN", gt=0, le=3600)] = 0.5
    max_cpu_percent: Annotated[float, _env("MAX_CPU_PERCENT", gt=0, le=100)] | None = None
    max_memory_percent: Annotated[float, _env("MAX_MEMORY_PERCENT", gt=0, le=100)] | None = None
    health_check_interval_s: Annotated[float, _env("HEALTH_CHECK_INTERVAL", gt=0, le=3600)] = 30.0
    backend_check_interval_s: Annotated[float, _env("WORKER_BACKEND_CHECK", gt=0, le=3600)] = 10.0

    # Logs
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        _env("LOG_LEVEL", "KTRDR_LOG_LEVEL"),
    ] = "INFO"
    log_format: Annotated[Literal["text", "json"], _env("LOG_FORMAT")] = "text"

    # The sandbox's simulated task
    response_delay_ms: Annotated[int, _env("RESPONSE_DELAY_MS", ge=0, le=3_600_000)] = 100
    failure_rate: Annotated[float, _env("FAILURE_RATE", ge=0, le=1)] = 0.0

    # The fleet this worker joins
    worker_type: Annotated[str, _env("WORKER_TYPE", "KTRDR_WORKER_TYPE")] | None = None
    backend_url: (
        Annotated[
            str,
            _env(
                "WORKER_BACKEND_URL",
                "KTRDR_API_CLIENT_BASE_URL",
                "KTRDR_API_URL",
                pattern=_URL,
            ),
        ]
        | None
    ) = None
    public_url: (
        Annotated[
            str,
            _env(
                "WORKER_PUBLIC_URL",
                "KTRDR_WORKER_PUBLIC_BASE_URL",
                "WORKER_PUBLIC_BASE_URL",
                "KTRDR_WORKER_ENDPOINT_URL",
                "WORKER_ENDPOINT_URL",
                pattern=_URL,
            ),
        ]
        | None
    ) = None

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, **explicit: Any
    ) -> Settings:
        """Settings from `environ` (the process's own by default); `explicit` values that are not
        None win over it. Raises ConfigurationError, naming the variable or the argument."""
        source = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for field, hint in typing.get_type_hints(cls, include_extras=True).items():
            if explicit.get(field) is None:
                found = _read(source, variables_of(hint), hint)
                if found is not None:
                    values[field] = found
        if "backend_url" in values or explicit.get("backend_url") is not None:
            values.setdefault("name", _fleet_name(values))
        explicit = {k: v for k, v in explicit.items() if v is not None}
        return checked(cls(**values), **explicit)

    @property
    def listen_port(self) -> int:
        """The port to listen on: as set, else the first dialect's own."""
        if self.port is not None:
            return self.port
        return _DEFAULT_PORT[self.dialects[0]] if self.dialects else 8080

    @property
    def is_vera_first(self) -> bool:
        """Whether Vera's guide decides what nobody has set."""
        return self.dialects[:1] == ("vera",)

    @property
    def default_concurrency(self) -> int:
        """`concurrency`; where that is not given, the number of threads that was; else 10, or what
        Vera's guide says where vera is the first dialect."""
        return self.concurrency or self.threads or (4 if self.is_vera_first else 10)

    @property
    def default_task_timeout_s(self) -> float | None:
        """`task_timeout_s`; where that is not given, what Vera's guide says or no limit."""
        if self.task_timeout_s is None and self.is_vera_first:
            return 300.0
        return self.task_timeout_s

    @property
    def default_threads(self) -> int:
        """`threads`; where that is not given, one for each attempt at a time."""
        return self.threads or self.default_concurrency

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        try:
            found = socket.getaddrinfo(self.host or "0.0.0.0", None)
        except OSError:
            return False
        return all(str(a[4][0]).startswith("127.") or a[4][0] == "::1" for a in found)


def base_url(backend_url: str) -> str:
    """The backend's address without a trailing slash and without the API's own prefix."""
    return backend_url.rstrip("/").removesuffix(API_PREFIX).rstrip("/")


def _fleet_name(values: Mapping[str, Any]) -> str:
    """A name for a worker that was given none: a backend keeps its workers by name, so that two
    with one default name would count as one."""
    return f"{values.get('worker_type') or 'worker'}-worker-{secrets.token_hex(4)}"


def checked(settings: Settings, **changes: Any) -> Settings:
    """`settings` with `changes` applied and every limit checked. Raises ConfigurationError."""
    unknown = changes.keys() - set(Settings.__struct_fields__)
    if unknown:
        known = ", ".join(Settings.__struct_fields__)
        raise ConfigurationError(f"unknown setting {sorted(unknown)[0]!r}; there are {known}")
    if "queues" in changes:
        changes["queues"] = tuple(changes["queues"])
        for queue in changes["queues"]:
            if not isinstance(queue, QueueSettings):
                raise ConfigurationError(f"queues must be QueueSettings, not {queue!r:.200}")
    raw = {**msgspec.structs.asdict(settings), **changes}
    raw["queues"] = [msgspec.structs.asdict(q) for q in raw["queues"]]
    for field, hint in typing.get_type_hints(Settings, include_extras=True).items():
        try:
            raw[field] = msgspec.convert(raw[field], hint)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{field}: {error}") from None
    names = [q.name for q in raw["queues"]]
    if len(set(names)) != len(names):
        raise ConfigurationError(f"queues: two have one name; the names are {', '.join(names)}")
    if len(set(raw["dialects"])) != len(raw["dialects"]):
        raise ConfigurationError(f"dialects: one is named twice in {','.join(raw['dialects'])}")
    return Settings(**raw)


def variables_of(hint: Any) -> tuple[str, ...]:
    """The environment variables named in the annotation of a field of Settings, wherever in it they
    stand; none for a field that only code sets."""
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, msgspec.Meta) and part.extra and "env" in part.extra:
            return tuple(part.extra["env"])
    for argument in typing.get_args(hint):
        names = variables_of(argument)
        if names:
            return names
    return ()


def _read(source: Mapping[str, str], names: tuple[str, ...], hint: Any) -> Any:
    """The one value that `names` agree on, parsed; None where none of them is set."""
    given = {name: source[name].strip() for name in names if source.get(name, "").strip()}
    parsed = {name: _parse(name, text, hint) for name, text in given.items()}
    if len({_meaning(value) for value in parsed.values()}) > 1:
        listing = ", ".join(f"{name}={given[name]!r}" for name in given)
        raise ConfigurationError(f"{' and '.join(given)} disagree: {listing}; set only one of them")
    return next(iter(parsed.values()), None)


def _meaning(value: Any) -> str:
    """The same for two values that differ in no more than how a URL is written."""
    return base_url(value) if isinstance(value, str) and "://" in value else repr(value)


def _parse(name: str, text: str, hint: Any) -> Any:
    value: Any = text
    if "tuple" in repr(hint):
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif name == "LOG_LEVEL" or name == "KTRDR_LOG_LEVEL":
        value = {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(text.upper(), text.upper())
    elif text.lower() in ("yes", "on", "no", "off") and "bool" in repr(hint):
        value = text.lower() in ("yes", "on")
    if isinstance(value, list) and len(set(value)) < len(value):
        raise ConfigurationError(f"{name}={text[:80]!r}: one is named twice")
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError:
        raise ConfigurationError(f"{name}={text[:80]!r}: must be {_expected(hint)}") from None


def _expected(hint: Any) -> str:
    """What a field's annotation takes, in words: an environment has nothing but text, so that the
    decoder's own `Expected int, got str` would help nobody."""
    kind = msgspec.inspect.type_info(hint)
    while isinstance(kind, msgspec.inspect.UnionType | msgspec.inspect.Metadata):
        kind = kind.types[0] if isinstance(kind, msgspec.inspect.UnionType) else kind.type
    if words := _words(hint):
        several = isinstance(kind, msgspec.inspect.VarTupleType)
        return f"{'some' if several else 'one'} of {', '.join(words)}"
    if isinstance(kind, msgspec.inspect.BoolType):
        return "yes or no"
    if isinstance(kind, msgspec.inspect.StrType):
        most = f" of at most {kind.max_length} characters" if kind.max_length else ""
        return f"{_IN_WORDS.get(kind.pattern or '', 'text')}{most}"
    whole = "whole " if isinstance(kind, msgspec.inspect.IntType) else ""
    limits = (("above", "gt"), ("at least", "ge"), ("at most", "le"))
    bounds = [
        f"{word} {limit:.12g}"
        for word, name in limits
        if (limit := getattr(kind, name, None)) is not None
    ]
    return f"a {whole}number, {' and '.join(bounds)}"


def _words(hint: Any) -> tuple[str, ...]:
    """The words a Literal somewhere in `hint` allows."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return next((w for a in typing.get_args(hint) if (w := _words(a))), ())
