# One image for every worker: the package in a virtual environment, and nothing that built it.
#   docker build -t worker-runtime .
#   docker run --rm -p 8080:8080 worker-runtime
ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/worker
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY worker_runtime ./worker_runtime
RUN /opt/worker/bin/python -m pip install ".[redis]" \
    && /opt/worker/bin/python -m pip uninstall --yes pip


FROM python:${PYTHON_VERSION}-slim

LABEL org.opencontainers.image.title="worker-runtime" \
      org.opencontainers.image.description="An embeddable asyncio job runtime" \
      org.opencontainers.image.licenses="MIT"

# A number, so that an orchestrator can see that this is not root. Mount a volume at /data to keep
# jobs: WORKER_STORE=sqlite:////data/jobs.db
RUN groupadd --gid 10001 worker \
    && useradd --uid 10001 --gid worker --no-create-home --home-dir /tmp --shell /usr/sbin/nologin worker \
    && install --directory --owner=worker --group=worker /app /data
COPY --from=build /opt/worker /opt/worker

# Nothing is written outside /data and /tmp: the root file system may be read-only.
# Tasks of one's own: mount or copy modules into /app and name one as TARGET.
# A fleet reaches a worker from other machines and the contracts it speaks know no token, hence
# WORKER_ALLOW_ANONYMOUS; publish the port only to those who may run tasks, or set WORKER_TOKEN.
ENV PATH=/opt/worker/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    WORKER_HOST=0.0.0.0 \
    WORKER_ALLOW_ANONYMOUS=1

WORKDIR /app
USER 10001:10001
EXPOSE 8080

# SIGTERM starts draining: running jobs get WORKER_STOP_WITHIN seconds (25) before they are stopped.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["worker-runtime", "run", "--check"]

ENTRYPOINT ["worker-runtime"]
CMD ["run"]
