"""Jobs in Redis, in arq's layout."""

from worker_runtime.errors import ConfigurationError

try:
    import redis  # noqa: F401  # for what is below: each module imports what it needs of it
except ImportError as error:  # the extra is not installed
    raise ConfigurationError(
        "a Redis store needs the extra `redis`: pip install 'worker-runtime[redis]'"
    ) from error
