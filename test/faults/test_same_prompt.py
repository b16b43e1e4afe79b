"""The same prompt sent by ten clients at once: ten renders, or with `reuse` one render and ten results."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from test.faults.conftest import Start
from test.faults.oracle import stored_files
from test.scenario.story import runs, slow_prompt

CLIENTS = 10


@pytest.mark.parametrize("reuse", [False, True])
def test_ten_identical_prompts_at_once(start: Start, reuse: bool) -> None:
    oracle = start(agents=2)

    def ask(_: int) -> str:
        fields: dict[str, Any] = {"reuse": True} if reuse else {}
        with oracle.client() as client:
            return oracle.submit(client, slow_prompt(1, steps=10), **fields)

    with ThreadPoolExecutor(CLIENTS) as pool:
        ids = list(pool.map(ask, range(CLIENTS)))
    oracle.wait_final()
    with oracle.client() as client:
        views = [client.get(f"/api/v1/tasks/{task_id}").json() for task_id in ids]
        outputs = [view["outputs"] for view in views]
        assert {len(found) for found in outputs} == {1}
        assert len({found[0]["sha256"] for found in outputs}) == 1, "the same picture for everybody"
        assert {client.get(found[0]["url"]).status_code for found in outputs} == {200}
    rendered = sum(len(runs(oracle.system, number)) for number in (1, 2))
    assert (rendered, len(stored_files(oracle.system))) == ((1, 1) if reuse else (CLIENTS, CLIENTS))
    how = "with reuse: 1 render" if reuse else f"{CLIENTS} renders"
    oracle.conclude("same", f"the identical prompt by {CLIENTS} clients at once, {how}")
