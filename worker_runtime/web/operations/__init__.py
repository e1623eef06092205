"""The contract of a worker that a KTRDR backend dispatches operations to.

Read from KTRDR (kpiteira/ktrdr on GitHub, at commit 2c5c717): its guide for those who write workers
(`docs/developer/distributed-workers-guide.md`), the base class of its own workers
(`ktrdr/workers/base.py`), and the backend that reads the answers (`ktrdr/api/models`, `endpoints`
and `services`). Where guide and code disagree, answers carry what both want and both are accepted.
"""
