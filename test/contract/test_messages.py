"""The websocket: which messages, in which order, to whom."""

import asyncio
import json
import struct

import pytest

from test.contract.comfy import Comfy, Graph

RUN_OF_A_PICTURE = [
    "execution_start",
    "execution_cached []",
    "progress_state 1 running 0/1",
    "executing 1",
    "progress_state 1 finished 1/1",
    "progress_state 1 finished 1/1, 2 running 0/1",
    "executing 2",
    "executed 2",
    "progress_state 1 finished 1/1, 2 finished 1/1",
    "execution_success",
    "executing None",
]


async def test_the_first_frame_names_the_socket_and_the_queue(comfyui: Comfy) -> None:
    async with comfyui.socket(comfyui.prefix) as socket:
        assert socket.frames[0]["data"]["sid"] == comfyui.prefix
        assert set(socket.frames[0]["data"]["status"]["exec_info"]) == {"queue_remaining"}


async def test_a_socket_without_an_id_gets_one(comfyui: Comfy) -> None:
    for client_id in (None, ""):
        async with comfyui.socket(client_id) as socket:
            assert len(socket.frames[0]["data"]["sid"]) == 32


async def test_a_plain_get_of_the_socket_is_refused(comfyui: Comfy) -> None:
    assert (await comfyui.get("/ws")).status == 400


async def test_feature_flags_are_answered_once(comfyui: Comfy) -> None:
    flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
    async with comfyui.socket(comfyui.prefix) as socket:
        await socket.connection.send_str("not json")
        await socket.connection.send_json(flags)
        expected = {"supports_preview_metadata": True, "max_upload_size": 104857600}
        assert await socket.first("feature_flags") == expected
        await socket.connection.send_json(flags)
        prompt_id = await comfyui.submit(comfyui.picture(), client_id=comfyui.prefix)
        await socket.ended(prompt_id)
        assert len(socket.of("feature_flags")) == 1


async def test_feature_flags_after_another_message_are_ignored(comfyui: Comfy) -> None:
    async with comfyui.socket(comfyui.prefix) as socket:
        await socket.connection.send_json({"type": "hello"})
        await socket.connection.send_json({"type": "feature_flags", "data": {}})
        await socket.ended(await comfyui.submit(comfyui.picture(), client_id=comfyui.prefix))
        assert socket.of("feature_flags") == []


async def test_the_order_of_messages_of_a_success(comfyui: Comfy) -> None:
    async with comfyui.socket(comfyui.prefix) as socket:
        await socket.ended(await comfyui.submit(comfyui.picture(), client_id=comfyui.prefix))
        assert socket.story() == RUN_OF_A_PICTURE


async def test_status_comes_twice_before_the_start_and_once_before_the_end(idle: Comfy) -> None:
    async with idle.socket(idle.prefix) as socket:
        await socket.ended(await idle.submit(idle.picture(), client_id=idle.prefix))
        assert socket.story(status=True) == [
            "status 0 sid",
            "status 1",
            "status 1",
            *RUN_OF_A_PICTURE[:-1],
            "status 0",
            RUN_OF_A_PICTURE[-1],
        ]


async def test_the_contents_of_the_messages(comfyui: Comfy) -> None:
    async with comfyui.socket(comfyui.prefix) as socket:
        prompt_id = await comfyui.submit(comfyui.picture(), client_id=comfyui.prefix)
        await socket.ended(prompt_id)
        start = socket.of("execution_start")[0]
        assert set(start) == {"prompt_id", "timestamp"}
        assert start["prompt_id"] == prompt_id
        assert isinstance(start["timestamp"], int)
        assert socket.of("executing")[0] == {"node": "1", "display_node": "1", "prompt_id": prompt_id}
        state = socket.of("progress_state")[0]
        assert state == {
            "prompt_id": prompt_id,
            "nodes": {
                "1": {
                    "value": 0.0,
                    "max": 1.0,
                    "state": "running",
                    "node_id": "1",
                    "prompt_id": prompt_id,
                    "display_node_id": "1",
                    "parent_node_id": None,
                    "real_node_id": "1",
                }
            },
        }
        image = {"filename": f"{comfyui.prefix}_00001_.png", "subfolder": "", "type": "output"}
        expected = {"node": "2", "display_node": "2", "output": {"images": [image]}, "prompt_id": prompt_id}
        assert socket.of("executed") == [expected]


async def test_progress_follows_its_state(lab: Comfy) -> None:
    async with lab.socket(lab.prefix) as socket:
        prompt_id = await lab.submit(lab.slow(steps=2), client_id=lab.prefix)
        await socket.ended(prompt_id)
        assert socket.story()[5:12] == [
            "progress_state 1 finished 1/1, 3 running 0/1",
            "executing 3",
            "progress_state 1 finished 1/1, 3 running 1/2",
            "progress 3 1/2",
            "progress_state 1 finished 1/1, 3 running 2/2",
            "progress 3 2/2",
            "progress_state 1 finished 1/1, 3 finished 2/2",
        ]
        assert socket.of("progress")[0] == {"value": 1, "max": 2, "prompt_id": prompt_id, "node": "3"}


async def test_the_same_graph_again_is_answered_from_the_cache_with_the_old_file(idle: Comfy) -> None:
    async with idle.socket(idle.prefix) as socket:
        graph = idle.picture()
        first = await idle.entry(await idle.submit(graph, client_id="nobody"))
        prompt_id = await idle.submit(graph, client_id=idle.prefix)
        await socket.ended(prompt_id)
        assert socket.story() == [
            "execution_start",
            "execution_cached ['1', '2']",
            "executed 2",
            "progress_state 2 finished 1/1",
            "execution_success",
            "executing None",
        ]
        assert (await idle.entry(prompt_id))["outputs"] == first["outputs"]


async def test_other_node_ids_hit_the_same_cache(idle: Comfy) -> None:
    graph = idle.picture()
    first = await idle.entry(await idle.submit(graph))
    renamed = {"7": graph["1"], "8": {**graph["2"], "inputs": {**graph["2"]["inputs"], "images": ["7", 0]}}}
    second = await idle.entry(await idle.submit(renamed))
    assert second["outputs"]["8"] == first["outputs"]["2"]


async def test_another_graph_in_between_empties_the_cache(idle: Comfy) -> None:
    graph = idle.picture()
    await idle.entry(await idle.submit(graph))
    await idle.entry(await idle.submit(idle.picture("-other")))
    entry = await idle.entry(await idle.submit(graph))
    assert dict(entry["status"]["messages"])["execution_cached"]["nodes"] == []
    assert entry["outputs"]["2"]["images"][0]["filename"].endswith("_00002_.png")


async def test_what_is_shared_with_the_last_prompt_is_cached(idle: Comfy) -> None:
    graph = idle.picture()
    await idle.entry(await idle.submit(graph))
    graph["2"]["inputs"]["filename_prefix"] += "-again"
    entry = await idle.entry(await idle.submit(graph))
    assert dict(entry["status"]["messages"])["execution_cached"]["nodes"] == ["1"]


async def test_a_failing_node_ends_the_prompt(lab: Comfy) -> None:
    async with lab.socket(lab.prefix) as socket:
        prompt_id = await lab.submit(lab.failing(), client_id=lab.prefix)
        await socket.ended(prompt_id)
        assert socket.story() == [
            *RUN_OF_A_PICTURE[:5],
            "progress_state 1 finished 1/1, 3 running 0/1",
            "executing 3",
            "execution_error 3",
            "executing None",
        ]
        error = socket.of("execution_error")[0]
        assert (error["node_type"], error["executed"], error["exception_type"]) == ("Fail", ["1"], "ValueError")
        assert error["exception_message"] == "failed on purpose\n"
        assert sorted(error["current_outputs"]) == ["1", "2", "3"]
        assert error["current_inputs"]["message"] == ["failed on purpose"]
        assert isinstance(error["current_inputs"]["image"][0], str)
        assert all(line.startswith("  File ") for line in error["traceback"])
        status = (await lab.entry(prompt_id))["status"]
        assert (status["status_str"], status["completed"]) == ("error", False)
        assert status["messages"][-1] == ["execution_error", error]


async def test_running_out_of_memory_goes_by_pytorchs_name(lab: Comfy) -> None:
    graph = lab.picture()
    graph["3"] = {"class_type": "LabOutOfMemory", "inputs": {"image": ["1", 0]}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    error = (await lab.entry(await lab.submit(graph)))["status"]["messages"][-1][1]
    assert error["exception_type"] == "torch.OutOfMemoryError"
    assert error["exception_message"] == (
        "Allocation on device \nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked "
        "before you might have accidentally set the batch_size to a large number."
    )


async def test_outputs_made_before_a_failure_stay_in_the_history(lab: Comfy) -> None:
    graph = lab.failing()
    saved = {"images": ["1", 0], "filename_prefix": f"{lab.prefix}-early"}
    graph["4"] = {"class_type": "SaveImage", "inputs": saved}
    graph["3"]["inputs"]["image"] = ["5", 0]
    graph["5"] = {"class_type": "SlowProgress", "inputs": {"image": ["1", 0], "steps": 1, "ms_per_step": 1.0}}
    entry = await lab.entry(await lab.submit(graph))
    assert entry["status"]["status_str"] == "error"
    assert list(entry["outputs"]) == ["4"]


async def test_an_interrupted_prompt_ends_as_an_error_without_error_message(lab: Comfy) -> None:
    async with lab.socket(lab.prefix) as socket:
        prompt_id = await lab.submit(lab.slow(steps=1000, ms=5), client_id=lab.prefix)
        await socket.first("progress")
        assert (await lab.post("/interrupt", {"prompt_id": prompt_id})).status == 200
        await socket.ended(prompt_id)
        assert socket.story()[-2:] == ["execution_interrupted 3", "executing None"]
        message = socket.of("execution_interrupted")[0]
        assert set(message) == {"prompt_id", "node_id", "node_type", "executed", "timestamp"}
        assert (message["node_type"], message["executed"]) == ("SlowProgress", ["1"])
        status = (await lab.entry(prompt_id))["status"]
        assert (status["status_str"], status["completed"]) == ("error", False)
        assert [name for name, _ in status["messages"]][-1] == "execution_interrupted"


async def test_previews_without_the_flag_are_bare_images_after_the_progress(lab: Comfy) -> None:
    async with lab.socket(lab.prefix) as socket:
        await socket.ended(await lab.submit(lab.slow(steps=1, preview=True), client_id=lab.prefix))
        story = socket.story()
        at = story.index("binary 1")
        assert story[at - 2 : at] == ["progress_state 1 finished 1/1, 3 running 1/1", "progress 3 1/1"]
        frame = socket.binary()[0]
        assert struct.unpack(">II", frame[:8]) == (1, 1)
        assert frame[8:10] == b"\xff\xd8"


async def test_previews_with_the_flag_carry_their_node_and_come_before_the_progress(lab: Comfy) -> None:
    async with lab.socket(lab.prefix, metadata=True) as socket:
        prompt_id = await lab.submit(lab.slow(steps=1, preview=True), client_id=lab.prefix)
        await socket.ended(prompt_id)
        story = socket.story()
        at = story.index("binary 4")
        assert story[at - 1] == "progress_state 1 finished 1/1, 3 running 1/1"
        assert story[at + 1] == "progress 3 1/1"
        frame = socket.binary()[0]
        length = struct.unpack(">I", frame[4:8])[0]
        assert json.loads(frame[8 : 8 + length]) == {
            "node_id": "3",
            "prompt_id": prompt_id,
            "display_node_id": "3",
            "parent_node_id": None,
            "real_node_id": "3",
            "image_type": "image/jpeg",
        }
        assert frame[8 + length :][:2] == b"\xff\xd8"


async def test_an_image_for_the_websocket_is_only_there(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["2"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    async with comfyui.socket(comfyui.prefix) as socket:
        prompt_id = await comfyui.submit(graph, client_id=comfyui.prefix)
        await socket.ended(prompt_id)
        assert struct.unpack(">II", socket.binary()[0][:8]) == (1, 2)
        assert socket.binary()[0][8:12] == b"\x89PNG"
        assert "progress 2 0/1" in socket.story()
        assert (await comfyui.entry(prompt_id))["outputs"] == {}


async def test_a_text_frame_goes_to_everybody(lab: Comfy) -> None:
    graph = {"1": {"class_type": "TextOut", "inputs": {"text": lab.prefix}}}
    expected = struct.pack(">II", 3, 1) + b"1" + lab.prefix.encode()
    async with lab.socket(lab.prefix) as mine, lab.socket(f"{lab.prefix}-other") as other:
        await mine.ended(await lab.submit(graph, client_id=lab.prefix))
        assert mine.binary() == [expected]
        await other.until(lambda socket: expected in socket.frames, "text frame")


async def test_another_client_hears_only_the_status(lab: Comfy) -> None:
    async with lab.socket(lab.prefix) as mine, lab.socket(f"{lab.prefix}-other") as other:
        prompt_id = await lab.submit(lab.slow(preview=True), client_id=lab.prefix)
        await mine.ended(prompt_id)
        heard = [frame for frame in other.frames if prompt_id in json.dumps(frame if isinstance(frame, dict) else "")]
        assert heard == []
        assert other.of("status")


async def test_without_a_client_id_everybody_hears_progress_and_nobody_the_rest(idle: Comfy) -> None:
    async with idle.socket(idle.prefix) as socket:
        prompt_id = await idle.submit(idle.slow(steps=1, preview=True))
        await idle.entry(prompt_id)
        last = "progress_state 1 finished 1/1, 3 finished 1/1, 2 finished 1/1"
        await socket.until(lambda each: last in each.story(), "the last progress_state")
        kinds = {word.split()[0] for word in socket.story()}
        assert kinds == {"progress_state", "progress", "binary"}
        assert [frame[:4] for frame in socket.binary()] == [b"\0\0\0\1"]


async def test_without_a_client_id_everybody_hears_of_the_interruption(lab: Comfy) -> None:
    async with lab.socket(lab.prefix) as socket:
        prompt_id = await lab.submit(lab.slow(steps=1000, ms=5))
        await lab.running(prompt_id)
        await lab.post("/interrupt", {"prompt_id": prompt_id})
        await socket.until(
            lambda each: any(data["prompt_id"] == prompt_id for data in each.of("execution_interrupted")),
            "execution_interrupted",
        )


async def test_who_comes_back_is_told_the_running_node_without_the_prompt(lab: Comfy) -> None:
    async with lab.socket(lab.prefix) as socket:
        prompt_id = await lab.submit(lab.slow(steps=1000, ms=5), client_id=lab.prefix)
        await socket.first("progress")
    async with lab.socket(lab.prefix) as socket:
        assert await socket.first("executing") == {"node": "3"}
        await socket.first("progress")
        await lab.post("/interrupt", {"prompt_id": prompt_id})
        await socket.ended(prompt_id)
        assert socket.of("execution_start") == []


async def test_a_second_socket_of_an_id_silences_the_first(comfyui: Comfy) -> None:
    async with comfyui.socket(comfyui.prefix) as older, comfyui.socket(comfyui.prefix) as newer:
        await newer.ended(await comfyui.submit(comfyui.picture(), client_id=comfyui.prefix))
        assert older.story() == []
        assert not older.closed_by_peer


async def test_closing_the_older_socket_of_an_id_deafens_the_newer(comfyui: Comfy) -> None:
    """The server forgets the id: the newer socket stays open and hears nothing, not even the status."""
    name = f"{comfyui.prefix}-witness"

    async def frames_of_newer_during_a_prompt(tag: str) -> int:
        before = len(newer.frames)
        await witness.ended(await comfyui.submit(comfyui.picture(tag), client_id=name))
        return len(newer.frames) - before

    async with (
        comfyui.socket(name) as witness,
        comfyui.socket(comfyui.prefix) as older,
        comfyui.socket(comfyui.prefix) as newer,
    ):
        assert await frames_of_newer_during_a_prompt("-before") > 0
        await older.close()
        heard = [await frames_of_newer_during_a_prompt(f"-{turn}") for turn in range(5)]
        assert heard[-1] == 0  # the first may still come before the server notices the closing
        assert not newer.closed_by_peer


async def test_a_client_that_stops_reading_blocks_everybody(comfyui: Comfy) -> None:
    """One loop writes to all sockets and waits for each; HTTP goes on. Only tried where nobody else suffers from it."""
    if not comfyui.simulated:
        pytest.skip("would silence everybody on that server")
    host, port = comfyui.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    writer.write(
        f"GET /ws?clientId=stalled HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readexactly(12)
    assert isinstance(writer.transport, asyncio.ReadTransport)
    writer.transport.pause_reading()
    big: Graph = {"1": {"class_type": "TextOut", "inputs": {"text": "x" * 900_000}}}
    async with comfyui.socket(comfyui.prefix) as socket:
        for turn in range(14):  # more than the kernel buffers on the way
            big["1"]["inputs"]["text"] += str(turn)
            prompt_id = await comfyui.submit(big, client_id=comfyui.prefix)
            await comfyui.entry(prompt_id)
        last = {"type": "executing", "data": {"node": None, "prompt_id": prompt_id}}
        assert last not in socket.frames
        writer.transport.abort()
        await socket.ended(prompt_id)
