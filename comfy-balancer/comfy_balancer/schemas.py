"""What goes over the wire: frozen Structs with a description per field and an example that works when it is pasted.

Requests are decoded straight from the body's bytes by `msgspec` (unknown fields are refused), answers are encoded by
it; the OpenAPI document is made from the same Structs.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from comfy_shared.models import EventType, Policy, Status
from comfy_shared.output_options import OutputOptions

Text = dict[str, str]
Time = Annotated[str, Meta(description="ISO 8601, UTC, with milliseconds.", examples=["2026-11-23T07:31:00.123Z"])]

TASK_ID = "01m83n8xxt1me7canaqndb59s4"
SMOKE_PROMPT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 256, "batch_size": 1, "color": 3381759}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "smoke"}},
}
SMOKE_TASK: dict[str, Any] = {
    "workflow": "smoke",
    "parameters": {"width": 256, "height": 256},
    "priority": 5,
    "labels": {"project": "demo"},
}


class TaskRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task to accept: a workflow's name with parameters, or a raw prompt. Exactly one of `workflow` and `prompt`."""

    workflow: Annotated[str, Meta(description="Name of a workflow.", examples=["smoke"])] | None = None
    parameters: Annotated[
        dict[str, Any],
        Meta(
            description="Values of the workflow's parameters. A list makes a sweep: a batch of tasks, one for each "
            "value. A file is the sha256 of an upload, `task:ID/NAME` (an output of a completed task), a data URL or "
            "an http(s) URL.",
            examples=[{"width": 256}],
        ),
    ] = {}
    sweep: Annotated[
        Literal["product", "zip"],
        Meta(
            description="How lists in `parameters` are combined: every value with every other, or the first of each, "
            "the second of each … An open seed is drawn once for the sweep; write -1 in a list to have each drawn.",
            examples=["product"],
        ),
    ] = "product"
    prompt: (
        Annotated[dict[str, Any], Meta(description="A ComfyUI graph in API format.", examples=[SMOKE_PROMPT])] | None
    ) = None
    priority: Annotated[int, Meta(ge=0, le=9, description="9 goes first, 0 last.", examples=[5])] = 5
    timeout: (
        Annotated[
            float, Meta(gt=0, description="Seconds that an attempt may run; absent: the server's.", examples=[3600])
        ]
        | None
    ) = None
    labels: Annotated[
        Text,
        Meta(max_length=16, description="Names and values to find the task by.", examples=[{"project": "demo"}]),
    ] = {}
    require: Annotated[
        Text,
        Meta(
            max_length=16,
            description="Labels that an agent must have to run the task.",
            examples=[{"pool": "video"}],
        ),
    ] = {}
    max_attempts: Annotated[int, Meta(ge=1, le=10, description="Attempts before the task fails.", examples=[3])] = 3
    reuse: Annotated[
        bool,
        Meta(
            description="Share one render with tasks of the very same prompt and inputs that set it too: "
            "join the one that waits or runs, or get the stored result at once.",
        ),
    ] = False
    output: OutputOptions | None = None


class Links(Struct, frozen=True, kw_only=True):
    """Where to go on from a task."""

    self: Annotated[str, Meta(description="The task.", examples=[f"/api/v1/tasks/{TASK_ID}"])]
    events: Annotated[str, Meta(description="Its events as server-sent events.")]
    websocket: Annotated[str, Meta(description="The same events over a websocket.")]
    outputs: Annotated[str, Meta(description="Its outputs.")]
    prompt: Annotated[str, Meta(description="The graph that runs.")]
    cancel: Annotated[str, Meta(description="POST cancels the task.")]
    retry: Annotated[str, Meta(description="POST puts a failed or canceled task back.")]
    explain: Annotated[str, Meta(description="Why it waits.")]


class ProgressView(Struct, frozen=True, kw_only=True):
    """How far the prompt is."""

    fraction: Annotated[float, Meta(description="Of the whole prompt, 0 to 1.", examples=[0.45])]
    node: Annotated[str, Meta(description="Id of the node that runs now.", examples=["3"])] | None
    node_class: Annotated[str, Meta(description="Its class.", examples=["KSampler"])] | None
    value: Annotated[float, Meta(description="Step of that node.", examples=[9])]
    maximum: Annotated[float, Meta(description="Steps of that node; 0: it tells none.", examples=[20])]
    nodes_done: Annotated[int, Meta(description="Nodes that are finished or cached.", examples=[4])]
    nodes_total: Annotated[int, Meta(description="Nodes of the prompt.", examples=[7])]


class OutputView(Struct, frozen=True, kw_only=True):
    """A file that the prompt produced."""

    name: Annotated[str, Meta(description="Unique within the task.", examples=["smoke_00001_.png"])]
    node: Annotated[str, Meta(description="Id of the node that produced it.", examples=["3"])]
    kind: Annotated[str, Meta(description="What ComfyUI lists it under.", examples=["images"])]
    content_type: Annotated[str, Meta(description="Its media type.", examples=["image/png"])]
    size: Annotated[int, Meta(description="Bytes.", examples=[1048])]
    sha256: Annotated[str, Meta(description="Of its bytes, hex.")]
    temporary: Annotated[bool, Meta(description="A preview that ComfyUI would have deleted.")]
    original: (
        Annotated[str, Meta(description="The output that this one was converted from; null: it is one itself.")] | None
    )
    problem: Annotated[str, Meta(description="Why it could not be converted as wished; null: nothing.")] | None
    url: Annotated[
        str, Meta(description="Where to load it.", examples=[f"/api/v1/tasks/{TASK_ID}/outputs/smoke_00001_.png"])
    ]


class ErrorView(Struct, frozen=True, kw_only=True):
    """Why the last attempt, or the task, failed."""

    code: Annotated[str, Meta(description="Stable word.", examples=["node_failed"])]
    message: Annotated[str, Meta(description="For a person.", examples=["failed on purpose"])]
    node: Annotated[str, Meta(description="Id of the node at fault.", examples=["2"])] | None
    node_class: Annotated[str, Meta(description="Its class.", examples=["LoadImage"])] | None
    details: Annotated[dict[str, Any], Meta(description="ComfyUI's own words.")]


class TaskView(Struct, frozen=True, kw_only=True):
    """A task: one accepted request to run one prompt."""

    id: Annotated[str, Meta(description="Sorts by time.", examples=[TASK_ID])]
    status: Annotated[
        Status, Meta(description="pending, running, completed, failed or canceled.", examples=["running"])
    ]
    owner: Annotated[str, Meta(description="Who submitted it.", examples=["admin"])]
    workflow: (
        Annotated[str, Meta(description="Name of its workflow; null for a raw prompt.", examples=["smoke"])] | None
    )
    workflow_version: (
        Annotated[int, Meta(description="Which version of it; null for a raw prompt.", examples=[3])] | None
    )
    parameters: Annotated[
        dict[str, Any], Meta(description="Effective values, a drawn seed included; lists of tasks leave long ones out.")
    ]
    batch: Annotated[str, Meta(description="The batch that it came with; null: none.")] | None
    labels: Annotated[Text, Meta(description="As submitted.", examples=[{"project": "demo"}])]
    priority: Annotated[int, Meta(description="9 goes first, 0 last.", examples=[5])]
    timeout: Annotated[float, Meta(description="Seconds that an attempt may run.", examples=[3600])]
    position: Annotated[int, Meta(description="Tasks ahead of it; null unless pending.", examples=[0])] | None
    attempt: Annotated[int, Meta(description="Number of the last attempt; 0: none yet.", examples=[1])]
    max_attempts: Annotated[int, Meta(description="Attempts before the task fails.", examples=[3])]
    agent: Annotated[str, Meta(description="Who holds or held the last attempt.", examples=["gpu-1"])] | None
    reused: (
        Annotated[
            str,
            Meta(
                description="Task whose result it shares; null: its own.",
                examples=[TASK_ID],
            ),
        ]
        | None
    )
    progress: ProgressView | None
    outputs: Annotated[list[OutputView], Meta(description="What it produced; empty until it completed.")]
    error: ErrorView | None
    created: Time
    started: Annotated[Time, Meta(description="Of the last attempt.")] | None
    finished: Annotated[Time, Meta(description="When it completed, failed or was canceled.")] | None
    timestamps: Annotated[
        dict[str, str], Meta(description="When each status began.", examples=[{"pending": "2026-11-23T07:31:00.123Z"}])
    ]
    links: Links


class TaskList(Struct, frozen=True, kw_only=True):
    """One page of tasks, newest first."""

    tasks: Annotated[list[TaskView], Meta(description="Without prompts and long parameter values.")]
    next: Annotated[str, Meta(description="`cursor` of the next page; null: there is none.")] | None


class CheckView(Struct, frozen=True, kw_only=True):
    """A task that would be accepted."""

    ok: Annotated[bool, Meta(description="True; what does not fit is answered as a problem.", examples=[True])]
    agents: Annotated[
        list[str],
        Meta(
            description="Ids of the agents that could run it now, busy or not; empty: it would wait.",
            examples=[["gpu-1"]],
        ),
    ]
    lane: Annotated[str, Meta(description="Tasks with the same needs share it.", examples=["c1b8a1f0f3a95d0e"])]


class AgentFit(Struct, frozen=True, kw_only=True):
    """Whether an agent can take a pending task."""

    id: Annotated[str, Meta(description="Its id.", examples=["gpu-1"])]
    eligible: Annotated[bool, Meta(description="It can claim the task as it is now.", examples=[False])]
    reason: Annotated[str, Meta(description="Why, or why not.", examples=["lacks the file 'flux1-dev.safetensors'"])]
    in_memory: Annotated[bool, Meta(description="Its instance holds the task's lane in memory.", examples=[False])]
    holds: Annotated[int, Meta(description="Tasks that it holds now.", examples=[1])]


class EstimateView(Struct, frozen=True, kw_only=True):
    """When a pending task will probably start, in seconds from now."""

    likely: Annotated[float, Meta(description="The best guess.", examples=[41.5])]
    earliest: Annotated[float, Meta(description="Four of five start between this …", examples=[20.0])]
    latest: Annotated[float, Meta(description="… and this.", examples=[71.0])]


class ExplainView(Struct, frozen=True, kw_only=True):
    """Why a task is where it is."""

    task_id: Annotated[str, Meta(description="Which task.", examples=[TASK_ID])]
    status: Annotated[Status, Meta(description="Its status.", examples=["pending"])]
    explanation: Annotated[
        str,
        Meta(
            description="In a sentence.",
            examples=["It waits for an agent that can run it: none of the 2 known can now."],
        ),
    ]
    lane: Annotated[str, Meta(description="Tasks with the same needs share it.", examples=["c1b8a1f0f3a95d0e"])]
    require: Annotated[
        Text, Meta(description="Labels that its agent must have; empty unless pending.", examples=[{"pool": "video"}])
    ]
    ahead: Annotated[int, Meta(description="Tasks ahead of it; null unless pending.", examples=[12])] | None
    ahead_in_lane: (
        Annotated[int, Meta(description="Tasks ahead of it in its lane; null unless pending.", examples=[3])] | None
    )
    agents: Annotated[list[AgentFit], Meta(description="All that are remembered, by id; empty unless pending.")]
    estimate: (
        Annotated[EstimateView, Meta(description="When it starts; null: it does not wait, or no agent can run it.")]
        | None
    ) = None


class EventView(Struct, frozen=True, kw_only=True):
    """One line of a task's story."""

    seq: Annotated[int, Meta(description="1, 2, 3 … within the task, without gaps.", examples=[4])]
    task_id: Annotated[str, Meta(description="Whose story.", examples=[TASK_ID])]
    type: Annotated[EventType, Meta(description="What happened.", examples=["progress"])]
    at: Time
    attempt: Annotated[int, Meta(description="Of which attempt; 0: before the first.", examples=[1])]
    data: Annotated[dict[str, Any], Meta(description="More, by type: agent, fraction, node, output, message.")]


class OutputList(Struct, frozen=True, kw_only=True):
    """What a task produced."""

    outputs: Annotated[list[OutputView], Meta(description="Empty until the task completed.")]


class InputView(Struct, frozen=True, kw_only=True):
    """A stored input file. Its sha256 stands for it in parameters and prompts."""

    sha256: Annotated[
        str,
        Meta(
            description="Of its bytes, hex.",
            examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
        ),
    ]
    size: Annotated[int, Meta(description="Bytes.", examples=[1048])]
    content_type: Annotated[str, Meta(description="Its media type, by its bytes.", examples=["image/png"])]
    extension: Annotated[str, Meta(description="By its bytes.", examples=[".png"])]


class InputList(Struct, frozen=True, kw_only=True):
    """The stored files, in the order of the parts."""

    inputs: Annotated[list[InputView], Meta(description="One for each file part.")]


class DeviceView(Struct, frozen=True, kw_only=True):
    """A GPU, or the CPU, of an instance."""

    name: Annotated[str, Meta(description="As ComfyUI names it.", examples=["cuda:0 NVIDIA RTX 4090"])]
    type: Annotated[str, Meta(description="cuda, cpu …", examples=["cuda"])]
    vram_total: Annotated[int, Meta(description="Bytes.", examples=[25757220864])]


class AgentView(Struct, frozen=True, kw_only=True):
    """An agent and its instance."""

    id: Annotated[str, Meta(description="Its id.", examples=["gpu-1"])]
    address: Annotated[str, Meta(description="Of its own HTTP routes.", examples=["http://gpu-1:8101"])]
    state: Annotated[
        str, Meta(description="ready, draining, waiting (its instance is absent), gone (silent).", examples=["ready"])
    ]
    reason: Annotated[str, Meta(description="Why it is not ready.")]
    alive: Annotated[bool, Meta(description="Its heartbeat has not lapsed.", examples=[True])]
    draining: Annotated[bool, Meta(description="Told to claim no more.", examples=[False])]
    running: Annotated[list[str], Meta(description="Ids of the tasks on its instance.", examples=[[TASK_ID]])]
    storing: Annotated[list[str], Meta(description="Ids of the tasks whose outputs are being stored.")]
    labels: Annotated[Text, Meta(description="As configured.", examples=[{"room": "1"}])]
    comfyui_version: Annotated[str, Meta(description="Of its instance.", examples=["0.3.64"])]
    devices: Annotated[list[DeviceView], Meta(description="Of its instance.")]
    vram_free: Annotated[int, Meta(description="Bytes, at the last heartbeat.")]
    ram_free: Annotated[int, Meta(description="Bytes, at the last heartbeat.")]
    seen: Time


class AgentList(Struct, frozen=True, kw_only=True):
    """The agents, by id."""

    agents: Annotated[list[AgentView], Meta(description="All that are remembered.")]


class PolicyView(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which task an idle agent gets next."""

    policy: Annotated[
        Policy,
        Meta(
            description="`lane`: by what is in memory; `fifo`: by priority and age alone; `round-robin`, "
            "`least-loaded` and `weighted-round-robin` (free VRAM and load) bind a task to an agent when it comes.",
            examples=["lane"],
        ),
    ]


class TicketView(Struct, frozen=True, kw_only=True):
    """Stands for your log-in once, as `?ticket=` of a GET or a websocket."""

    ticket: Annotated[str, Meta(description="To put into the query; good for one use.")]
    expires: Time


class Health(Struct, frozen=True, kw_only=True):
    """Whether this process works."""

    status: Annotated[str, Meta(description="`ok`, or `unavailable`.", examples=["ok"])]
