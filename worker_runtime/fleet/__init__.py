"""Many workers as one: a front to mount in a backend."""

from worker_runtime.fleet.front import Fleet, FleetError, FleetSettings
from worker_runtime.fleet.routes import mount

__all__ = ["Fleet", "FleetError", "FleetSettings", "mount"]
