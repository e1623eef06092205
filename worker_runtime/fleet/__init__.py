"""Many workers as one: a front to mount in a backend.

It is the other end of the operations dialect: its routes, its registry's records and its figures
(checks, failures, removal) are those of KTRDR's backend, read from
`docs/developer/distributed-workers-guide.md` and `ktrdr/api` (kpiteira/ktrdr on GitHub). The health
of sandbox and Vera workers is read too.
"""

from worker_runtime.contracts.registration import CompletedOperation
from worker_runtime.fleet.front import Fleet, FleetError, FleetSettings
from worker_runtime.fleet.routes import mount

__all__ = ["CompletedOperation", "Fleet", "FleetError", "FleetSettings", "mount"]
