"""The contract of a worker behind the network sandbox's load balancer.

Read from the network sandbox, at commit 5671788: its guide for custom workers
(`workers/CUSTOM_WORKER_GUIDE.md`), and for what that leaves open its load balancer, the one client
there is (`load-balancer/main.go`), its own workers in Go, Rust and Python (`workers/`), its page
(`client/src/App.tsx`) and its dashboards (`grafana/`). It speaks the union of them; where two
disagree, the guide wins.
"""
