"""`python -m worker_runtime` is the same as `worker-runtime`."""

from worker_runtime.cli.commands import main

if __name__ == "__main__":
    main(prog_name="worker-runtime")
