"""F10: all balancers are killed for a while: agents go on, and watchers resume with no event missed or repeated."""

import json
import threading
from contextlib import suppress
from typing import Any

import httpx

from test.cluster import answers, wait_until
from test.faults.conftest import Start, slow
from test.scenario.story import slow_prompt

DOWN = 30.0  # seconds


def follow(client: httpx.Client, task_id: str, seen: list[dict[str, Any]]) -> None:
    """Reads a task's events to the final one, going on from the last id after each break, as a browser does."""

    def ended() -> bool:
        headers = {"Last-Event-ID": str(seen[-1]["seq"])} if seen else {}
        with (
            suppress(httpx.TransportError),
            client.stream("GET", f"/api/v1/tasks/{task_id}/events", headers=headers) as stream,
        ):
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    seen.append(json.loads(line[5:]))
        return bool(seen) and seen[-1]["type"] == "completed"

    wait_until(ended, "the watcher has the whole story", 60)


@slow
def test_agents_go_on_and_watchers_resume(start: Start) -> None:
    oracle = start(agents=2)
    balancer = oracle.system.processes["balancer"]
    with oracle.client() as client:
        length = int(DOWN * 20 * 1.3)
        ids = [oracle.submit(client, slow_prompt(color, steps=length)) for color in (1, 2)]
        ids += [oracle.submit(client, slow_prompt(color, steps=length // 4)) for color in (3, 4)]
        stories: list[list[dict[str, Any]]] = [[] for _ in ids]
        watchers = [
            threading.Thread(target=follow, args=(client, task_id, story), daemon=True)
            for task_id, story in zip(ids, stories, strict=True)
        ]
        for watcher in watchers:
            watcher.start()
        for task_id in ids[:2]:
            oracle.wait_progress(task_id)
        wait_until(lambda: all(len(story) > 0 for story in stories), "everybody reads")
        balancer.kill()
        before = oracle.story(ids[0])
        threading.Event().wait(DOWN)  # the time itself is the fault
        assert len(oracle.story(ids[0])) > len(before), "the run went on"
        assert not any(kind in ("retrying", "released") for kind in (event[1] for event in oracle.story(ids[0])))
        balancer.start()
        wait_until(lambda: answers(f"{oracle.system.url}/readyz"), "the balancer is back")
        for watcher in watchers:
            watcher.join(25)
        for task_id, story in zip(ids, stories, strict=True):
            assert [event["seq"] for event in story] == [event[0] for event in oracle.story(task_id)]
    oracle.conclude("F10", f"all balancers SIGKILL for {DOWN:g} s, 4 watchers")
