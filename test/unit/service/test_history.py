"""What a history entry says of the end of a prompt and of what it made."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comfy_service.instance.history import FileReference, TextOutput, judge, products, safe_name
from comfy_shared.errors import DeviceFailed, Interrupted, NodeFailed, OutOfMemory, RunError

FOLDER = Path(__file__).parents[2] / "fixtures" / "comfyui"


def recorded(name: str) -> dict[str, Any]:
    """The history entry at the end of a recording."""
    lines = (FOLDER / f"{name}.jsonl").read_text().splitlines()
    entry: dict[str, Any] = json.loads(lines[-1])["history"]
    return entry


def failed(**data: Any) -> dict[str, Any]:
    return {"status": {"status_str": "error", "completed": False, "messages": [["execution_error", data]]}}


@pytest.mark.parametrize("name", ["success", "cached", "text", "websocket_image"])
def test_a_recorded_success_is_one(name: str) -> None:
    judge(recorded(name))


def test_a_recorded_interruption_is_no_failure_of_a_node() -> None:
    """Its status is "error" too."""
    with pytest.raises(Interrupted):
        judge(recorded("interrupted"))


def test_a_recorded_error_names_node_and_class_and_carries_no_traceback() -> None:
    with pytest.raises(NodeFailed) as caught:
        judge(recorded("error"))
    error = caught.value
    assert not error.retryable
    assert (error.details["node_class"], error.details["exception"]) == ("Fail", "ValueError")
    assert error.message == f"Node {error.details['node']} (Fail) failed: ValueError: failed on purpose"
    assert "Traceback" not in str(error.details)
    assert ".py" not in str(error.details)


@pytest.mark.parametrize(
    ("exception", "text"),
    [
        ("torch.OutOfMemoryError", "Allocation on device "),
        ("torch.cuda.OutOfMemoryError", "CUDA ran out"),
        ("RuntimeError", "CUDA error: out of memory"),
    ],
)
def test_out_of_memory_is_worth_another_try(exception: str, text: str) -> None:
    with pytest.raises(OutOfMemory) as caught:
        judge(failed(node_id="3", node_type="KSampler", exception_type=exception, exception_message=text))
    assert caught.value.retryable
    assert caught.value.details["node"] == "3"


def test_a_message_of_any_length_is_cut() -> None:
    with pytest.raises(NodeFailed) as caught:
        judge(failed(node_id="3", node_type="A", exception_type="E", exception_message="x" * 100_000))
    assert len(caught.value.message) < 2100


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("success"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "status_str", "messages", "outputs", "images", "filename", "text"]), inner
        )
    ),
    max_leaves=15,
)


@given(st.fixed_dictionaries({"status": SHAPES, "outputs": SHAPES}))
@example({"status": {"messages": [["execution_error", None]]}, "outputs": None})
@example({"status": [1], "outputs": [1]})
@example({"status": {"messages": 5}, "outputs": {"1": {"images": [{"filename": 5}]}}})
def test_an_entry_of_any_shape_is_success_or_an_error_of_ours(entry: dict[str, Any]) -> None:
    """A status or a message that was no object ended the run as a bug of ours."""
    list(products(entry))
    try:
        judge(entry)
    except RunError as error:
        assert error.message  # noqa: PT017  # not raising is fine as well


def test_the_products_are_files_of_every_kind_and_texts_in_the_order_of_the_nodes() -> None:
    entry = {
        "outputs": {
            "9": {"images": [{"filename": "a.png", "subfolder": "x", "type": "output"}], "animated": [True]},
            "4": {"gifs": [{"filename": "b.mp4", "subfolder": "", "type": "temp", "format": "video/h264-mp4"}]},
            "5": {"text": ["hello", "world"], "numbers": [1], "nothing": None},
            "6": "odd",
        }
    }
    assert list(products(entry)) == [
        FileReference(node="9", kind="images", filename="a.png", subfolder="x", type="output"),
        FileReference(node="4", kind="gifs", filename="b.mp4", subfolder="", type="temp"),
        TextOutput(node="5", text="hello"),
        TextOutput(node="5", text="world"),
    ]


@given(st.lists(st.text(max_size=40) | st.sampled_from(["a.png", "A.png", "../a.png", "a-2.png", ".."]), max_size=12))
# A dot that came to stand in front by cutting the name to its last 120 characters made a hidden file.
@example(["x" * 30 + "." + "y" * 119])
@example(["a.png", "a-2.png", "a.png", "a.png"])
def test_names_are_safe_and_each_is_there_once(filenames: list[str]) -> None:
    taken: set[str] = set()
    names = [safe_name(filename, taken) for filename in filenames]
    assert len(set(names)) == len(names)
    assert taken == set(names)
    for name in names:
        assert 0 < len(name) < 140
        assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
        assert not name.startswith(".")


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("ComfyUI_00001_.png", "ComfyUI_00001_.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a b.png", "a_b.png"),
        ("bild-ü.png", "bild-_.png"),
        ("..", "output"),
        ("", "output"),
    ],
)
def test_a_name_keeps_what_is_harmless(filename: str, expected: str) -> None:
    assert safe_name(filename, set()) == expected


@pytest.mark.parametrize(
    ("exception", "message", "error"),
    [
        ("RuntimeError", "CUDA error: an illegal memory access was encountered", DeviceFailed),
        ("torch.AcceleratorError", "CUDA error: device-side assert triggered", DeviceFailed),
        ("RuntimeError", "HIP error: unspecified launch failure", DeviceFailed),
        ("RuntimeError", "CUDA out of memory. Tried to allocate 2 GiB", OutOfMemory),
        ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied", NodeFailed),
        ("ValueError", "CUDA error: as a prompt may want it", NodeFailed),
    ],
)
def test_an_error_of_the_gpu_is_not_the_prompts(exception: str, message: str, error: type[RunError]) -> None:
    data = {"node_id": "3", "node_type": "KSampler", "exception_type": exception, "exception_message": message}
    with pytest.raises(error) as raised:
        judge({"status": {"status_str": "error", "messages": [["execution_error", data]]}})
    assert type(raised.value) is error
