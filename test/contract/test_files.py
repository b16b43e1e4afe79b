"""Images in and out: /upload/image, /upload/mask, /view, and the nodes that load and save."""

import io
import json

import pytest
from PIL import Image

from test.contract.comfy import Comfy, Graph


def png(colour: str = "red", size: int = 8, mode: str = "RGB") -> bytes:
    """A plain PNG."""
    buffer = io.BytesIO()
    Image.new(mode, (size, size), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


async def saved(comfyui: Comfy, graph: Graph, node_id: str = "2") -> dict[str, str]:
    """The first file that a node of the graph saves."""
    entry = await comfyui.entry(await comfyui.submit(graph))
    image: dict[str, str] = entry["outputs"][node_id]["images"][0]
    return image


async def test_an_upload_is_answered_with_its_name(comfyui: Comfy) -> None:
    name = f"{comfyui.prefix}.png"
    reply = await comfyui.upload(name, png())
    assert (reply.status, reply.json) == (200, {"name": name, "subfolder": "", "type": "input"})
    assert (await comfyui.get(f"/view?filename={name}&type=input")).body == png()


async def test_the_same_bytes_again_keep_the_name_and_others_get_a_number(comfyui: Comfy) -> None:
    name = f"{comfyui.prefix}.png"
    names = [
        (await comfyui.upload(name, png(colour))).json["name"] for colour in ("red", "red", "blue", "green", "blue")
    ]
    one, two = f"{comfyui.prefix} (1).png", f"{comfyui.prefix} (2).png"
    assert names == [name, name, one, two, one]


async def test_overwrite_keeps_the_name(comfyui: Comfy) -> None:
    name = f"{comfyui.prefix}.png"
    await comfyui.upload(name, png())
    assert (await comfyui.upload(name, png("blue"), overwrite="true")).json["name"] == name
    assert (await comfyui.get(f"/view?filename={name}&type=input")).body == png("blue")


async def test_uploads_go_to_the_folder_and_sub_folder_asked_for(comfyui: Comfy) -> None:
    reply = await comfyui.upload("a.txt", b"any bytes", type="temp", subfolder=f"{comfyui.prefix}/deep")
    assert reply.json == {"name": "a.txt", "subfolder": f"{comfyui.prefix}/deep", "type": "temp"}
    found = await comfyui.get(f"/view?filename=a.txt&type=temp&subfolder={comfyui.prefix}/deep")
    assert found.body == b"any bytes"


@pytest.mark.parametrize(
    ("name", "fields", "status"),
    [
        ("x.png", {"subfolder": "../out"}, 400),
        ("../x.png", {}, 400),
        ("x.png", {"type": "elsewhere"}, 500),
        ("missing/x.png", {}, 500),
    ],
)
async def test_uploads_that_leave_their_folder_are_refused(
    comfyui: Comfy, name: str, fields: dict[str, str], status: int
) -> None:
    reply = await comfyui.upload(name, png(), **fields)
    assert reply.status == status


async def test_an_upload_without_an_image_is_refused(comfyui: Comfy) -> None:
    assert (await comfyui.post("/upload/image", {"image": "x"})).status == 400
    assert (await comfyui.post("/upload/image", data=b"")).status == 400


async def test_a_mask_becomes_the_alpha_of_its_original(comfyui: Comfy) -> None:
    name = f"{comfyui.prefix}.png"
    await comfyui.upload(name, png())
    original = json.dumps({"filename": name, "subfolder": "", "type": "input"})
    mask = png((0, 0, 0, 77), mode="RGBA")  # type: ignore[arg-type]
    reply = await comfyui.upload(f"{comfyui.prefix}-m.png", mask, "mask", original_ref=original)
    assert reply.json["name"] == f"{comfyui.prefix}-m.png"
    masked = opened((await comfyui.get(f"/view?filename={comfyui.prefix}-m.png&type=input")).body)
    assert masked.getpixel((0, 0)) == (255, 0, 0, 77)


async def test_a_mask_without_its_original_is_named_but_not_written(comfyui: Comfy) -> None:
    original = json.dumps({"filename": "nope.png", "type": "input"})
    reply = await comfyui.upload(f"{comfyui.prefix}.png", png(), "mask", original_ref=original)
    assert reply.json["name"] == f"{comfyui.prefix}.png"
    assert (await comfyui.get(f"/view?filename={comfyui.prefix}.png&type=input")).status == 404
    assert (await comfyui.upload(f"{comfyui.prefix}.png", png(), "mask")).status == 500


async def test_view_serves_a_file_with_ranges(comfyui: Comfy) -> None:
    name = f"{comfyui.prefix}.png"
    await comfyui.upload(name, png())
    whole = await comfyui.get(f"/view?filename={name}&type=input")
    assert whole.headers["Content-Type"] == "image/png"
    assert whole.headers["Content-Disposition"] == f'filename="{name}"'
    assert {"Etag", "Last-Modified", "Accept-Ranges"} <= set(whole.headers)
    part = await comfyui.get(f"/view?filename={name}&type=input", headers={"Range": "bytes=1-3"})
    assert (part.status, part.body) == (206, b"PNG")
    suffixed = await comfyui.get(f"/view?filename={name}%20[input]")
    assert suffixed.body == whole.body


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 404),
        ("filename=", 400),
        ("filename=nope.png", 404),
        ("filename=../x.png", 400),
        ("filename=/etc/passwd", 400),
        ("filename=x.png&type=elsewhere", 400),
        ("filename=x.png&subfolder=../..", 403),
        ("filename=x.png&subfolder=/etc", 403),
    ],
)
async def test_view_refuses(comfyui: Comfy, query: str, status: int) -> None:
    reply = await comfyui.get(f"/view?{query}")
    assert (reply.status, reply.body) == (status, b"")


async def test_view_wants_the_sub_folder_apart_from_the_name(comfyui: Comfy) -> None:
    await comfyui.upload("a.png", png(), subfolder=comfyui.prefix)
    assert (await comfyui.get(f"/view?filename={comfyui.prefix}/a.png&type=input")).status == 404
    assert (await comfyui.get(f"/view?filename=a.png&subfolder={comfyui.prefix}&type=input")).status == 200


async def test_view_makes_previews_and_splits_channels(comfyui: Comfy) -> None:
    name = f"{comfyui.prefix}.png"
    await comfyui.upload(name, png((1, 2, 3, 4), mode="RGBA"))  # type: ignore[arg-type]
    where = f"/view?filename={name}&type=input"
    preview = await comfyui.get(f"{where}&preview=webp;50")
    assert (preview.headers["Content-Type"], opened(preview.body).format) == ("image/webp", "WEBP")
    preview = await comfyui.get(f"{where}&preview=jpeg")
    assert (preview.headers["Content-Type"], opened(preview.body).format) == ("image/jpeg", "JPEG")
    assert opened((await comfyui.get(f"{where}&channel=rgb")).body).getpixel((0, 0)) == (1, 2, 3)
    assert opened((await comfyui.get(f"{where}&channel=a")).body).getpixel((0, 0)) == (0, 0, 0, 4)


async def test_html_is_served_as_a_download(comfyui: Comfy) -> None:
    await comfyui.upload(f"{comfyui.prefix}.html", b"<script>")
    reply = await comfyui.get(f"/view?filename={comfyui.prefix}.html&type=input")
    assert reply.headers["Content-Type"] == "application/octet-stream"


async def test_a_saved_image_carries_its_prompt_and_the_editors_graph(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    extra = {"extra_pnginfo": {"workflow": {"nodes": ["é"]}, "other": 1}}
    entry = await comfyui.entry(await comfyui.submit(graph, extra_data=extra))
    name = entry["outputs"]["2"]["images"][0]["filename"]
    image = opened((await comfyui.get(f"/view?filename={name}")).body)
    image.load()
    assert isinstance(image, Image.Image)
    texts = {key: json.loads(value) for key, value in image.info.items()}
    assert texts == {"prompt": graph, "workflow": {"nodes": ["é"]}, "other": 1}


async def test_a_prefix_with_folders_saves_into_a_sub_folder(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["2"]["inputs"]["filename_prefix"] = f"{comfyui.prefix}/dir/x_%width%"
    image = await saved(comfyui, graph)
    assert image == {"filename": "x_16_00001_.png", "subfolder": f"{comfyui.prefix}/dir", "type": "output"}
    found = await comfyui.get(f"/view?filename=x_16_00001_.png&subfolder={comfyui.prefix}/dir")
    assert found.status == 200


async def test_a_prefix_out_of_the_output_folder_fails_while_running(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["2"]["inputs"]["filename_prefix"] = "../../evil"
    error = (await comfyui.entry(await comfyui.submit(graph)))["status"]["messages"][-1]
    assert error[0] == "execution_error"
    assert error[1]["exception_type"] == "Exception"
    assert error[1]["exception_message"].startswith(
        "**** ERROR: Saving image outside the output folder is not allowed."
    )


async def test_numbers_go_on_after_the_highest_in_the_folder(comfyui: Comfy) -> None:
    await comfyui.upload(f"{comfyui.prefix}_00041_.png", png(), type="output")
    image = await saved(comfyui, comfyui.picture())
    assert image["filename"] == f"{comfyui.prefix}_00042_.png"


async def test_a_previewed_image_is_temporary(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    image = await saved(comfyui, graph)
    assert image["type"] == "temp"
    assert image["filename"].startswith("ComfyUI_temp_")
    assert (await comfyui.get(f"/view?filename={image['filename']}&type=temp")).status == 200


async def test_an_uploaded_image_goes_through_the_image_nodes(comfyui: Comfy) -> None:
    name = (await comfyui.upload(f"{comfyui.prefix}.png", png("red", 32))).json["name"]
    await comfyui.upload(name, png("blue", 16), subfolder=comfyui.prefix)
    scaled = {"upscale_method": "nearest-exact", "width": 24, "height": 0, "crop": "disabled"}
    graph: Graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "3": {"class_type": "LoadImage", "inputs": {"image": f"{comfyui.prefix}/{name} [input]"}},
        "4": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["3", 0]}},
        "5": {"class_type": "ImageInvert", "inputs": {"image": ["4", 0]}},
        "6": {"class_type": "ImageCrop", "inputs": {"image": ["5", 0], "width": 16, "height": 8, "x": 0, "y": 0}},
        "7": {"class_type": "ImageScale", "inputs": {"image": ["6", 0], **scaled}},
        "8": {"class_type": "ImageBlur", "inputs": {"image": ["7", 0], "blur_radius": 1, "sigma": 1.0}},
        "9": {"class_type": "ImageScaleBy", "inputs": {"image": ["8", 0], "upscale_method": "area", "scale_by": 2.0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["9", 0], "filename_prefix": comfyui.prefix}},
    }
    entry = await comfyui.entry(await comfyui.submit(graph))
    images = entry["outputs"]["2"]["images"]
    assert len(images) == 2
    colours = []
    for image in images:
        picture = opened((await comfyui.get(f"/view?filename={image['filename']}")).body)
        assert picture.size == (48, 24)
        colours.append(picture.getpixel((24, 12)))
    expected = [(0, 255, 255), (255, 255, 0)]
    for colour, wanted in zip(colours, expected, strict=True):
        assert isinstance(colour, tuple)
        assert all(abs(one - other) <= 2 for one, other in zip(colour, wanted, strict=True))


async def test_masks_become_images(comfyui: Comfy) -> None:
    await comfyui.upload(f"{comfyui.prefix}.png", png((9, 9, 9, 51), 16, "RGBA"))  # type: ignore[arg-type]
    loaded = {"image": f"{comfyui.prefix}.png", "channel": "alpha"}
    graph: Graph = {
        "1": {"class_type": "LoadImageMask", "inputs": loaded},
        "3": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 0]}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": comfyui.prefix}},
        "4": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 8, "height": 8}},
        "5": {"class_type": "MaskToImage", "inputs": {"mask": ["4", 0]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": f"{comfyui.prefix}-s"}},
    }
    outputs = (await comfyui.entry(await comfyui.submit(graph)))["outputs"]
    shades = []
    for node_id in ("2", "6"):
        name = outputs[node_id]["images"][0]["filename"]
        shades.append(opened((await comfyui.get(f"/view?filename={name}")).body).getpixel((4, 4)))
    assert shades == [(204, 204, 204), (255, 255, 255)]


async def test_a_changed_input_file_is_loaded_again(idle: Comfy) -> None:
    name = f"{idle.prefix}.png"
    await idle.upload(name, png("red"))
    graph = idle.picture()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    first = await saved(idle, graph)
    assert await saved(idle, graph) == first
    await idle.upload(name, png("red"), overwrite="true")
    assert await saved(idle, graph) == first  # the same bytes
    await idle.upload(name, png("blue"), overwrite="true")
    assert await saved(idle, graph) != first


async def test_a_short_film_is_saved_as_an_animated_webp(comfyui: Comfy) -> None:
    graph = comfyui.picture(batch=3)
    second = {"width": 16, "height": 16, "batch_size": 1, "color": 255}
    graph["3"] = {"class_type": "EmptyImage", "inputs": second}
    graph["4"] = {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["3", 0]}}
    settings = {"fps": 6.0, "lossless": True, "quality": 80, "method": "default"}
    inputs = {"images": ["4", 0], "filename_prefix": comfyui.prefix, **settings}
    graph["2"] = {"class_type": "SaveAnimatedWEBP", "inputs": inputs}
    entry = await comfyui.entry(await comfyui.submit(graph))
    shown = entry["outputs"]["2"]
    name = f"{comfyui.prefix}_00001_.webp"
    assert shown == {"images": [{"filename": name, "subfolder": "", "type": "output"}], "animated": [True]}
    reply = await comfyui.get(f"/view?filename={name}")
    assert reply.headers["Content-Type"] == "image/webp"
    assert getattr(opened(reply.body), "n_frames", 1) > 1


async def test_a_video_is_saved_as_mp4(comfyui: Comfy) -> None:
    graph = comfyui.picture(size=64, batch=3)
    graph["3"] = {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}}
    inputs = {"video": ["3", 0], "filename_prefix": comfyui.prefix, "format": "auto", "codec": "auto"}
    graph["2"] = {"class_type": "SaveVideo", "inputs": inputs}
    entry = await comfyui.entry(await comfyui.submit(graph))
    name = f"{comfyui.prefix}_00001_.mp4"
    expected = {"images": [{"filename": name, "subfolder": "", "type": "output"}], "animated": [True]}
    assert entry["outputs"]["2"] == expected
    reply = await comfyui.get(f"/view?filename={name}")
    assert reply.headers["Content-Type"] == "video/mp4"
    assert reply.body[4:8] == b"ftyp"
