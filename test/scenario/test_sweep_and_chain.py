"""A sweep of 3 x 4 on two agents makes twelve pictures and one contact sheet; a chain feeds one task's picture into
the next by reference."""

import hashlib
import json
from io import BytesIO

from PIL import Image

from test.cluster import Cluster, wait_until
from test.scenario.story import runs, wait_completed

CFG, STEPS = [3.0, 7.0, 11.0], [4, 8, 12, 16]


def test_a_sweep_of_three_by_four_makes_twelve_pictures_and_a_contact_sheet(system: Cluster) -> None:
    with system.client() as client:
        parameters = {"cfg": CFG, "steps": STEPS, "text": "a lighthouse on a cliff"}
        answer = client.post("/api/v1/tasks", json={"workflow": "first-workflow", "parameters": parameters})
        assert answer.status_code == 202, answer.text
        batch = answer.json()
        assert (batch["total"], batch["axes"], batch["workflow"]) == (12, ["cfg", "steps"], "first-workflow")

        states = []
        with client.stream("GET", batch["links"]["events"]) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    states.append(json.loads(line[5:]))
        assert states[-1]["status"] == "completed"
        assert states[-1]["counts"] == {"pending": 0, "running": 0, "completed": 12, "failed": 0, "canceled": 0}
        progress = [state["progress"] for state in states]
        assert progress == sorted(progress)
        assert progress[-1] == 1

        tasks = client.get(batch["links"]["self"]).json()["tasks"]
        wished = [(cfg, steps) for cfg in CFG for steps in STEPS]
        assert [(task["parameters"]["cfg"], task["parameters"]["steps"]) for task in tasks] == wished
        assert len({task["parameters"]["seed"] for task in tasks}) == 1, "one seed for all, so that they compare"
        assert sum(len(task["outputs"]) for task in tasks) == 12

        answer = client.get(batch["links"]["contact_sheet"])
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        (system.folder / "contact-sheet.png").write_bytes(answer.content)
        sheet = Image.open(BytesIO(answer.content))
        assert 4 * 256 < sheet.width < 4 * 300
        assert 3 * 256 < sheet.height < 3 * 340
        assert client.get(batch["links"]["contact_sheet"]).content == answer.content
    assert all(runs(system, number) for number in (1, 2)), "both agents worked"


def test_a_chain_takes_the_picture_of_another_task_by_reference(system: Cluster) -> None:
    with system.client() as client:
        first = client.post(
            "/api/v1/tasks",
            json={
                "workflow": "first-workflow",
                "parameters": {"text": "a harbor"},
                "output": {"format": "webp", "quality": 80, "max_size": 200, "strip_metadata": True},
            },
        ).json()
        done = wait_completed(client, first["id"])
        picture, small = done["outputs"]
        assert (small["original"], small["content_type"]) == (picture["name"], "image/webp")
        data = client.get(picture["url"]).content
        assert b"tEXt" not in data
        assert (Image.open(BytesIO(data)).info, Image.open(BytesIO(client.get(small["url"]).content)).size) == (
            {},
            (200, 200),
        )

        parameters = {"image": f"task:{first['id']}/{picture['name']}", "text": "in oil", "denoise": [0.4, 0.8]}
        answer = client.post("/api/v1/tasks", json={"workflow": "image-to-image", "parameters": parameters})
        assert answer.status_code == 202, answer.text
        second = [wait_completed(client, task["id"]) for task in answer.json()["tasks"]]
        assert [task["parameters"]["image"] for task in second] == [hashlib.sha256(data).hexdigest()] * 2
        stored = [file.read_bytes() for file in (system.folder / "files" / "inputs").iterdir()]
        assert stored == [data], "stored once"

        thumbnail = client.get(f"{second[0]['outputs'][0]['url']}/thumbnail", params={"size": 128})
        assert Image.open(BytesIO(thumbnail.content)).size == (128, 128)

        def placed() -> int:
            return sum(
                len(list((system.folder / f"comfyui-{number}").rglob(f"{picture['sha256'][:40]}*")))
                for number in (1, 2)
            )

        wait_until(lambda: placed() in (1, 2), "put once on each instance that ran it")
