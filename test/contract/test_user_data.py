"""A user's files and settings: /userdata, /v2/userdata, /settings."""

from test.contract.comfy import Comfy


async def test_a_folder_is_unknown_until_something_lies_in_it(comfyui: Comfy) -> None:
    folder = comfyui.prefix
    reply = await comfyui.get(f"/userdata?dir={folder}")
    assert (reply.status, reply.text) == (404, "Directory not found")
    reply = await comfyui.post(f"/userdata/{folder}%2Fone.json", data=b"{}")
    assert (reply.status, reply.json) == (200, f"{folder}/one.json")
    assert (await comfyui.get(f"/userdata?dir={folder}")).json == ["one.json"]


async def test_lists_are_relative_to_their_folder_and_come_in_four_shapes(comfyui: Comfy) -> None:
    folder = comfyui.prefix
    for name in ("one.json", "sub%2Ftwo.json"):
        await comfyui.post(f"/userdata/{folder}%2F{name}", data=b"{}")
    assert (await comfyui.get(f"/userdata?dir={folder}")).json == ["one.json"]
    deep = (await comfyui.get(f"/userdata?dir={folder}&recurse=true")).json
    assert sorted(deep) == ["one.json", "sub/two.json"]
    split = (await comfyui.get(f"/userdata?dir={folder}&recurse=true&split=true")).json
    assert ["sub/two.json", "sub", "two.json"] in split
    full = (await comfyui.get(f"/userdata?dir={folder}&full_info=true")).json
    assert [set(each) for each in full] == [{"path", "size", "modified", "created"}]
    assert (full[0]["path"], full[0]["size"]) == ("one.json", 2)


async def test_a_folder_must_be_named_and_inside(comfyui: Comfy) -> None:
    reply = await comfyui.get("/userdata")
    assert (reply.status, reply.text) == (400, "Directory not provided")
    reply = await comfyui.get("/userdata?dir=../..")
    assert (reply.status, reply.text) == (403, "Invalid directory")


async def test_the_slash_in_a_file_name_must_be_percent_encoded(comfyui: Comfy) -> None:
    assert (await comfyui.post(f"/userdata/{comfyui.prefix}/x.json", data=b"{}")).status == 405
    assert (await comfyui.post(f"/userdata/{comfyui.prefix}%2Fx.json", data=b"{}")).status == 200
    assert (await comfyui.get(f"/userdata/{comfyui.prefix}%2Fx.json")).body == b"{}"
    assert (await comfyui.get(f"/api/userdata/{comfyui.prefix}%2Fx.json")).body == b"{}"


async def test_a_file_is_overwritten_unless_forbidden(comfyui: Comfy) -> None:
    where = f"/userdata/{comfyui.prefix}%2Fx.json"
    await comfyui.post(where, data=b"1")
    reply = await comfyui.post(f"{where}?overwrite=false", data=b"2")
    assert (reply.status, reply.text) == (409, "File already exists")
    reply = await comfyui.post(f"{where}?full_info=true", data=b"22")
    assert (reply.json["path"], reply.json["size"]) == (f"{comfyui.prefix}/x.json", 2)


async def test_a_file_can_be_moved_and_deleted(comfyui: Comfy) -> None:
    folder = comfyui.prefix
    await comfyui.post(f"/userdata/{folder}%2Fa.json", data=b"1")
    reply = await comfyui.post(f"/userdata/{folder}%2Fa.json/move/{folder}%2Fb.json")
    assert (reply.status, reply.json) == (200, f"{folder}/b.json")
    assert (await comfyui.get(f"/userdata/{folder}%2Fa.json")).status == 404
    reply = await comfyui.request("DELETE", f"/userdata/{folder}%2Fb.json")
    assert (reply.status, reply.body) == (204, b"")
    assert (await comfyui.request("DELETE", f"/userdata/{folder}%2Fb.json")).status == 404
    assert (await comfyui.post(f"/userdata/{folder}%2Fb.json/move/c")).status == 404


async def test_files_outside_the_users_folder_are_forbidden(comfyui: Comfy) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert (await comfyui.request(method, "/userdata/..%2F..%2Fevil")).status == 403


async def test_the_second_list_names_folders_too(comfyui: Comfy) -> None:
    folder = comfyui.prefix
    await comfyui.post(f"/userdata/{folder}%2Fsub%2Ftwo.json", data=b"{}")
    entries = (await comfyui.get(f"/v2/userdata?path={folder}")).json
    assert entries[0] == {"name": "sub", "path": f"{folder}/sub", "type": "directory"}
    assert set(entries[1]) == {"name", "path", "type", "size", "modified"}
    assert (entries[1]["path"], entries[1]["type"]) == (f"{folder}/sub/two.json", "file")
    for path, status in (("nope", 404), (f"{folder}%2Fsub%2Ftwo.json", 400), ("..%2F..", 400)):
        assert (await comfyui.get(f"/v2/userdata?path={path}")).status == status


async def test_settings_are_merged_and_any_json_value(comfyui: Comfy) -> None:
    name = comfyui.prefix
    headers = {"Content-Type": "text/plain"}
    reply = await comfyui.post("/settings", data=f'{{"{name}.a": 1}}', headers=headers)
    assert (reply.status, reply.body) == (200, b"")
    assert (await comfyui.post(f"/settings/{name}.b", data="[true]", headers=headers)).status == 200
    settings = (await comfyui.get("/settings")).json
    assert (settings[f"{name}.a"], settings[f"{name}.b"]) == (1, [True])
    assert (await comfyui.get(f"/settings/{name}.b")).json == [True]
    assert (await comfyui.get(f"/settings/{name}.none")).body == b"null"
