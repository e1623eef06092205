"""Whatever is recorded, and however it falls into commits, the file holds the newest state."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from worker_runtime.stores.sqlite.batch import Batch
from worker_runtime.stores.sqlite.file.schema import MIGRATIONS
from worker_runtime.stores.sqlite.file.statements import write
from worker_runtime.stores.sqlite.rows import ALL, CHANGING, FIXED

PLACES = st.integers(1, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("absorb"), st.just(0)),
        st.tuples(st.sampled_from(["accept", "start", "again", "end", "revive"]), PLACES),
    ),
    max_size=80,
)


def changing(state: str, attempt: int, number: int) -> tuple[Any, ...]:
    ended_at = float(number) if state in ("completed", "failed") else None
    columns = dict.fromkeys(CHANGING) | {"state": state, "attempt": attempt, "ended_at": ended_at}
    return tuple((columns | {"crashes": 0, "due_at": 0.0, "result": b"%d" % number}).values())


def new(place: int) -> list[Any]:
    columns = dict.fromkeys(FIXED) | {"place": place, "id": f"id-{place}", "task": "t"}
    fixed = columns | {"queue": "q", "priority": 2, "created_at": 0.0, "payload": b""}
    return [*(fixed | {"must_encode": 0}).values(), *changing("queued", 0, 0)]


class Model:
    """What each job's newest recorded state is, told by applying the steps one by one.

    unshown  jobs with a change that is not committed: the finisher lets nothing happen to them
    """

    def __init__(self) -> None:
        self.jobs: dict[int, tuple[str, int, bytes]] = {}
        self.unshown: set[int] = set()

    def allows(self, step: str, place: int) -> bool:
        if place in self.unshown:
            return False
        state = self.jobs[place][0] if place in self.jobs else None
        return {
            "accept": state is None,
            "start": state == "queued",
            "again": state == "running",
            "end": state in ("queued", "running"),
            "revive": state in ("completed", "failed"),
        }[step]


def record(batch: Batch, model: Model, step: str, place: int, number: int) -> None:
    if step == "accept":
        batch.accept([new(place)], None)
        model.jobs[place] = ("queued", 0, b"0")
        return
    state, attempt, _ = model.jobs[place]
    if step == "start":
        batch.change(place, changing("running", attempt + 1, number))
        model.jobs[place] = ("running", attempt + 1, b"%d" % number)
        return
    state = {"again": "queued", "revive": "queued"}.get(step, ("completed", "failed")[number % 2])
    columns = changing(state, attempt, number)
    if step == "revive":
        batch.revive([*new(place)[: len(FIXED)], *columns])
    else:
        batch.change(place, columns)
        if step == "end":
            batch.ended["q", state == "failed"] += 1
    model.jobs[place] = (state, attempt, b"%d" % number)
    model.unshown.add(place)


@settings(max_examples=300)
@given(STEPS)
def test_the_file_holds_what_was_recorded_last(steps: list[tuple[str, int]]) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    MIGRATIONS[0](connection)
    model, batch, kept_back = Model(), Batch(), None
    ended: Counter[tuple[str, bool]] = Counter()

    def commit() -> None:
        nonlocal batch, kept_back
        if kept_back is not None:
            kept_back.absorb(batch)
            batch, kept_back = kept_back, None
        assert write(connection, batch) == set()
        ended.update(batch.ended)
        model.unshown.clear()
        batch = Batch()

    for number, (step, place) in enumerate(steps, start=1):
        if step == "commit":
            commit()
        elif step == "absorb":  # a full disk kept a batch back, and newer ones join it
            if kept_back is not None:
                kept_back.absorb(batch)
            else:
                kept_back = batch
            batch = Batch()
        elif model.allows(step, place):
            record(batch, model, step, place, number)
    commit()
    found = connection.execute("SELECT place, state, attempt, result FROM worker_jobs").fetchall()
    assert {row[0]: row[1:] for row in found} == model.jobs
    counted = Counter(
        {
            ("q", bool(failed)): count
            for failed, count in connection.execute(
                "SELECT state = 'failed', count(*) FROM worker_jobs "
                "WHERE ended_at IS NOT NULL GROUP BY 1"
            )
        }
    )
    connection.close()
    assert +ended == counted


def test_many_rows_need_few_statements(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    MIGRATIONS[0](connection)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    batch = Batch()
    batch.accept([new(place) for place in range(1, 1001)], None)
    write(connection, batch)
    batch = Batch()
    for place in range(1, 1001):
        batch.change(place, changing("completed", 1, place))
    write(connection, batch)
    connection.set_trace_callback(None)
    verbs = Counter(statement.split()[0] for statement in statements)
    assert verbs["INSERT"] == verbs["UPDATE"] == 4
    assert verbs["COMMIT"] == 2
    stored = connection.execute(f"SELECT {', '.join(ALL)} FROM worker_jobs WHERE place = 777")
    assert stored.fetchone() == (*new(777)[: len(FIXED)], *changing("completed", 1, 777))
    connection.close()
