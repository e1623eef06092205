"""arq's format: a job, a result and an end as the bytes that every worker of a fleet reads.

Read from arq 0.25 to 0.28, which agree: `arq/constants.py`, `arq/jobs.py` and `arq/worker.py`.
"""
