"""Many workers as one: a front to mount in a backend."""

from worker_runtime.contracts.registration import CompletedOperation
from worker_runtime.fleet.front import Fleet, FleetError, FleetSettings
from worker_runtime.fleet.routes import mount

__all__ = ["CompletedOperation", "Fleet", "FleetError", "FleetSettings", "mount"]
