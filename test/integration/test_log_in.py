"""The log-in of all doors: keys, tickets, guesses, clear text and the open port (rows S1, S3, S4, S15, S20)."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from comfy_balancer.login.api_keys import ApiKeys
from comfy_shared.callers import Role
from comfy_shared.errors import NotFound
from comfy_shared.keys import Keys
from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import SMOKE, TASKS, Balancer, running, serving
from test.support.redis_server import RedisServer
from test.support.settings import settings_for
from test.support.waiting import wait_until

PASSWORD = "correct-horse-battery"


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings, login_failures=5) as made:
        yield made


@pytest.fixture
def api_keys(redis: Redis, keys: Keys) -> ApiKeys:
    return ApiKeys(redis, keys)


@contextmanager
def coming_from(balancer: Balancer, address: str, *, scheme: str = "http", port: int = 80) -> Iterator[None]:
    """Requests of the client seem to come from there, and to arrive at that port."""
    inner = balancer.client._transport.app  # type: ignore[attr-defined]

    async def moved(scope: Any, receive: Any, send: Any) -> None:
        changes = {"client": (address, 4711), "scheme": scheme, "server": ("127.0.0.1", port)}
        await inner({**scope, **changes}, receive, send)

    balancer.client._transport.app = moved  # type: ignore[attr-defined]
    try:
        yield
    finally:
        balancer.client._transport.app = inner  # type: ignore[attr-defined]


async def status(balancer: Balancer, path: str = TASKS, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await balancer.client.get(path, auth=None, headers=named)).status_code


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TestKeys:
    async def test_a_key_is_taken_in_every_way_that_clients_have(self, balancer: Balancer, api_keys: ApiKeys) -> None:
        key = await api_keys.create("anna", Role.USER)
        for headers in (
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"bearer  {key}"},
            {"x-api-key": key},
            {"Authorization": basic("whoever", key)},
            {"Authorization": basic("", key)},
        ):
            answer = await balancer.client.request("POST", TASKS, json=SMOKE, auth=None, headers=headers)
            assert (answer.status_code, answer.json()["owner"]) == (202, "anna"), headers

    async def test_a_user_sees_its_own_and_an_admin_everything(self, balancer: Balancer, api_keys: ApiKeys) -> None:
        """Row S15."""
        owners = {name: await api_keys.create(name, Role.USER) for name in ("anna", "ben")}
        root = await api_keys.create("root", Role.ADMIN)
        answer = await balancer.client.request(
            "POST", TASKS, json=SMOKE, auth=None, headers={"x-api-key": owners["anna"]}
        )
        path = f"{TASKS}/{answer.json()['id']}"
        assert await status(balancer, path, x_api_key=owners["anna"]) == 200
        assert await status(balancer, path, x_api_key=owners["ben"]) == 404
        assert await status(balancer, path, x_api_key=root) == 200
        policy = "/api/v1/policy"
        for key, wanted in ((owners["anna"], 403), (root, 200)):
            put = await balancer.client.request(
                "PUT", policy, json={"policy": "lane"}, auth=None, headers={"x-api-key": key}
            )
            assert put.status_code == wanted

    async def test_what_is_stored_does_not_let_anybody_in(
        self, redis: Redis, keys: Keys, balancer: Balancer, api_keys: ApiKeys
    ) -> None:
        key = await api_keys.create("anna", Role.USER)
        secret = key.rpartition("_")[2]
        stored = cast("dict[bytes, bytes]", await redis.hgetall(keys.api_keys))
        ((key_id, raw),) = stored.items()
        assert secret.encode() not in raw
        digest = json.loads(raw)["digest"]
        for stolen in (digest, f"comfy_{key_id.decode()}_{digest[:48]}", f"comfy_{key_id.decode()}_{'0' * 48}"):
            assert await status(balancer, x_api_key=stolen) == 401

    @pytest.mark.parametrize("shown", ["", "x", "comfy_", "comfy__", "comfy_0_0", "COMFY", "é", "comfy_*_*", "null"])
    async def test_what_is_no_key_is_refused(self, balancer: Balancer, shown: str) -> None:
        raw = shown.encode()
        for headers in ([(b"x-api-key", raw)], [(b"authorization", b"Bearer " + raw)]):
            assert (await balancer.client.get(TASKS, auth=None, headers=headers)).status_code == 401

    async def test_two_log_ins_are_none(self, balancer: Balancer, api_keys: ApiKeys) -> None:
        key = await api_keys.create("anna", Role.USER)
        assert await status(balancer, x_api_key=key, Authorization=f"Bearer {key}") == 401
        twice = [("x-api-key", key), ("x-api-key", key)]
        assert (await balancer.client.get(TASKS, auth=None, headers=twice)).status_code == 401

    async def test_a_revoked_key_is_refused_by_all_within_a_second(
        self, redis: Redis, settings: SharedSettings, balancer: Balancer, api_keys: ApiKeys
    ) -> None:
        key = await api_keys.create("anna", Role.USER)
        async with running(redis, settings) as other:
            for replica in (balancer, other):
                assert await status(replica, x_api_key=key) == 200
            await api_keys.revoke(key.split("_")[1])
            end = asyncio.get_running_loop().time() + 1.05
            for replica in (balancer, other):

                async def refused(replica: Balancer = replica) -> bool:
                    return await status(replica, x_api_key=key) == 401

                await wait_until(refused, "the key is refused", timeout=end - asyncio.get_running_loop().time())

    async def test_revoking_what_is_not_there_is_told(self, api_keys: ApiKeys) -> None:
        with pytest.raises(NotFound):
            await api_keys.revoke("0" * 12)

    async def test_keys_are_listed_with_their_last_use(self, balancer: Balancer, api_keys: ApiKeys) -> None:
        used, unused = await api_keys.create("anna", Role.USER), await api_keys.create("ben", Role.ADMIN)
        await status(balancer, x_api_key=used)
        listed = {key.id: key for key in await api_keys.list()}
        assert {key.owner: key.role for key in listed.values()} == {"anna": Role.USER, "ben": Role.ADMIN}
        assert listed[used.split("_")[1]].used_at >= listed[used.split("_")[1]].created_at
        assert listed[unused.split("_")[1]].used_at == 0

    @pytest.mark.parametrize("owner", ["", " ", "a b", "a:b", "-x", "x" * 65, "ä", "a/b", "{x}", "a\n"])
    async def test_an_odd_owner_gets_none(self, api_keys: ApiKeys, owner: str) -> None:
        with pytest.raises(ValueError, match="owner"):
            await api_keys.create(owner, Role.USER)

    async def test_hostile_bytes_in_redis_let_nobody_in_and_break_nothing(
        self, redis: Redis, keys: Keys, balancer: Balancer
    ) -> None:
        key = f"comfy_{'a' * 12}_{'b' * 48}"
        record = b'{"digest":"%s","owner":"x","role":"%s","created_at":1}'
        damaged = (b"", b"{}", b"\xff", b"[" * 5000, record % (b"zz", b"user"), record % (b"0" * 64, b"boss"))
        for raw in damaged:
            await redis.hset(keys.api_keys, "a" * 12, raw)
            assert await status(balancer, x_api_key=key) in (401, 503)
        await redis.delete(keys.api_keys)
        await redis.set(keys.api_keys, "x")
        assert await status(balancer, x_api_key=key) == 503
        assert (await balancer.client.get(TASKS)).status_code == 200

    async def test_no_line_of_the_log_and_no_answer_shows_a_key(
        self, balancer: Balancer, api_keys: ApiKeys, capsys: pytest.CaptureFixture[str]
    ) -> None:
        key = await api_keys.create("anna", Role.USER)
        answers = [
            await balancer.client.get(path, auth=None, headers={"Authorization": f"Bearer {given}"})
            for path in (TASKS, "/nope")
            for given in (key, key[:-1] + "x")
        ]
        text = "".join(answer.text + str(answer.headers) for answer in answers) + capsys.readouterr().out
        assert key.rpartition("_")[2][:40] not in text


class TestTickets:
    async def ticket(self, balancer: Balancer, **options: Any) -> str:
        answer = await balancer.client.request("POST", "/api/v1/tickets", **options)
        assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
        assert answer.json()["expires"].endswith("Z")
        return str(answer.json()["ticket"])

    async def test_a_ticket_opens_one_websocket(self, balancer: Balancer, api_keys: ApiKeys) -> None:
        key = await api_keys.create("anna", Role.USER)
        headers = {"x-api-key": key}
        task = (await balancer.client.request("POST", TASKS, json=SMOKE, auth=None, headers=headers)).json()
        ticket = await self.ticket(balancer, auth=None, headers=headers)
        async with serving(balancer) as address:
            url = f"ws://{address}{task['links']['websocket']}?ticket={ticket}"
            async with connect(url) as socket:
                assert json.loads(await socket.recv())["type"] == "queued"
            with pytest.raises(InvalidStatus) as refused:
                await connect(url)
            assert refused.value.response.status_code == 401
            for named in ({"x-api-key": key}, {"Authorization": f"Bearer {key}"}, {"Authorization": basic("x", key)}):
                async with connect(url.partition("?")[0], additional_headers=named) as socket:
                    assert json.loads(await socket.recv())["type"] == "queued"

    async def test_a_ticket_is_its_owners(self, balancer: Balancer, api_keys: ApiKeys) -> None:
        task = await balancer.submit()
        key = await api_keys.create("anna", Role.USER)
        mine, his = await self.ticket(balancer), await self.ticket(balancer, auth=None, headers={"x-api-key": key})
        assert await status(balancer, f"{task['links']['self']}?ticket={his}") == 404
        assert await status(balancer, f"{task['links']['self']}?ticket={mine}") == 200
        assert await status(balancer, f"{task['links']['self']}?ticket={mine}") == 401

    async def test_a_ticket_reads_and_does_not_write(self, balancer: Balancer) -> None:
        ticket = await self.ticket(balancer)
        answer = await balancer.client.request("POST", f"{TASKS}?ticket={ticket}", json=SMOKE, auth=None)
        assert answer.status_code == 401
        assert await status(balancer, f"{TASKS}?ticket={ticket}&limit=1") == 200

    async def test_what_stands_beside_a_ticket_stays(self, balancer: Balancer) -> None:
        ticket = await self.ticket(balancer)
        answer = await balancer.client.get(f"{TASKS}?label=a%3Db&ticket={ticket}&limit=x", auth=None)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "limit"

    @pytest.mark.parametrize("ticket", ["", "x", "x" * 43, "%00" * 43, "é" * 43, "x" * 5000])
    async def test_what_is_no_ticket_is_refused(self, balancer: Balancer, ticket: str) -> None:
        assert await status(balancer, f"{TASKS}?ticket={ticket}") == 401

    async def test_redis_knows_only_its_hash_and_forgets_it(
        self, redis: Redis, keys: Keys, balancer: Balancer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ticket = await self.ticket(balancer)
        (place,) = [key async for key in redis.scan_iter(keys.base + "ticket:*")]
        assert ticket.encode() not in place + await redis.get(place)
        assert 0 < await redis.pttl(place) <= 30_000
        async with serving(balancer) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
            assert (await client.get(f"{TASKS}?ticket={ticket}")).status_code == 200
            assert (await client.get(f"{TASKS}?ticket={ticket}")).status_code == 401
        assert ticket not in capsys.readouterr().out


class TestGuesses:
    """Row S4."""

    async def test_an_address_is_kept_out_on_all_replicas_and_others_are_not(
        self, redis: Redis, settings: SharedSettings, balancer: Balancer
    ) -> None:
        async with running(redis, settings, login_failures=5) as other:
            for number in range(5):
                with coming_from(replica := (balancer, other)[number % 2], "203.0.113.7"):
                    assert await status(replica, Authorization=basic("admin", f"guess {number}")) == 401
            for replica in (balancer, other):
                with coming_from(replica, "203.0.113.7"):
                    answer = await replica.client.get(TASKS, auth=("admin", "wrong"))
                    assert (answer.status_code, answer.json()["code"]) == (429, "too-many-guesses")
                    assert 0 < int(answer.headers["retry-after"]) <= 60
                    assert (await replica.client.get(TASKS)).status_code == 429  # a right one helps no more
                    assert await status(replica, "/healthz") == 200
                with coming_from(replica, "203.0.113.8"):
                    assert (await replica.client.get(TASKS)).status_code == 200

    async def test_a_replica_that_saw_no_guess_keeps_the_guesser_out_too(
        self, redis: Redis, settings: SharedSettings, balancer: Balancer
    ) -> None:
        with coming_from(balancer, "203.0.113.7"):
            for number in range(6):
                await status(balancer, x_api_key=f"guess {number}")
        async with running(redis, settings, login_failures=5) as other:
            with coming_from(other, "203.0.113.7"):
                assert (await other.client.get(TASKS)).status_code == 429

    async def test_the_window_ends(self, redis: Redis, settings: SharedSettings) -> None:
        async with running(redis, settings, login_failures=1, login_window=0.4) as balancer:
            for number, wanted in enumerate((401, 429, 429)):
                assert await status(balancer, Authorization=f"Bearer {number}") == wanted

            async def let_in() -> bool:
                return (await balancer.client.get(TASKS)).status_code == 200

            await wait_until(let_in, "the window is over", timeout=3)

    async def test_the_same_wrong_log_in_again_is_hardly_a_guess(self, redis: Redis, settings: SharedSettings) -> None:
        """A client that goes on with an old password is not kept out at once, but in the end."""
        async with running(redis, settings, login_failures=1) as balancer:
            answers = [await status(balancer, Authorization=basic("admin", "old")) for _ in range(27)]
            assert answers == [401] * 25 + [429] * 2

    async def test_who_shows_nothing_guesses_nothing(self, balancer: Balancer) -> None:
        for _ in range(10):
            assert await status(balancer) == 401
        assert (await balancer.client.get(TASKS)).status_code == 200

    async def test_tickets_are_guessed_no_more_than_passwords(self, balancer: Balancer) -> None:
        for number in range(5):
            assert await status(balancer, f"{TASKS}?ticket={number:043}") == 401
        assert await status(balancer, f"{TASKS}?ticket={'x' * 43}") == 429


class TestClearText:
    """Row S20."""

    @pytest.fixture
    async def careful(self, redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
        changes = {"comfy_env": "production", "api_password": PASSWORD, "trusted_proxies": "10.0.0.0/8"}
        async with running(redis, settings, **changes) as made:
            made.client.auth = httpx.BasicAuth("admin", PASSWORD)
            yield made

    @pytest.mark.parametrize(
        ("address", "scheme", "proto", "wanted"),
        [
            ("203.0.113.7", "http", "", 403),
            ("203.0.113.7", "http", "https", 403),
            ("203.0.113.7", "https", "", 200),
            ("127.0.0.1", "http", "", 200),
            ("10.0.0.1", "http", "https", 200),
            ("10.0.0.1", "http", "http", 403),
        ],
    )
    async def test_production_takes_a_log_in_only_where_nobody_listens(
        self, careful: Balancer, api_keys: ApiKeys, address: str, scheme: str, proto: str, wanted: int
    ) -> None:
        key = await api_keys.create("anna", Role.USER)
        headers = {"x-forwarded-proto": proto} if proto else {}
        with coming_from(careful, address, scheme=scheme):
            assert (await careful.client.get(TASKS, headers=headers)).status_code == wanted
            assert await status(careful, x_api_key=key, **headers) == wanted
            assert (await careful.client.get("/healthz", auth=None)).status_code == 200

    async def test_the_refusal_does_not_ask_for_a_password(self, careful: Balancer) -> None:
        with coming_from(careful, "203.0.113.7"):
            answer = await careful.client.get(TASKS, auth=None)
        assert (answer.status_code, answer.json()["code"]) == (403, "clear-text")
        assert "www-authenticate" not in answer.headers

    async def test_development_does_not_mind(self, balancer: Balancer) -> None:
        with coming_from(balancer, "203.0.113.7"):
            assert (await balancer.client.get(TASKS)).status_code == 200

    async def test_guesses_behind_a_proxy_are_counted_by_client(self, redis: Redis, settings: SharedSettings) -> None:
        async with running(redis, settings, login_failures=1, trusted_proxies="10.0.0.0/8") as balancer:
            with coming_from(balancer, "10.0.0.1"):
                for key, wanted in (("x", 401), ("y", 429)):
                    assert await status(balancer, x_api_key=key, x_forwarded_for="198.51.100.1") == wanted
                assert await status(balancer, x_api_key="x", x_forwarded_for="198.51.100.2") == 401


class TestOpenPort:
    @pytest.fixture
    async def opened(self, redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
        async with running(redis, settings, open_port=7998, open_port_owner="studio") as made:
            yield made

    async def test_requests_there_act_for_its_owner(self, opened: Balancer) -> None:
        with coming_from(opened, "127.0.0.1", port=7998):
            for host in ("127.0.0.1:7998", "localhost:7998", "LOCALHOST", "[::1]:7998", "192.168.1.5"):
                answer = await opened.client.request("POST", TASKS, json=SMOKE, auth=None, headers={"Host": host})
                assert (answer.status_code, answer.json()["owner"]) == (202, "studio"), host
            assert (await opened.client.get(TASKS, auth=("x", "wrong"), headers={"Host": "localhost"})).is_success
            put = await opened.client.put("/api/v1/policy", json={"policy": "fifo"}, headers={"Host": "localhost"})
            assert put.status_code == 403

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:7998", "", "[", "127.0.0.1.evil.example", "x y"])
    async def test_a_page_under_another_name_does_not_reach_it(self, opened: Balancer, host: str) -> None:
        """A browser on that machine: the page's own name resolves to 127.0.0.1."""
        with coming_from(opened, "127.0.0.1", port=7998):
            answer = await opened.client.get(TASKS, auth=None, headers={"Host": host, "Origin": f"http://{host}"})
            assert (answer.status_code, answer.json()["code"]) == (403, "foreign-host")

    async def test_the_main_port_asks_as_before(self, opened: Balancer) -> None:
        for headers in ({}, {"Host": "127.0.0.1:7998"}, {"X-Forwarded-Port": "7998"}, {"Forwarded": "host=x:7998"}):
            assert (await opened.client.get(TASKS, auth=None, headers=headers)).status_code == 401

    async def test_another_address_of_the_same_port_asks_for_the_log_in(self, opened: Balancer) -> None:
        inner = opened.client._transport.app  # type: ignore[attr-defined]

        async def elsewhere(scope: Any, receive: Any, send: Any) -> None:
            await inner({**scope, "server": ("192.168.1.5", 7998)}, receive, send)

        opened.client._transport.app = elsewhere  # type: ignore[attr-defined]
        assert await status(opened) == 401

    @pytest.mark.parametrize(
        "changes",
        [
            {"open_port": 7998},
            {"open_port": 7999, "open_port_owner": "x"},
            {"open_port": 7998, "open_port_owner": "a b"},
            {"open_port": 7998, "open_port_owner": "x", "open_port_role": "boss"},
        ],
    )
    async def test_half_a_setting_is_refused(
        self, redis: Redis, settings: SharedSettings, changes: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match=r"open_port|OPEN_PORT"):
            async with running(redis, settings, **changes):
                pass


async def test_while_redis_is_away_the_operator_gets_in_and_keys_wait(own_redis: RedisServer, tmp_path: Any) -> None:
    settings = settings_for(own_redis.port, "away", tmp_path / "files", redis_timeout=0.5)
    redis = Redis(port=own_redis.port)
    key = await ApiKeys(redis, Keys("away")).create("anna", Role.USER)
    async with running(redis, settings) as balancer:
        assert await status(balancer, x_api_key=key) == 200
        own_redis.stop()

        async def away() -> bool:
            return await status(balancer, "/docs", x_api_key=key) == 503

        await wait_until(away, "keys are not known any more")
        answer = await balancer.client.get("/docs", auth=None, headers={"Authorization": f"Bearer {key}"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["code"] == "unavailable"
        assert (await balancer.client.get("/docs")).status_code == 200
        assert (await balancer.client.get("/docs", auth=("admin", "wrong"))).status_code == 401
        assert (await balancer.client.post("/api/v1/tickets")).status_code == 503
        own_redis.start()
        await wait_until(lambda: _is(balancer, key), "the key is known again")
    await redis.aclose()


async def _is(balancer: Balancer, key: str) -> bool:
    return await status(balancer, "/docs", x_api_key=key) == 200
