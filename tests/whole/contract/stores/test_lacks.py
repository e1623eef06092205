"""What a store cannot do it says once, and refuses in those words through every door."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.support.fleet_worker import served
from tests.whole.contract.stores.places import LACKS, STORES, Place
from tests.whole.contract.stores.world import World
from worker_runtime.stores.boundary import Feature

KINDS = {kind.store.kind: kind for kind in STORES.values()}


@pytest.mark.parametrize("name", KINDS)
def test_the_table_is_what_the_stores_say(name: str) -> None:
    kind = KINDS[name]
    assert dict(kind.store.lacks) == {key[1]: text for key, text in LACKS.items() if key[0] == name}
    assert kind.store.hands_out is kind.shared


def test_the_table_knows_no_other_stores_and_features() -> None:
    features: tuple[Any, ...] = get_args(Feature)
    assert {store for store, _ in LACKS} <= KINDS.keys()
    assert {feature for _, feature in LACKS} <= set(features)


def test_each_feature_is_tried() -> None:
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    tried = {
        name
        for text in texts
        for name in re.findall(r'^@pytest.mark.needs\("(\w+)"\)$', text, re.M)
    }
    assert tried == set(get_args(Feature))


async def test_what_http_can_ask_for_is_refused_in_the_same_words(
    store: Place, world: World
) -> None:
    async with world.runtime(store) as runtime, served(runtime) as worker:
        done = await runtime.enqueue("note", 1)
        await done.result(timeout_s=20)
        asked: list[tuple[Feature, int, str, str, Any]] = [
            ("unique_key", 422, "POST", "/jobs", {"unique_key": "one"}),
            ("key", 422, "POST", "/jobs", {"key": "one"}),
            ("after", 422, "POST", "/jobs", {"after": [done.id]}),
            ("delete", 409, "DELETE", f"/jobs/{done.id}?purge=true", None),
            ("delete", 409, "DELETE", "/jobs?state=completed", None),
        ]
        for feature, status, method, path, more in asked:
            body = None if more is None else {"task": "note", "args": [2], **more}
            answer = await worker.ask(method, f"/v1{path}", body)
            sentence = store.kind.lacks(feature)
            if sentence is None:
                assert answer.status < 300, answer.text
            else:
                assert answer.status == status, answer.text
                assert sentence in answer.document["detail"]


async def test_a_batch_over_http_is_refused_what_is_lacking_and_no_more(
    store: Place, world: World
) -> None:
    async with world.runtime(store) as runtime, served(runtime) as worker:
        batch = [{"task": "note", "args": [1]}, {"task": "note", "args": [2], "unique_key": "one"}]
        plain, unique = (await worker.ask("POST", "/v1/jobs/batch", batch)).document
        assert plain["status"] == 202
        sentence = store.kind.lacks("unique_key")
        if sentence is None:
            assert unique["status"] == 202
        else:
            assert (unique["status"], sentence in unique["problem"]["detail"]) == (422, True)
