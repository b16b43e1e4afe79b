"""Comfy API v2, the parts without I/O: references in graphs, bodies, and records as the contract's objects."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from comfy_balancer.comfy_v2 import bodies, events, references, views
from comfy_balancer.comfy_v2.errors import Refusal, edge_shape
from comfy_shared.live import PREVIEW, LiveFrame
from comfy_shared.models import Event, EventType, Progress, Status, Task
from test.comfy_v2 import contract
from test.support.builders import output

AT = views.Address("http://here", retention_ms=1000)


def ref(asset_id: Any = "a1") -> dict[str, Any]:
    return {"__type": "core/ASSET", "info": {"id": asset_id}}


def task(**changes: Any) -> Task:
    values: dict[str, Any] = {
        "id": "t1", "owner": "ann", "status": Status.PENDING, "priority": 5, "lane": "l", "attempt": 0,
        "max_attempts": 3, "created_at": 1_000, "timeout": 60.0,
    }  # fmt: skip
    return Task(**(values | changes))


def event(kind: EventType, at: int = 0, **data: Any) -> Event:
    return Event(seq=1, task_id="t1", type=kind, at=at, attempt=1, data=data)


class TestReferences:
    def test_only_the_whole_value_of_an_input_is_a_place(self) -> None:
        graph = {"1": {"inputs": {"image": ref(), "n": 3, "list": [ref()]}}, "2": 7, "3": {"inputs": []}}
        (found,) = references.find_references(graph)
        assert (found.node, found.input, found.id) == ("1", "image", "a1")
        assert list(references.misplaced(graph)) == ["1"]

    def test_a_reference_beside_the_inputs_is_misplaced_at_any_depth(self) -> None:
        deep: Any = ref()
        for _ in range(5000):
            deep = [deep]
        assert list(references.misplaced({"1": {"inputs": {}, "_meta": deep}})) == ["1"]

    def test_files_take_the_place_of_references(self) -> None:
        graph: dict[str, Any] = {"1": {"class_type": "A", "inputs": {"image": ref(), "n": 3}}, "2": {"inputs": {}}}
        put = references.put_files(graph, {"1": {"image": "x"}})
        assert put == {"1": {"class_type": "A", "inputs": {"image": "x", "n": 3}}, "2": {"inputs": {}}}
        assert graph["1"]["inputs"]["image"] == ref(), "the client's graph stays as it was"


@pytest.mark.parametrize(
    ("given", "level"), [(None, 5), (0, 5), (1, 6), (4, 9), (10**6, 9), (-5, 0), (-(10**6), 0)]
)  # fmt: skip
def test_a_priority_is_a_level_of_ours_within_the_role(given: int | None, level: int) -> None:
    assert bodies.level_of(given, highest=9) == level
    assert bodies.level_of(given, highest=5) == min(level, 5)


def test_the_editors_graph_has_a_refusal_of_its_own() -> None:
    with pytest.raises(Refusal) as caught:
        bodies.read_submission({"workflow": {"nodes": [], "links": []}})
    assert caught.value.code == "workflow_format_ui"


class TestViews:
    def test_every_status_has_its_word(self) -> None:
        words = [views.job_view(task(status=status, position=None), AT).status for status in Status]
        assert words == ["queued", "running", "succeeded", "failed", "canceled"]

    @pytest.mark.parametrize(
        ("kind", "content_type", "type_"),
        [
            ("images", "image/png", "image"), ("gifs", "image/gif", "video"), ("audio", "audio/flac", "audio"),
            ("text", "text/plain", "text"), ("latents", "application/octet-stream", "latent"),
            ("3d", "model/gltf-binary", "file"), ("video", "video/mp4", "video"), ("odd", "image/webp", "image"),
        ],
    )  # fmt: skip
    def test_nothing_that_was_made_is_dropped(self, kind: str, content_type: str, type_: str) -> None:
        made = task(status=Status.COMPLETED, outputs=(output(kind=kind, content_type=content_type),))
        (view,) = views.outputs_view(made, AT)
        assert (view.type, view.id, view.url) == (type_, "t1-0", "http://here/api/v2/assets/t1-0/content")

    def test_the_first_in_the_queue_has_the_number_one(self) -> None:
        assert views.job_view(task(position=0), AT).queue_position == 1
        assert views.job_view(task(status=Status.RUNNING, position=0), AT).queue_position is None


class TestStream:
    def test_progress_is_told_at_most_twice_a_second(self) -> None:
        teller = events.Teller(AT)
        done = {"fraction": 0.5, "node": "1", "node_class": "A", "value": 1, "maximum": 2}
        frames = [teller.event(event(EventType.PROGRESS, at, **done)) for at in (1000, 1100, 1499, 1500, 1900)]
        assert [len(found) for found in frames] == [2, 0, 0, 1, 0]

    def test_a_status_is_told_when_it_changes(self) -> None:
        teller = events.Teller(AT)
        kinds = [EventType.QUEUED, EventType.CLAIMED, EventType.STARTED, EventType.RETRYING, EventType.CLAIMED]
        told = [b"".join(teller.event(event(kind))).decode().count("event: status") for kind in kinds]
        assert told == [1, 1, 0, 1, 1]

    def test_a_running_job_begins_with_status_and_progress(self) -> None:
        running = task(status=Status.RUNNING, progress=Progress(fraction=0.25))
        first, second = events.Teller(AT).snapshot(running)
        assert first == b'event: status\ndata: {"status":"running"}\n\n'
        assert second.startswith(b'event: progress\ndata: {"value":0.25')

    def test_previews_are_pictures_only(self) -> None:
        teller = events.Teller(AT)
        picture = LiveFrame(
            task_id="t1", attempt=1, kind=PREVIEW, node="3", data={"image_type": "image/png"}, content=b"x"
        )
        other = LiveFrame(task_id="t1", attempt=1, kind="executing", node="3")
        assert teller.preview(other) == []
        (told,) = teller.preview(picture)
        assert told == b'event: preview\ndata: {"node_id":"3","content_type":"image/png","data_base64":"eA=="}\n\n'
        assert teller.preview(picture) == [], "not each of them"

    async def test_events_and_frames_come_as_one_until_the_events_end(self) -> None:
        go_on = asyncio.Event()

        async def told() -> AsyncIterator[Event]:
            yield event(EventType.CLAIMED)
            await go_on.wait()
            yield event(EventType.COMPLETED)

        async def seen() -> AsyncIterator[LiveFrame]:
            yield LiveFrame(task_id="t1", attempt=1, kind=PREVIEW)
            await asyncio.Event().wait()

        found: list[str] = []
        async for item in events.merged(told(), seen(), quiet=0.01):
            found.append(type(item).__name__)
            if item is None:
                go_on.set()
        assert sorted({*found}) == ["Event", "LiveFrame", "NoneType"]
        assert found[-1] == "Event"


@pytest.mark.parametrize("code", ["unauthorized", "foreign-origin", "too-large", "internal", "wrong-media-type", "odd"])
def test_the_edge_tells_an_envelope(code: str) -> None:
    body, media_type = edge_shape(400, code, "x" * 1000, "r1")
    contract.check(json.loads(body), contract.ERROR)
    assert media_type == "application/json"
    assert len(body) < 700
