"""The parts of the ComfyUI protocol that need no server: ids, definitions, stories, frames."""

import struct
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_balancer.comfyui_api.definitions import Merger, merged, models_in, with_files
from comfy_balancer.comfyui_api.ids import prompt_id_of, task_id_of
from comfy_balancer.comfyui_api.names import Place, place_of
from comfy_balancer.comfyui_api.sockets import LARGEST_BUFFER, Client, bare_picture, described_picture, text_frame
from comfy_balancer.comfyui_api.stories import Story
from comfy_balancer.comfyui_api.userdata import OutsideUserData, checked_path
from comfy_balancer.comfyui_api.validation import validate
from comfy_shared.live import PREVIEW, TEXT, LiveFrame
from comfy_shared.models import Output, Status, Task
from comfy_shared.needs import Offer

TASK = "01hv3n8xxt1me7cand0ne5hape"
PROMPT = prompt_id_of(TASK)


@given(st.uuids())
def test_every_uuid_is_a_task_and_back(value: UUID) -> None:
    task_id = task_id_of(str(value))
    assert task_id is not None
    assert prompt_id_of(task_id) == str(value)


@pytest.mark.parametrize(
    "text", ["", "x", "A" * 36, str(UUID(int=5)).replace("-", ""), str(UUID(int=2**128 - 1)).upper()]
)
def test_what_is_no_canonical_uuid_is_no_task(text: str) -> None:
    assert task_id_of(text) is None


@pytest.mark.parametrize("text", ["", "t1", "8" + "0" * 25, "0" * 25 + "i"])
def test_what_is_no_task_id_has_no_prompt_id(text: str) -> None:
    with pytest.raises(ValueError, match="no task id"):
        prompt_id_of(text)


def loader(names: list[str], spelling: str = "old") -> dict[str, Any]:
    entry: list[Any] = [names, {}] if spelling == "old" else ["COMBO", {"options": names}]
    return {
        "input": {"hidden": {}, "required": {"a": ["INT", {}], "ckpt_name": entry}},
        "input_order": {"required": ["ckpt_name", "a"], "hidden": []},
        "output": ["MODEL"],
        "output_node": False,
    }


@pytest.mark.parametrize("spelling", ["old", "new"])
def test_choices_of_all_agents_are_united_and_inputs_keep_their_order(spelling: str) -> None:
    name = "CheckpointLoaderSimple"
    offers = [Offer({name: loader(["a", "b"], spelling)}), Offer({name: loader(["b", "c"], spelling), "Other": {}})]
    classes = merged(offers)
    assert set(classes) == {name, "Other"}
    assert models_in(classes, "checkpoints") == ["a", "b", "c"]
    assert models_in(classes, "nope") is None
    assert list(classes[name]["input"]["required"]) == ["ckpt_name", "a"]
    assert list(classes[name]["input"]) == ["required", "hidden"]


def test_a_merge_is_kept_until_the_offers_change() -> None:
    merger, offer = Merger(), Offer({"A": {}})
    assert merger.of([offer]) is merger.of([offer])
    assert set(merger.of([Offer({"B": {}})])) == {"B"}


def test_a_callers_files_are_in_the_lists_of_its_answer_alone() -> None:
    classes = {"LoadImage": {"input": {"required": {"image": [[], {"image_upload": True}]}}}}
    found = with_files(classes, [("LoadImage", "required", "image", "image_upload")], {"image_upload": ["b", "a"]})
    assert found["LoadImage"]["input"]["required"]["image"] == [["a", "b"], {"image_upload": True}]
    assert classes["LoadImage"]["input"]["required"]["image"][0] == []


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("a.png", ("input", "", "a.png")),
        ("x/y/a.png", ("input", "x/y", "a.png")),
        ("clipspace/a.png [input]", ("input", "clipspace", "a.png")),
        ("a.png [output]", ("output", "", "a.png")),
        ("a[temp]", ("temp", "", "a")),
    ],
)
def test_where_an_input_names_a_file(value: str, place: tuple[str, str, str]) -> None:
    assert place_of(value) == Place(type=place[0], subfolder=place[1], filename=place[2])


@pytest.mark.parametrize("path", ["", "/", "../x", "a/../../b", "/etc/x", "a\x00b", "a\\b", "C:/x", "x" * 600])
def test_a_path_outside_the_users_files_is_refused(path: str) -> None:
    with pytest.raises(OutsideUserData):
        checked_path(path)


CLASSES: dict[str, dict[str, Any]] = {
    "Make": {"input": {"required": {"size": ["INT", {"min": 1, "max": 9}]}}, "output": ["IMAGE"]},
    "Through": {"input": {"required": {"image": ["IMAGE"]}}, "output": ["IMAGE"]},
    "Save": {"input": {"required": {"image": ["IMAGE"]}}, "output": [], "output_node": True},
}


def chain(length: int, size: object = 5) -> dict[str, Any]:
    nodes: dict[str, Any] = {"0": {"class_type": "Make", "inputs": {"size": size}}}
    for number in range(1, length):
        nodes[str(number)] = {"class_type": "Through", "inputs": {"image": [str(number - 1), 0]}}
    nodes["end"] = {"class_type": "Save", "inputs": {"image": [str(length - 1), 0]}}
    return nodes


def judged(prompt: dict[str, Any], targets: list[str] | None = None) -> Any:
    return validate(prompt, CLASSES, targets=targets, exists=lambda _: False)


def test_a_chain_of_any_length_is_checked() -> None:
    assert judged(chain(4000)).error is None
    verdict = judged(chain(4000, size=0))
    assert list(verdict.node_errors) == ["0"]
    assert verdict.node_errors["0"]["dependent_outputs"] == ["end"]


@pytest.mark.parametrize("size", ["x", None, [], {}, 10**400, float("nan"), "9" * 5000])
def test_a_value_of_any_kind_is_judged_and_not_raised(size: object) -> None:
    assert judged(chain(2, size)).error is not None


def test_only_what_valid_outputs_need_is_handed_on() -> None:
    prompt = chain(2) | {
        "bad": {"class_type": "Make", "inputs": {"size": 77}},
        "worse": {"class_type": "Save", "inputs": {"image": ["bad", 0]}},
        "lonely": {"class_type": "Make", "inputs": {"size": "3"}},
    }
    verdict = judged(prompt)
    assert (verdict.error, verdict.targets) == (None, ("end",))
    assert list(verdict.prompt) == ["0", "1", "end"]
    assert list(verdict.node_errors) == ["bad"]
    assert judged(prompt, targets=["worse"]).error is not None


def frame(kind: str, attempt: int = 1, node: str = "", content: bytes = b"", **data: Any) -> LiveFrame:
    return LiveFrame(task_id=TASK, attempt=attempt, kind=kind, node=node, data=data, content=content)


def story() -> Story:
    return Story(task_id=TASK, prompt_id=PROMPT, owner="anna", client_id="c")


def kinds(told: Any) -> list[str]:
    return [each.kind if isinstance(each, LiveFrame) else each["type"] for each in told]


def ended(status: Status, attempt: int = 1, outputs: tuple[Output, ...] = ()) -> Task:
    return Task(
        id=TASK, owner="anna", status=status, priority=5, lane="l", attempt=attempt, max_attempts=3, created_at=1,
        timeout=1, finished_at=9, outputs=outputs, packed_prompt=b"j{}",
    )  # fmt: skip


FILE = Output(
    name="a.png", node="2", kind="images", content_type="image/png", size=1, sha256="0", key="k", filename="a b.png"
)


def test_an_output_is_told_when_the_task_completed_and_before_what_followed_it() -> None:
    told = story()
    assert kinds(told.heard(frame("execution_start", prompt_id="p", timestamp=5), 7)) == ["execution_start"]
    assert kinds(told.heard(frame("execution_cached", nodes=[]), 7)) == ["execution_cached"]
    assert kinds(told.heard(frame("executed", node="2"), 7)) == []
    assert kinds(told.heard(frame("progress_state", nodes={"2": {"prompt_id": "p"}}), 7)) == []
    found: list[Any] = list(told.finished(ended(Status.COMPLETED, outputs=(FILE,))))
    assert kinds(found) == ["executed", "progress_state", "execution_success"]
    assert found[0]["data"]["output"]["images"] == [{"filename": "a b.png", "subfolder": TASK, "type": "output"}]
    assert found[1]["data"]["nodes"]["2"]["prompt_id"] == PROMPT
    assert kinds(told.heard(frame("progress"), 7)) == []


def test_what_frames_left_out_is_made_up_for_at_the_end() -> None:
    found = kinds(story().finished(ended(Status.COMPLETED, outputs=(FILE,))))
    assert found == ["execution_start", "execution_cached", "executed", "execution_success"]


def test_another_attempt_begins_anew_and_the_old_one_is_silent() -> None:
    told = story()
    assert kinds(told.heard(frame("executing", node="1"), 7)) == ["execution_start", "executing"]
    assert kinds(told.heard(frame("execution_start", attempt=2), 7)) == ["execution_start"]
    assert kinds(told.heard(frame("executing", attempt=1, node="3"), 7)) == []
    assert kinds(told.finished(ended(Status.FAILED, attempt=2))) == ["execution_error"]


def test_a_prompt_that_was_deleted_before_it_ran_ends_without_a_word() -> None:
    assert kinds(story().finished(ended(Status.CANCELED, attempt=0))) == []
    assert kinds(story().finished(ended(Status.CANCELED))) == ["execution_start", "execution_interrupted"]


def test_frames_have_comfyuis_layout() -> None:
    preview = frame(PREVIEW, node="3", content=b"JPEG", image_type="image/jpeg", parent_node_id=None)
    assert bare_picture(preview) == struct.pack(">II", 1, 1) + b"JPEG"
    assert described_picture(preview, PROMPT).endswith(b"JPEG")
    assert text_frame(frame(TEXT, node="12", content=b"hi")) == struct.pack(">II", 3, 2) + b"12hi"


def test_a_client_that_does_not_read_is_cut_at_its_bound() -> None:
    client = Client("anna", "c")
    for _ in range(LARGEST_BUFFER // 1000):
        client.put({"type": "x", "data": "y" * 900})
    assert not client.cut.is_set()
    for _ in range(50):
        client.put({"type": "x", "data": "y" * 900})
    assert client.cut.is_set()


def test_of_previews_only_the_newest_waits() -> None:
    client = Client("anna", "c")
    for _ in range(1000):
        client.put_frame(frame(PREVIEW, node="3", content=b"x" * 100_000), PROMPT)
    assert not client.cut.is_set()
