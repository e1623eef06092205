"""Settings: one frozen struct, read once, each wrong value refused with the variable's name.

Every field that the environment can set names its variables in its own annotation, so that this
table is the only place where a variable, its range and its default meet.
"""

from __future__ import annotations

import os
import socket
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from worker_runtime.contracts.domains import base_url, made_up_name
from worker_runtime.contracts.guides import GUIDES, Dialect, guide_of
from worker_runtime.contracts.origins import ORIGIN_PATTERN
from worker_runtime.environment import env, read_field, secrets_of
from worker_runtime.errors import ConfigurationError
from worker_runtime.model.states import JOB_ID_PATTERN
from worker_runtime.model.tasks.policy import Limit


def _line(*names: str, **limits: Any) -> msgspec.Meta:
    """Variables that hold a line of text. Bytes in them that are no UTF-8 arrive as surrogates."""
    pattern = r"^[^\x00-\x1f\x7f\ud800-\udfff]+$"
    return env(*names, in_words="a line of text", pattern=pattern, **limits)


def _url(*names: str) -> msgspec.Meta:
    """Variables that hold a URL, which with and without the API's prefix is the same one."""
    pattern = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s/\ud800-\udfff]+(/[^\s\ud800-\udfff]*)?$"
    return env(*names, in_words="an http:// or https:// URL", meaning=base_url, pattern=pattern)


def _log_level(text: str) -> str:
    """The level in the letters and the word that `logging` has for it."""
    return {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(text.upper(), text.upper())


_IPV6 = r"\[?[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]?"
_HostName = Annotated[str, msgspec.Meta(pattern=rf"^([A-Za-z0-9._-]+|{_IPV6})$")]
_HOSTS_IN_WORDS = "names or addresses without ports, separated by commas"
_Origin = Annotated[str, msgspec.Meta(pattern=ORIGIN_PATTERN)]
_ORIGINS_IN_WORDS = "origins such as https://ui.example:8443, separated by commas"


class QueueSettings(msgspec.Struct, frozen=True):
    """One named queue. None means: as the runtime's settings say.

    concurrency  attempts that run at a time
    capacity     jobs that may wait, scheduled ones included
    limit        a rate for the queue as a whole
    per_key      for the jobs in the queue that share a key
    aging_s      a waiting job rises one priority for each `aging_s` seconds; None: strict for ever
    """

    name: Annotated[str, msgspec.Meta(pattern=f"^{JOB_ID_PATTERN}$")]
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
    name: Annotated[str, _line("WORKER_NAME", "WORKER_ID", "KTRDR_WORKER_ID", max_length=128)] = (
        "worker-1"
    )
    color: Annotated[str, _line("WORKER_COLOR", max_length=64)] = "#10b981"
    host: Annotated[str, env("WORKER_HOST")] = "127.0.0.1"
    port: Annotated[int, env("PORT", "WORKER_PORT", "KTRDR_WORKER_PORT", ge=0, le=65535)] | None = (
        None
    )
    metrics_port: Annotated[int, env("METRICS_PORT", ge=0, le=65535)] | None = None
    dialects: Annotated[tuple[Dialect, ...], env("WORKER_DIALECTS")] = tuple(GUIDES)
    token: Annotated[str, env("WORKER_TOKEN", is_secret=True, min_length=1)] | None = None
    allow_anonymous: Annotated[bool, env("WORKER_ALLOW_ANONYMOUS")] = False
    hosts: Annotated[tuple[_HostName, ...], env("WORKER_HOSTS", in_words=_HOSTS_IN_WORDS)] = ()
    cors_origins: Annotated[
        tuple[_Origin, ...], env("WORKER_CORS_ORIGINS", in_words=_ORIGINS_IN_WORDS)
    ] = ()
    import_modules: Annotated[tuple[str, ...], env("WORKER_IMPORT")] = ()

    # How much at a time
    concurrency: (
        Annotated[int, env("MAX_CONCURRENT", "MAX_CONCURRENT_REQUESTS", ge=1, le=100_000)] | None
    ) = None
    queue_capacity: Annotated[int, env("QUEUE_CAPACITY", "QUEUE_SIZE", ge=1, le=100_000_000)] = 100
    threads: Annotated[int, env("MAX_WORKERS", ge=1, le=1000)] | None = None
    processes: Annotated[int, env("WORKER_PROCESSES", ge=1, le=256)] | None = None
    process: ProcessSettings = ProcessSettings()
    queues: tuple[QueueSettings, ...] = ()

    # What is kept, and how long
    store: Annotated[str, env("WORKER_STORE", is_secret=True)] = "memory://"
    history_count_max: Annotated[int, env("WORKER_HISTORY_COUNT", ge=0)] = 10_000
    history_ttl_s: Annotated[float, env("WORKER_HISTORY_TTL", ge=0)] = 86_400.0

    # Limits
    task_timeout_s: Annotated[float, env("TASK_TIMEOUT", gt=0, le=1e9)] | None = None
    cancel_grace_s: Annotated[float, env("WORKER_CANCEL_GRACE", ge=0, le=3600)] = 3.0
    stop_within_s: Annotated[float, env("WORKER_STOP_WITHIN", ge=0, le=3600)] = 25.0
    abandoned_max: Annotated[int, env("WORKER_ABANDONED_MAX", ge=0, le=10_000)] = 10
    payload_bytes_max: Annotated[int, env("WORKER_PAYLOAD_BYTES", ge=1)] = 1 << 20
    result_bytes_max: Annotated[int, env("WORKER_RESULT_BYTES", ge=1)] = 1 << 20
    error_bytes_max: Annotated[int, msgspec.Meta(ge=64)] = 8192
    waiters_max: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    crashes_max: Annotated[int, msgspec.Meta(ge=1)] = 3
    loop_lag_warn_s: Annotated[float, env("WORKER_LOOP_LAG_WARN", gt=0, le=3600)] = 0.5
    max_cpu_percent: Annotated[float, env("MAX_CPU_PERCENT", gt=0, le=100)] | None = None
    max_memory_percent: Annotated[float, env("MAX_MEMORY_PERCENT", gt=0, le=100)] | None = None
    health_check_interval_s: Annotated[float, env("HEALTH_CHECK_INTERVAL", gt=0, le=3600)] = 30.0
    backend_check_interval_s: Annotated[float, env("WORKER_BACKEND_CHECK", gt=0, le=3600)] = 10.0

    # Logs
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        env("LOG_LEVEL", "KTRDR_LOG_LEVEL", spelled=_log_level),
    ] = "INFO"
    log_format: Annotated[Literal["text", "json"], env("LOG_FORMAT")] = "text"

    # The built-in task that simulates work
    response_delay_ms: Annotated[int, env("RESPONSE_DELAY_MS", ge=0, le=3_600_000)] = 100
    failure_rate: Annotated[float, env("FAILURE_RATE", ge=0, le=1)] = 0.0

    # The fleet this worker joins
    worker_type: Annotated[str, env("WORKER_TYPE", "KTRDR_WORKER_TYPE")] | None = None
    backend_url: (
        Annotated[
            str,
            _url(
                "WORKER_BACKEND_URL",
                "KTRDR_API_CLIENT_BASE_URL",
                "KTRDR_API_URL",
            ),
        ]
        | None
    ) = None
    public_url: (
        Annotated[
            str,
            _url(
                "WORKER_PUBLIC_URL",
                "KTRDR_WORKER_PUBLIC_BASE_URL",
                "WORKER_PUBLIC_BASE_URL",
                "KTRDR_WORKER_ENDPOINT_URL",
                "WORKER_ENDPOINT_URL",
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
                found = read_field(source, hint)
                if found is not None:
                    values[field] = found
        if "backend_url" in values or explicit.get("backend_url") is not None:
            values.setdefault("name", made_up_name(values.get("worker_type")))
        explicit = {k: v for k, v in explicit.items() if v is not None}
        return checked(cls(**values), **explicit)

    @property
    def listen_port(self) -> int:
        """The port to listen on: as set, else the first dialect's own."""
        return guide_of(self.dialects).listen_port if self.port is None else self.port

    @property
    def default_concurrency(self) -> int:
        """`concurrency`; where that is not given, the number of threads that was; else what the
        first dialect's guide says."""
        return self.concurrency or self.threads or guide_of(self.dialects).concurrency

    @property
    def default_task_timeout_s(self) -> float | None:
        """`task_timeout_s`; where that is not given, what the first dialect's guide says. None: no
        limit."""
        if self.task_timeout_s is None:
            return guide_of(self.dialects).task_timeout_s
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


def secret_variables() -> frozenset[str]:
    """The environment variables that are nobody's business but this process's."""
    hints = typing.get_type_hints(Settings, include_extras=True).values()
    return frozenset(name for hint in hints for name in secrets_of(hint))


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
