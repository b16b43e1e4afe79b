"""What a task is checked against before it is accepted, waiting for an agent on purpose, and why a task waits."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from redis.asyncio import Redis

from comfy_balancer.eligibility import read_needs
from comfy_shared.claims import Attempt, ClaimReply, UnknownLanes
from comfy_shared.models import Status
from comfy_shared.needs import Offer, can_run, lane_of
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry, Vitals, pack_offer
from comfy_shared.settings import SharedSettings
from test.integration.agent_support import crew_of, picture
from test.integration.balancer_support import (
    OBJECT_INFO,
    PROMPT,
    SMOKE,
    TASKS,
    WITH_FILE,
    Balancer,
    fields_of,
    running,
)
from test.simulator import Options, Simulator
from test.support.agents import advance
from test.support.builders import agent_record, problem
from test.support.waiting import wait_until

CHECK = f"{TASKS}/check"
LOADER, SAMPLER = "CheckpointLoaderSimple", "KSampler"


def info(*files: str, samplers: tuple[str, ...] = ("euler", "dpm_2"), without: str = "") -> dict[str, Any]:
    """Object info of an instance with these checkpoints."""
    changed = {
        LOADER: {"input": {"required": {"ckpt_name": [list(files), {}]}}, "output_node": False},
        SAMPLER: {
            "input": {"required": {"sampler_name": [list(samplers)], "steps": ["INT"], "tile": [[1, 2, 4], {}]}},
            "output_node": False,
        },
    }
    return {name: entry for name, entry in (OBJECT_INFO | changed).items() if name != without}


def with_file(*files: str, **sampler: Any) -> dict[str, Any]:
    """A task that loads these checkpoints, and samples when there are inputs of a sampler."""
    loaders = {f"c{i}": {"class_type": LOADER, "inputs": {"ckpt_name": name}} for i, name in enumerate(files)}
    samplers = {"k": {"class_type": SAMPLER, "inputs": sampler}} if sampler else {}
    return {"prompt": PROMPT | loaders | samplers}


async def join(
    balancer: Balancer,
    name: str,
    object_info: dict[str, Any] | None = None,
    *,
    labels: Mapping[str, str] = {},
    **record: Any,
) -> None:
    """An agent registers, and the balancer knows it. Without object info its instance is absent."""
    offer = pack_offer(object_info) if object_info is not None else None
    told = agent_record(name, labels=dict(labels), **record)
    await balancer.registry.register(told, Vitals(), session="s1", offer=offer, takeover=True)
    await balancer.app.state.fleet.now()


async def claim(
    balancer: Balancer, name: str, object_info: dict[str, Any], labels: Mapping[str, str] = {}
) -> ClaimReply:
    """Claims as an agent does: it judges the lanes that it is asked about by its offer and labels."""
    verdicts: dict[str, bool] = {}
    while True:
        reply = await balancer.queue.claim(name, "s1", prompt_id=f"p-{name}", verdicts=verdicts)
        if not isinstance(reply, UnknownLanes):
            return reply
        offer = Offer(object_info)
        verdicts = {lane: needs is None or can_run(offer, labels, needs) for lane, needs in reply.needs.items()}


async def refusal(balancer: Balancer, body: Any, path: str = TASKS) -> list[dict[str, Any]]:
    """The errors of a refused task; nothing of it was stored."""
    answer = await balancer.client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    fields_of(answer)
    assert await balancer.traces() == []
    errors: list[dict[str, Any]] = answer.json()["errors"]
    return errors


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as made:
        yield made


class TestCheck:
    async def test_a_task_that_fits_is_told_its_agents_and_lane_and_nothing_is_stored(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info("a.safetensors"))
        await join(balancer, "gpu-2", info("b.safetensors"))
        answer = await balancer.client.post(CHECK, json=with_file("b.safetensors"))
        assert answer.status_code == 200
        assert await balancer.traces() == []
        task = await balancer.submit(with_file("b.safetensors"))
        lane = (await balancer.queue.get(task["id"])).lane
        assert answer.json() == {"ok": True, "agents": ["gpu-2"], "lane": lane}

    async def test_only_agents_that_could_run_it_now_are_named(self, balancer: Balancer) -> None:
        await join(balancer, "gone", info())
        await advance(balancer.redis, balancer.keys, 60)
        await join(balancer, "able", info())
        await join(balancer, "drains", info())
        await balancer.registry.drain("drains", on=True)
        await join(balancer, "stops", info(), state="draining")
        await join(balancer, "waits", state="waiting", reason="connection refused")
        await join(balancer, "poor", info(without="EmptyImage"))
        answer = await balancer.client.post(CHECK, json={"prompt": PROMPT})
        assert answer.json()["agents"] == ["able"]

    async def test_while_no_agent_is_known_everything_sound_is_accepted(self, balancer: Balancer) -> None:
        """As at a submit: after a restart of the whole system the agents come later than the first task."""
        answer = await balancer.client.post(CHECK, json=with_file("x.ckpt") | {"require": {"pool": "video"}})
        assert (answer.status_code, answer.json()["agents"]) == (200, [])

    @pytest.mark.parametrize(
        "body",
        [
            {"workflow": "smok"},
            {"workflow": "smoke", "parameters": {"width": "wide"}},
            {"prompt": {"1": {"class_type": "SaveImag", "inputs": {}}}},
            {"prompt": WITH_FILE | {"1": {"class_type": "LoadImage", "inputs": {"image": "ab" * 32}}}},
            with_file("aa.safetensors"),
            with_file(sampler_name="eulerx"),
            {"prompt": PROMPT, "require": {"pool": "video"}},
            {"prompt": PROMPT, "priority": 10},
            {"prompt": PROMPT, "prio": 1},
            {},
        ],
        ids=str,
    )
    async def test_what_a_submit_refuses_is_refused_alike(self, balancer: Balancer, body: dict[str, Any]) -> None:
        await join(balancer, "gpu-1", info("a.safetensors"))
        assert await refusal(balancer, body, CHECK) == await refusal(balancer, body)

    async def test_broken_json_and_forms_are_refused(self, balancer: Balancer) -> None:
        headers = {"Content-Type": "application/json"}
        assert (await balancer.client.post(CHECK, content=b"{", headers=headers)).status_code == 400
        assert (await balancer.client.post(CHECK, files={"task": ("t", b"{}")})).status_code == 415

    async def test_the_example_of_the_document_works_as_it_is(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info())
        document = (await balancer.client.get("/openapi.json")).json()
        operation = document["paths"][CHECK]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        answer = await balancer.client.post(CHECK, json=document["components"]["schemas"][schema]["example"])
        assert answer.status_code == 200
        told = operation["responses"]["200"]["content"]["application/json"]["example"]
        assert told.keys() == answer.json().keys()


class TestFilesAndChoices:
    async def test_parts_that_no_single_agent_has_together_are_told_with_who_has_them(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info("a.safetensors"))
        await join(balancer, "gpu-2", info("b.safetensors", without=SAMPLER))
        (error,) = await refusal(balancer, with_file("a.safetensors", "b.safetensors", steps=1))
        assert error["field"] == "prompt"
        assert error["limits"] == {
            "agents": {SAMPLER: ["gpu-1"], "a.safetensors": ["gpu-1"], "b.safetensors": ["gpu-2"]}
        }

    async def test_a_value_outside_a_list_is_named_with_its_like(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info())
        (error,) = await refusal(balancer, with_file(sampler_name="eulerx"))
        assert (error["field"], error["nearest"]) == ("prompt.k.inputs.sampler_name", ["euler"])
        assert error["message"] == "no agent lists the value 'eulerx'"
        assert error["limits"] == {"choices": ["dpm_2", "euler"]}

    async def test_a_value_that_one_agent_lists_is_fine(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info())
        await join(balancer, "gpu-2", info(samplers=("newest",)))
        for name in ("euler", "newest"):
            assert (await balancer.client.post(CHECK, json=with_file(sampler_name=name))).status_code == 200

    async def test_a_value_that_a_workflow_was_given_is_named_by_its_parameter(self, balancer: Balancer) -> None:
        """What the workflow's file allows is not always what the agents have."""
        classes = ("CLIPTextEncode", "EmptyLatentImage", "VAEDecode")
        more = {name: {"input": {}, "output_node": False} for name in classes}
        await join(balancer, "gpu-1", info("v1-5-pruned-emaonly.safetensors", samplers=("euler",)) | more)
        workflow = (await balancer.client.get("/api/v1/workflows/first-workflow")).json()
        named = next(one for one in workflow["parameters"] if one["name"].startswith("sampler"))
        other = next(choice for choice in named["limits"]["choices"] if choice != "euler")
        body = {"workflow": "first-workflow", "parameters": {"text": "x", named["name"]: other}}
        fields = [error["field"] for error in await refusal(balancer, body)]
        assert f"parameters.{named['name']}" in fields


class TestHold:
    @pytest.mark.parametrize(
        "body",
        [
            with_file("new.safetensors"),
            {"prompt": PROMPT | {"n": {"class_type": "NewNode", "inputs": {}}}},
            {"prompt": PROMPT, "require": {"pool": "video"}},
        ],
        ids=["file", "class", "label"],
    )
    async def test_a_held_task_waits_until_an_agent_that_can_run_it_registers(
        self, balancer: Balancer, body: dict[str, Any]
    ) -> None:
        old = info("a.safetensors")
        await join(balancer, "gpu-1", old)
        await refusal(balancer, body)
        task = await balancer.submit(body, params={"hold": "true"})
        assert not isinstance(await claim(balancer, "gpu-1", old), Attempt)
        new = info("new.safetensors") | {"NewNode": {"input": {}, "output_node": False}}
        await join(balancer, "gpu-2", new, labels={"pool": "video"})
        attempt = await claim(balancer, "gpu-2", new, {"pool": "video"})
        assert isinstance(attempt, Attempt)
        assert attempt.id == task["id"]

    async def test_a_batch_can_be_held(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info())
        bodies = {"tasks": [with_file("new.safetensors"), SMOKE]}
        (error,) = await refusal(balancer, bodies, f"{TASKS}/batch")
        assert error["field"] == "tasks.0.prompt.c0.inputs.ckpt_name"
        answer = await balancer.client.post(f"{TASKS}/batch", json=bodies, params={"hold": "true"})
        assert (answer.status_code, len(answer.json()["tasks"])) == (202, 2)

    async def test_a_form_can_be_held(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info())
        form = {"task": (None, '{"workflow": "smoke", "require": {"pool": "video"}}')}
        assert (await balancer.client.post(TASKS, files=form)).status_code == 422
        assert (await balancer.client.post(TASKS, files=form, params={"hold": "true"})).status_code == 202

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            (with_file("../new.safetensors"), "prompt.c0.inputs.ckpt_name"),
            (with_file(sampler_name="eulerx"), "prompt.k.inputs.sampler_name"),
            ({"prompt": {"1": {"class_type": "NewNode", "inputs": {"a": ["9", 0]}}}}, "prompt.1.inputs.a"),
            ({"workflow": "smoke", "parameters": {"width": "wide"}}, "parameters.width"),
            ({"prompt": PROMPT, "require": {"a b": "x"}}, "require.a b"),
        ],
        ids=str,
    )
    async def test_everything_that_waiting_cannot_help_is_refused_all_the_same(
        self, balancer: Balancer, body: dict[str, Any], field: str
    ) -> None:
        await join(balancer, "gpu-1", info())
        assert [error["field"] for error in await refusal(balancer, body, f"{TASKS}?hold=true")] == [field]

    async def test_a_hold_that_is_no_truth_value_is_named(self, balancer: Balancer) -> None:
        for path in (TASKS, f"{TASKS}/batch"):
            answer = await balancer.client.post(path, params={"hold": "perhaps"}, json=SMOKE)
            assert (answer.status_code, fields_of(answer)) == (422, ["hold"])

    async def test_a_held_task_needs_its_files_once_an_agent_knows_the_class(self, balancer: Balancer) -> None:
        """Of a class that nobody knows yet the class alone is a need; a file that nobody lists is one."""
        await join(balancer, "gpu-1", info())
        body = with_file("new.safetensors")
        body["prompt"] |= {"n": {"class_type": "NewLoader", "inputs": {"model": "x.gguf"}}}
        task = await balancer.submit(body, params={"hold": "true"})
        lane = (await balancer.queue.get(task["id"])).lane
        needs = read_needs(await balancer.redis.get(balancer.keys.needs_prefix + lane))
        assert needs is not None
        assert needs.choices == ((LOADER, "ckpt_name", "new.safetensors"),)
        assert "NewLoader" in needs.classes
        assert lane_of(needs) == lane


class TestRequire:
    async def test_only_an_agent_with_the_labels_runs_the_task(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info(), labels={"pool": "image"})
        await join(balancer, "gpu-2", info(), labels={"pool": "video", "room": "2"})
        plain = await balancer.submit({"prompt": PROMPT})
        task = await balancer.submit({"prompt": PROMPT, "require": {"pool": "video"}, "priority": 9})
        first = await claim(balancer, "gpu-1", info(), {"pool": "image"})
        assert isinstance(first, Attempt)
        assert first.id == plain["id"], "the task of higher priority is not for this agent"
        second = await claim(balancer, "gpu-2", info(), {"pool": "video", "room": "2"})
        assert isinstance(second, Attempt)
        assert second.id == task["id"]

    async def test_a_label_that_nobody_has_is_named_with_those_that_exist(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info(), labels={"pool": "image", "room": "1"})
        await join(balancer, "gpu-2", labels={"pool": "videos"})
        errors = await refusal(balancer, {"prompt": PROMPT, "require": {"pool": "video", "rom": "1"}})
        assert [(error["field"], error["nearest"]) for error in errors] == [
            ("require.pool", ["videos"]),
            ("require.rom", ["room"]),
        ]
        assert errors[0]["limits"] == {"labels": {"pool": ["image", "videos"], "room": ["1"]}}

    async def test_labels_that_no_single_agent_has_together_are_told_with_who_has_them(
        self, balancer: Balancer
    ) -> None:
        await join(balancer, "gpu-1", info(), labels={"pool": "image"})
        await join(balancer, "gpu-2", info(), labels={"room": "2"})
        (error,) = await refusal(balancer, {"prompt": PROMPT, "require": {"pool": "image", "room": "2"}})
        assert error["field"] == "require"
        assert error["limits"] == {"agents": {"pool=image": ["gpu-1"], "room=2": ["gpu-2"]}}

    async def test_a_file_that_only_agents_without_the_label_have_is_told_with_them(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info("a.safetensors"))
        await join(balancer, "gpu-2", info("b.safetensors", without=SAMPLER), labels={"pool": "video"})
        body = with_file("a.safetensors", steps=1) | {"require": {"pool": "video"}}
        file, class_type = await refusal(balancer, body)
        assert file["message"] == "no agent with the required labels has the file 'a.safetensors'"
        assert (file["field"], file["limits"]) == (
            "prompt.c0.inputs.ckpt_name",
            {"agents": {"a.safetensors": ["gpu-1"]}},
        )
        assert (class_type["field"], class_type["limits"]) == ("prompt.k.class_type", {"agents": {SAMPLER: ["gpu-1"]}})

    @pytest.mark.parametrize(
        ("require", "field"),
        [
            ({"a b": "x"}, "require.a b"),
            ({"": "x"}, "require."),
            ({"pool": "x" * 257}, "require.pool"),
            ({"pool": "a\nb"}, "require.pool"),
            ({"pool": 3}, "require.[...]"),
            ({str(number): "x" for number in range(17)}, "require"),
            (["pool"], "require"),
            ("pool=video", "require"),
        ],
        ids=str,
    )
    async def test_bad_labels_are_named(self, balancer: Balancer, require: Any, field: str) -> None:
        for path in (TASKS, CHECK, f"{TASKS}?hold=true"):
            errors = await refusal(balancer, SMOKE | {"require": require}, path)
            assert [error["field"] for error in errors] == [field.replace(".[...]", "")]

    async def test_a_retried_task_keeps_what_it_requires(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info())
        await join(balancer, "gpu-2", info(), labels={"pool": "video"})
        task = await balancer.submit({"prompt": PROMPT, "require": {"pool": "video"}})
        await balancer.client.post(task["links"]["cancel"])
        assert (await balancer.client.post(task["links"]["retry"])).status_code == 202
        assert not isinstance(await claim(balancer, "gpu-1", info()), Attempt)
        assert isinstance(await claim(balancer, "gpu-2", info(), {"pool": "video"}), Attempt)

    async def test_a_task_whose_labels_are_forgotten_is_not_retried_on_any_agent(self, balancer: Balancer) -> None:
        """The needs of a lane are kept for a day after its last task; the prompt alone does not tell the labels."""
        await join(balancer, "gpu-2", info(), labels={"pool": "video"})
        for body, status in (({"require": {"pool": "video"}}, 409), ({}, 202)):
            task = await balancer.submit({"prompt": PROMPT} | body)
            await balancer.client.post(task["links"]["cancel"])
            await balancer.redis.delete(balancer.keys.needs_prefix + (await balancer.queue.get(task["id"])).lane)
            assert (await balancer.client.post(task["links"]["retry"])).status_code == status

    async def test_an_agent_that_restarts_with_other_labels_judges_again(self, balancer: Balancer) -> None:
        # Verdicts outlived the process: with the same instance behind it the new labels never counted.
        await join(balancer, "gpu-1", info())
        task = await balancer.submit({"prompt": PROMPT, "require": {"pool": "video"}}, params={"hold": "true"})
        assert not isinstance(await claim(balancer, "gpu-1", info()), Attempt)
        await join(balancer, "gpu-1", info(), labels={"pool": "video"})
        attempt = await claim(balancer, "gpu-1", info(), {"pool": "video"})
        assert isinstance(attempt, Attempt)
        assert attempt.id == task["id"]

    async def test_real_agents_go_by_their_labels(
        self, balancer: Balancer, settings: SharedSettings, redis: Redis, queue: Queue, registry: Registry
    ) -> None:
        async with Simulator(Options()) as simulator, crew_of(settings, redis, queue, registry) as crew:
            crew.start(simulator, "gpu-1", agent_labels="pool=image")
            await crew.wait_state("ready", "gpu-1")
            await balancer.app.state.fleet.now()
            body = {"prompt": picture(), "require": {"pool": "video"}}
            task = await balancer.submit(body, params={"hold": "true"})

            async def judged() -> bool:
                lane = (await queue.get(task["id"])).lane
                return await redis.hget(balancer.keys.verdicts_prefix + "gpu-1", lane) == b"0"

            await wait_until(judged, "the agent without the label judged the lane")
            crew.start(simulator, "gpu-2", agent_labels="pool=video")
            done = await crew.wait_status(task["id"], Status.COMPLETED)
            assert (done.agent, done.attempt) == ("gpu-2", 1)


class TestExplain:
    async def explain(self, balancer: Balancer, task: Mapping[str, Any]) -> dict[str, Any]:
        answer = await balancer.client.get(task["links"]["explain"])
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        assert (told["estimate"] is None) == (told["ahead"] is None or not any(a["eligible"] for a in told["agents"]))
        return told

    async def test_each_agent_is_told_with_its_reason(self, balancer: Balancer) -> None:
        label = {"pool": "video"}
        await join(balancer, "gone", info("a.safetensors"), labels=label)
        await advance(balancer.redis, balancer.keys, 60)
        await join(balancer, "able", info("a.safetensors"), labels=label)
        await join(balancer, "drains", info("a.safetensors"), labels=label)
        await balancer.registry.drain("drains", on=True)
        await join(balancer, "label", info("a.safetensors"))
        await join(balancer, "file", info("b.safetensors"), labels=label)
        await join(balancer, "node", info("a.safetensors", without="EmptyImage"), labels=label)
        await join(balancer, "silent", labels=label)
        await join(balancer, "waits", labels=label, state="waiting", reason="connection refused")
        task = await balancer.submit(with_file("a.safetensors") | {"require": label})
        told = await self.explain(balancer, task)
        assert {agent["id"]: (agent["eligible"], agent["reason"]) for agent in told["agents"]} == {
            "able": (True, "can run it, and is idle"),
            "drains": (False, "drains: it claims no more"),
            "file": (False, "lacks the file 'a.safetensors'"),
            "gone": (False, "is not alive: its heartbeat lapsed"),
            "label": (False, "lacks the label pool=video"),
            "node": (False, "lacks the node class 'EmptyImage'"),
            "silent": (False, "has not told what its instance offers"),
            "waits": (False, "waits for its instance: connection refused"),
        }
        assert told["require"] == label

    async def test_the_place_is_told_in_all_and_in_the_lane(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info("a.safetensors", "b.safetensors"))
        for file in ("a.safetensors", "b.safetensors", "a.safetensors"):
            await balancer.submit(with_file(file))
        task = await balancer.submit(with_file("a.safetensors"))
        told = await self.explain(balancer, task)
        assert (told["status"], told["ahead"], told["ahead_in_lane"]) == ("pending", 3, 2)
        assert told["lane"] == (await balancer.queue.get(task["id"])).lane
        attempt = await claim(balancer, "gpu-1", info("a.safetensors", "b.safetensors"))
        assert isinstance(attempt, Attempt)
        told = await self.explain(balancer, task)
        assert (told["ahead"], told["ahead_in_lane"]) == (2, 1)
        (agent,) = told["agents"]
        assert (agent["reason"], agent["holds"]) == ("can run it, and is busy with 1 task", 1)
        assert agent["in_memory"] is True
        assert told["explanation"] == (
            "It waits for the one agent that can run it, busy now (2 ahead of it, 1 of them in its lane)."
        )

    async def test_a_held_task_says_that_nobody_can_run_it(self, balancer: Balancer) -> None:
        task = await balancer.submit(with_file("new.safetensors"))
        assert (await self.explain(balancer, task))["explanation"] == "It waits for an agent: none is known yet."
        await join(balancer, "gpu-1", info())
        task = await balancer.submit(with_file("new.safetensors"), params={"hold": "true"})
        told = await self.explain(balancer, task)
        assert told["explanation"] == "It waits for an agent that can run it: none of the 1 known can now."

    async def test_an_agent_that_failed_the_task_lets_another_go_first(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info())
        await join(balancer, "gpu-2", info())
        task = await balancer.submit({"prompt": PROMPT})
        attempt = await claim(balancer, "gpu-1", info())
        assert isinstance(attempt, Attempt)
        await balancer.queue.try_again(attempt, problem("instance_lost"))
        first, second = (await self.explain(balancer, task))["agents"]
        assert (first["eligible"], second["eligible"]) == (False, True)
        assert first["reason"].startswith("its attempt at the task ended badly: for ")
        await advance(balancer.redis, balancer.keys, 3600)
        await join(balancer, "gpu-1", info())
        assert (await self.explain(balancer, task))["agents"][0]["eligible"] is True

    async def test_a_task_that_does_not_wait_is_told_in_a_sentence(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info())
        tasks = [await balancer.submit({"prompt": PROMPT}) for _ in range(4)]
        told = []
        for task, end in zip(tasks, ("run", "complete", "fail", "cancel"), strict=True):
            if end == "cancel":
                await balancer.client.post(task["links"]["cancel"])
            else:
                attempt = await balancer.queue.claim("gpu-1", "s1", prompt_id=end, verdicts={})
                if isinstance(attempt, UnknownLanes):
                    attempt = await claim(balancer, "gpu-1", info())
                assert isinstance(attempt, Attempt)
                if end == "complete":
                    await balancer.queue.complete(attempt, [])
                elif end == "fail":
                    await balancer.queue.fail(attempt, problem())
            told.append(await self.explain(balancer, task))
        starts = ["It runs on gpu-1 since ", "It completed at ", "It failed at ", "It was canceled at "]
        assert [one["explanation"].startswith(start) for one, start in zip(told, starts, strict=True)] == [True] * 4
        assert told[2]["explanation"].endswith(": It went wrong.")
        assert [(one["ahead"], one["agents"]) for one in told] == [(None, [])] * 4

    async def test_broken_keys_leave_the_rest_of_the_explanation(self, balancer: Balancer) -> None:
        await join(balancer, "gpu-1", info())
        task = await balancer.submit({"prompt": PROMPT})
        keys = balancer.keys
        lane = (await balancer.queue.get(task["id"])).lane
        for broken in (keys.needs_prefix + lane, keys.servers_prefix + lane, keys.held("gpu-1")):
            await balancer.redis.set(broken, "x", ex=60)
        (agent,) = (await self.explain(balancer, task))["agents"]
        assert (agent["eligible"], agent["in_memory"], agent["holds"]) == (True, False, 0)

    async def test_an_unknown_task_is_not_found(self, balancer: Balancer) -> None:
        for task_id in ("01m83n8xxt1me7canaqndb59s4", "x", "%2e%2e"):
            assert (await balancer.client.get(f"{TASKS}/{task_id}/explain")).status_code == 404
