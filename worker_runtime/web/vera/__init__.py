"""The contract of a node of Vera's orchestrator.

Read from Vera-AI (BoeJaker/Vera-AI on GitHub, at commit c824ac0): its guide for workers,
`Orchestration/worker/README.md`, has tasks, health, metrics and log lines, which no code there has
ever served. The other doors are those that two clients in its history ask for: `/execute` and
`/capabilities` in `BackgroundCognition/orchestrator/workers/remote_worker.py`, `/submit` and
`/heartbeat` in `BackgroundCognition/proactive_background_focus.py` (`ClusterWorkerPool`).
"""
