"""arq's format: a job, a result and an end as the bytes that every worker of a fleet reads."""
