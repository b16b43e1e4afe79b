"""The Lua transitions: one file is one atomic step; its header is checked here, at import, against what Python calls
it with.

A header names KEYS and ARGV; the loader binds those names as locals before the file's own lines, so nobody counts
indexes. `USES` puts parts from `lua/lib` in front, each of which says which names it NEEDS. `REST` names a function for
the values that follow the named ones. A name in KEYS is an attribute of `Keys`, or is given by the caller for the keys
of one task or agent.

Redis runs the whole text at each command, so what stands there costs time whether it is called or not. Of a part only
those definitions are put in front that the script needs, itself or through another, and what only rare functions use
is made within them; all are the body of one function, without the keys: to make a function is slow in proportion to the
locals beside it. And calls that wait for Redis together share a command (see `Batcher`): the text is a loop over their
values, each behind the number of them, and one that fails does not keep the others from being done.
"""

import re
from collections.abc import Sequence
from importlib import resources
from typing import cast

from redis.exceptions import NoScriptError

from comfy_shared.batching import Batcher
from comfy_shared.keys import Keys

Argument = str | bytes | int | float

_LOOP = """
local replies, cursor = {}, 1
while cursor <= #ARGV do
  local done, reply = pcall(transition, cursor)
  if not done and type(reply) ~= 'table' then reply = {err = tostring(reply)} end  -- as Redis' own errors are
  replies[#replies + 1] = reply or false
  cursor = cursor + 1 + ARGV[cursor]
end
{at_end}return replies
"""
_RARE = re.compile(r"local function .*\)  -- rare\b")
_AT_END = "for _, last in ipairs(at_end) do last() end\n"


class Script:
    """One transition.

    Raises:
        ValueError: the header of the file and the names given here differ, or a part lacks a key that it needs.
    """

    def __init__(self, name: str, *, args: tuple[str, ...], extra_keys: tuple[str, ...] = ()) -> None:
        body = _read(f"{name}.lua")
        self.name = name
        self.args = _names(body, "ARGV")
        self.extra_keys = extra_keys
        if self.args != args:
            raise ValueError(f"{name}.lua takes ARGV {self.args}, Python gives {args}")
        unknown = set(_names(body, "KEYS")) - set(vars(Keys())) - set(extra_keys)
        if unknown:
            raise ValueError(f"{name}.lua names unknown KEYS {sorted(unknown)}")
        parts = nested(needed(self._parts(body), body), body)
        used = _words("\n".join([*parts, body]))
        self.keys = tuple(key for key in _names(body, "KEYS") if key in used)
        rest = [f"local function {name}(i) return ARGV[cursor + {len(args)} + i] end" for name in _names(body, "REST")]
        step = ["local function transition(cursor)", _bind("ARGV", self.args, "cursor + "), *rest, body, "end"]
        loop = _LOOP.replace("{at_end}", _AT_END if "at_end" in used else "")
        self.text = "\n".join([_bind("KEYS", self.keys), "return (function()", *parts, *step, loop, "end)()"])
        self._sha: str | None = None
        self._extras = [(at, key) for at, key in enumerate(self.keys) if key in extra_keys]
        self._resolved: tuple[Keys, list[str]] | None = None  # those of the last caller, who is nearly always the next

    def _parts(self, body: str) -> list[str]:
        parts = []
        for part in _names(body, "USES"):
            text = _read(f"lib/{part}.lua")
            missing = set(_names(text, "NEEDS")) - set(_names(body, "KEYS"))
            if missing:
                raise ValueError(f"{self.name}.lua uses {part} and lacks its KEYS {sorted(missing)}")
            parts.append(text)
        return parts

    async def __call__(
        self,
        redis: Batcher,
        keys: Keys,
        extra_keys: dict[str, str] | None = None,
        rest: Sequence[bytes] = (),
        **args: Argument,
    ) -> object:
        """Runs the step in one round trip (two the first time a Redis sees it)."""
        names = self._names_of(keys)
        for at, name in self._extras:
            names[at] = (extra_keys or {})[name]
        values = [args[name] for name in self.args]
        values += rest
        if self._sha is None:
            self._sha = cast("bytes", await redis.call("SCRIPT", "LOAD", self.text)).decode()
        try:
            return await redis.share(("EVALSHA", self._sha, len(names), *names), values)
        except NoScriptError:  # Redis came back empty
            return await redis.share(("EVAL", self.text, len(names), *names), values)

    def _names_of(self, keys: Keys) -> list[str]:
        """What the keys are called there; those that the caller gives are still empty."""
        if self._resolved is None or self._resolved[0] is not keys:
            self._resolved = keys, [getattr(keys, key, "") for key in self.keys]
        return self._resolved[1].copy()


def _read(file: str) -> str:
    return (resources.files("comfy_shared") / "lua" / file).read_text()


def _names(text: str, head: str) -> tuple[str, ...]:
    match = re.search(rf"^-- {head}:(.*)$", text, re.MULTILINE)
    return tuple(match.group(1).split()) if match else ()


def needed(parts: Sequence[str], body: str) -> list[str]:
    """Of the definitions in `parts`, in their order, those that `body` names, itself or through another.

    A definition starts at a `local` at the begin of a line and goes on until the next.
    """
    found: list[str] = []
    named = _words(body)
    for definition in reversed([each for part in parts for each in re.split(r"^(?=local )", part, flags=re.MULTILINE)]):
        if named & defined(definition):
            found.append(definition.rstrip())
            named |= _words(definition)
    return found[::-1]


def nested(definitions: Sequence[str], body: str) -> list[str]:
    """Puts what only rare functions use inside them: then it is made when one of them is called, not at each command.

    A function is rare whose first line ends with a comment that begins with that word.
    """
    places = range(len(definitions))
    words = [_words(each) for each in definitions]
    homes: list[set[int] | None] = [None] * len(definitions)  # the rare functions that it goes into; None: it stays
    for at in reversed(places):
        users = [user for user in places if user > at and words[user] & defined(definitions[at])]
        if not definitions[at].startswith("local function") or _words(body) & defined(definitions[at]):
            continue
        within = [{user} if _RARE.match(definitions[user]) else homes[user] for user in users]
        if None not in within:
            homes[at] = {home for each in within if each is not None for home in each}

    def text(at: int) -> str:
        inner = [text(each) for each in places if at in (homes[each] or ())]
        if not inner:
            return definitions[at]
        (name,) = defined(definitions[at])
        lines = "\n".join([*inner, definitions[at], f"return {name}(...)"]).splitlines()
        return "\n".join([f"local function {name}(...)", *[f"  {line}" for line in lines], "end"])

    return [text(at) for at in places if homes[at] is None]


def defined(definition: str) -> set[str]:
    """The names that it makes."""
    names = re.match(r"local (?:function )?(\w+(?:, \w+)*)", definition)
    return set(names[1].split(", ")) if names else set()


def _words(text: str) -> set[str]:
    """The names in it; neither those in comments nor those in strings."""
    return set(re.findall(r"\w+", re.sub(r"--.*|'[^'\n]*'", "", text)))


def _bind(table: str, names: tuple[str, ...], from_: str = "") -> str:
    if not names:
        return ""
    return f"local {', '.join(names)} = {', '.join(f'{table}[{from_}{i}]' for i in range(1, len(names) + 1))}"


SUBMIT = Script(
    "submit",
    args=("tasks", "batch", "queue_limit", "owner_limit", "ageing_ms", "retention_ms", "fingerprint", "idempotency_ms"),
    extra_keys=("idempotency",),
)
CLAIM = Script("claim", args=("agent", "session", "prompt_id", "lease_ms", "verdicts", "running_limit", "ageing_ms"))
RENEW = Script("renew", args=("session", "lease_ms", "attempts"))
REPORT = Script("report", args=("id", "attempt", "session", "kind", "progress", "data"))
SETTLE = Script(
    "settle",
    args=(
        "id", "attempt", "session", "outcome", "problem", "outputs", "told", "progress", "shown", "gpu_ms", "cold",
        "retention_ms",
    ),
)  # fmt: skip
GIVE_BACK = Script(
    "give_back", args=("id", "attempt", "session", "outcome", "code", "problem", "avoid_ms", "retention_ms")
)
ADOPT = Script("adopt", args=("id", "agent", "session", "lease_ms"))
CANCEL = Script("cancel", args=("id", "retention_ms"))
HIDE = Script("hide", args=("ids",))
RETRY = Script("retry", args=("id", "needs", "attempts", "queue_limit"))
SWEEP = Script("sweep", args=("lease_ms", "avoid_ms", "retention_ms", "agent_retention_ms"))
PURGE = Script("purge", args=("retention_ms", "input_retention_ms", "limit"))
REGISTER = Script(
    "register",
    args=(
        "agent", "session", "takeover", "record", "vitals", "digest", "object_info", "ttl_ms", "retention_ms",
        "vram_total", "vram_free",
    ),
    extra_keys=("offer",),
)  # fmt: skip
DEREGISTER = Script("deregister", args=("agent", "session"))
DRAIN = Script("drain", args=("agent", "on"))
ASSET_KEEP = Script("asset_keep", args=("sha256", "record", "retention_ms"), extra_keys=("asset",))
ASSET_FIND = Script("asset_find", args=("retention_ms",), extra_keys=("asset",))
BATCH = Script("batch", args=("id",))
GUESS = Script("guess", args=("shown", "limit", "window_ms"), extra_keys=("guesses",))
PUBLISH = Script(
    "publish",
    args=(
        "name", "digest", "base", "content", "about", "activate", "files", "agent", "saved", "versions_limit",
        "workflows_limit",
    ),
    extra_keys=("workflow",),
)  # fmt: skip
ACTIVATE = Script("activate", args=("name", "number"), extra_keys=("workflow",))
CANARY = Script("canary", args=("name", "number", "share"), extra_keys=("workflow",))
UNPUBLISH = Script("unpublish", args=("name", "force"), extra_keys=("workflow",))
MIGRATE = Script("migrate", args=("name",), extra_keys=("workflow",))
COMPLAIN = Script("complain", args=("name", "problem", "limit"))
