"""Every Redis key name, in one place.

All keys share the hash tag `{NAMESPACE}`, so that one Lua transition may touch any of them on Redis Cluster too. A
key whose last part is
only known inside a script (the id of the task at the head of a lane) is reached through a prefix that is itself
passed in KEYS.

| key | type | life | written by |
|---|---|---|---|
| clock | string: ms added to TIME | only tests | tests |
| sequence | string: counter | permanent | submit |
| queue | zset: task → order | while tasks wait | submit, claim, give_back, cancel, retry, sweep |
| lanes | zset: lane → order of its head | while tasks wait | the same |
| lane:LANE | zset: task → order | while tasks wait | the same |
| turn:LANE:OWNER | zset: task → order, of one owner | while tasks wait | the same |
| owners:LANE | hash: owner → tasks that wait in the lane | while tasks wait | the same |
| waiting, working | hash: owner → tasks that wait, that run | while there are any | the same, settle |
| usage | hash: owner → GPU ms lately and when that was | permanent | settle, give_back, cancel |
| reuse:FINGERPRINT | string: the task that renders, or rendered, this prompt | retention | submit, settle, cancel |
| followers:ID | set: tasks that wait for this one's result | while it waits or runs | the same |
| output-uses | hash: task → others that name its files | while any does | the same, purge |
| assigned:AGENT | zset: task → order, bound early to the agent | while tasks wait | submit, give_back, sweep |
| rotation | string: counter of such bindings | permanent | the same |
| vram | zset: agent → bytes of VRAM | as agent:ID | register |
| needs:LANE | string: JSON of Needs | while tasks wait, then 30 days | submit, retry, claim |
| leases | zset: task → expiry | while tasks run | claim, renew, adopt, settle, give_back, cancel, sweep |
| task:ID | hash | until settled, then retention | every transition |
| story:ID | list: the task's events, a line each | as task:ID | every transition |
| events | stream: all events, capped | permanent | every transition |
| index:all, index:KIND:VALUE | zset: task → created | as the tasks | submit, settle, purge |
| batch:ID | hash: owner, axes …, tasks counted by status | as its tasks | submit, each new status, purge |
| batches:all, batches:owner:OWNER | zset: batch → created | as the batches | submit, purge |
| finished | zset: task → finished | as the tasks | settle, cancel, retry, purge |
| idempotency:OWNER:KEY | string: fingerprint + ids | `idempotency_ttl` | submit |
| agents | zset: agent → heartbeat expiry | permanent; lapsed ones leave | register, heartbeat, sweep |
| agent:ID | hash: record, session | `agent_retention` after the last heartbeat | register, heartbeat |
| verdicts:ID | hash: lane → 1 can, 0 cannot | as agent:ID | claim, register |
| held:ID | hash: prompt id → task that the agent holds | while it holds any | claim, settle, give_back, cancel, sweep |
| idle | zset: agent → idle since | while idle | claim, wake |
| draining | set: agents told to drain | until resumed | drain, resume |
| offer:DIGEST | string: object info, compressed | `agent_retention` after the last use | register |
| workflow:NAME | hash: content:N, about:N, editor:N of versions; digest:DIGEST → N | permanent | publish, unpublish |
| workflows | hash: name → active, newest, canary, share, born | permanent | publish, activate, canary, unpublish |
| workflow-files | hash: name → digest of what the files last held | permanent | publish |
| workflow-saves | hash: agent, name → digest, birth, version of what its editor last saved | permanent | publish |
| workflow-problems | hash: name → when, what is wrong with its files | permanent, 1,000 at most | complain |
| inputs | zset: file address → last use | while the file is kept | submit, upload, purge |
| input-uses | hash: file address → tasks that name it | while any does | submit, purge |
| asset:ID | hash: an owner's upload: its file, record, time | `input_retention` after use | asset_keep, asset_find |
| partner:TOKEN | string: a task's key for partner nodes | a day | submit of the Comfy API v2 |
| uploads:OWNER | hash: place of an upload → its content's address | `task_retention` after the last | ComfyUI clients |
| userdata:OWNER | hash: path → where its content is, size, times | until the owner deletes it | ComfyUI clients |
| settings:OWNER | hash: setting → JSON | until the owner deletes it | ComfyUI clients |
| damaged | zset: key or task → found | permanent, capped at 1,000 | claim, sweep |
| memory:ID | hash: lanes in the instance's memory, last used first; … | a day after use | claim, settle, give_back |
| servers:LANE | set: agents that hold the lane in memory | a day after use | claim, register, sweep |
| stats:LANE, stats:all | hash: averages of a run, and of one with its load | 30 days after use | settle |
| policy | string: the policy's name; lane when absent | permanent | set_policy |
| swept | string: time of the last sweep | permanent | sweep |
| guesses:ADDRESS | hash: how many wrong log-ins, and the different ones | `login_window` after the first | log-in |
| api-keys | hash: id → JSON of the key: hash, owner, role, time | permanent | comfyctl keys |
| api-key-used:ID | string: ms | 90 days after the use | log-in, at most once a minute |
| link-secret | string: the secret of signed links | permanent | whoever signs first |
| ticket:HASH | string: JSON of who it stands for | `ticket_seconds`, or its use | POST /tickets, log-in |

Channel `agent:ID` (pub/sub, not a key): wake, cancel, drain. It is a hint: what it says is also in the keys above.
Channel `live:OWNER`: frames of the owner's running tasks, for who watches just now (`live`).
"""

PERMANENT = frozenset(
    {
        "clock", "sequence", "queue", "lanes", "leases", "events", "finished", "agents", "idle", "draining",
        "workflows", "workflow-files", "workflow-saves", "workflow-problems", "inputs", "input-uses", "damaged",
        "swept",
        "policy", "rotation", "vram", "waiting", "working", "usage", "output-uses", "api-keys", "link-secret",
    },
)  # fmt: skip


class Keys:
    """The key names of one namespace; attribute names are the names in the headers of the Lua files."""

    def __init__(self, namespace: str = "comfy") -> None:
        self.namespace = namespace
        base = self.base = f"{{{namespace}}}:"
        self.clock = base + "clock"
        self.sequence = base + "sequence"
        self.queue = base + "queue"
        self.lanes = base + "lanes"
        self.lane_prefix = base + "lane:"
        self.turn_prefix = base + "turn:"
        self.owners_prefix = base + "owners:"
        self.waiting = base + "waiting"
        self.working = base + "working"
        self.usage = base + "usage"
        self.reuse_prefix = base + "reuse:"
        self.followers_prefix = base + "followers:"
        self.output_uses = base + "output-uses"
        self.assigned_prefix = base + "assigned:"
        self.rotation = base + "rotation"
        self.vram = base + "vram"
        self.needs_prefix = base + "needs:"
        self.leases = base + "leases"
        self.task_prefix = base + "task:"
        self.story_prefix = base + "story:"
        self.events = base + "events"
        self.index_prefix = base + "index:"
        self.finished = base + "finished"
        self.batch_prefix = base + "batch:"
        self.batches_prefix = base + "batches:"
        self.agents = base + "agents"
        self.agent_prefix = base + "agent:"
        self.verdicts_prefix = base + "verdicts:"
        self.held_prefix = base + "held:"
        self.idle = base + "idle"
        self.draining = base + "draining"
        self.offer_prefix = base + "offer:"
        self.workflow_prefix = base + "workflow:"
        self.workflows = base + "workflows"
        self.workflow_files = base + "workflow-files"
        self.workflow_saves = base + "workflow-saves"
        self.workflow_problems = base + "workflow-problems"
        self.inputs = base + "inputs"
        self.input_uses = base + "input-uses"
        self.asset_prefix = base + "asset:"
        self.partner_prefix = base + "partner:"
        self.damaged = base + "damaged"
        self.swept = base + "swept"
        self.memory_prefix = base + "memory:"
        self.servers_prefix = base + "servers:"
        self.stats_prefix = base + "stats:"
        self.policy = base + "policy"
        self.uploads_prefix = base + "uploads:"
        self.userdata_prefix = base + "userdata:"
        self.settings_prefix = base + "settings:"
        self.guesses_prefix = base + "guesses:"
        self.api_keys = base + "api-keys"
        self.api_key_used_prefix = base + "api-key-used:"
        self.link_secret = base + "link-secret"
        self.ticket_prefix = base + "ticket:"

    def task(self, task_id: str) -> str:
        return self.task_prefix + task_id

    def story(self, task_id: str) -> str:
        return self.story_prefix + task_id

    def idempotency(self, owner: str, key: str) -> str:
        return f"{self.base}idempotency:{owner}:{key}"

    def agent(self, agent_id: str) -> str:
        return self.agent_prefix + agent_id

    def channel(self, agent_id: str) -> str:
        return self.agent_prefix + agent_id

    def uploads(self, owner: str) -> str:
        return self.uploads_prefix + owner

    def userdata(self, owner: str) -> str:
        return self.userdata_prefix + owner

    def settings(self, owner: str) -> str:
        return self.settings_prefix + owner

    def live(self, owner: str) -> str:
        return f"{self.base}live:{owner}"

    def held(self, agent_id: str) -> str:
        return self.held_prefix + agent_id

    def offer(self, digest: str) -> str:
        return self.offer_prefix + digest

    def workflow(self, name: str) -> str:
        return self.workflow_prefix + name

    def partner(self, token: str) -> str:
        return self.partner_prefix + token

    def asset(self, asset_id: str) -> str:
        return self.asset_prefix + asset_id

    def index(self, kind: str, value: str = "") -> str:
        return self.index_prefix + (f"{kind}:{value}" if value else kind)

    def guesses(self, address: str) -> str:
        return self.guesses_prefix + address

    def api_key_used(self, key_id: str) -> str:
        return self.api_key_used_prefix + key_id

    def ticket(self, digest: str) -> str:
        return self.ticket_prefix + digest
