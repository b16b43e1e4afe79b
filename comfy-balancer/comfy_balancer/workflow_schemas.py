"""What goes over the wire about workflows and their versions; see `schemas`."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from comfy_balancer.schemas import SMOKE_PROMPT, Time

GRAPH = SMOKE_PROMPT
PARAMETERS = {"width": {"node_id": "1", "input_name": "width", "type": "integer", "minimum": 64, "maximum": 2048}}


class CanaryView(Struct, frozen=True, kw_only=True):
    """A version that runs a share of the tasks before it is made the active one."""

    version: Annotated[int, Meta(description="Its number.", examples=[4])]
    share: Annotated[int, Meta(description="Percent of the tasks.", examples=[10])]


class FileProblemView(Struct, frozen=True, kw_only=True):
    """What is wrong with the files of a workflow."""

    message: Annotated[str, Meta(description="For a person.", examples=["is not JSON: Expecting value"])]
    file: Annotated[str, Meta(description="Name within the folder.", examples=["smoke-api.json"])] | None
    line: Annotated[int, Meta(description="Counted from 1.", examples=[12])] | None
    agent: Annotated[str, Meta(description="Who found it.", examples=["gpu-1"])]


class WorkflowRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A workflow to publish: the first version of a new one, or the next version of one that exists."""

    name: Annotated[str, Meta(description="1 to 64 letters, digits, - and _.", examples=["portrait"])]
    graph: Annotated[
        dict[str, Any], Meta(description="A ComfyUI graph: as the editor saves it, or in API format.", examples=[GRAPH])
    ]
    parameters: Annotated[
        dict[str, Any] | str | None,
        Meta(
            description="As in NAME.yaml under `parameters`: an object, or YAML as a text. What is not given is "
            "taken from the graph.",
            examples=[PARAMETERS],
        ),
    ] = None
    title: Annotated[str, Meta(max_length=200, description="For a person; absent: the name.")] = ""
    description: Annotated[str, Meta(max_length=10000, description="What it makes.")] = ""
    note: Annotated[str, Meta(max_length=1000, description="What is new in this version.")] = ""
    activate: Annotated[bool, Meta(description="Make it the active version. The first one always is.")] = True


class CanaryRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version is to run which share of the tasks."""

    version: Annotated[int, Meta(ge=1, description="Its number.", examples=[4])]
    share: Annotated[int, Meta(ge=0, le=100, description="Percent of the tasks; 0 ends it.", examples=[10])]


class ChangeView(Struct, frozen=True, kw_only=True):
    """One thing that differs from the version before."""

    kind: Annotated[str, Meta(description="added, removed or changed.", examples=["changed"])]
    where: Annotated[str, Meta(description="Node, input or parameter.", examples=["node 3 (KSampler), input steps"])]
    before: Annotated[str, Meta(description="The value as JSON, shortened.", examples=["20"])] | None
    after: Annotated[str, Meta(description="The same, in this version.", examples=["30"])] | None


class VersionView(Struct, frozen=True, kw_only=True):
    """An immutable version of a workflow."""

    version: Annotated[int, Meta(description="Its number, from 1.", examples=[4])]
    active: Annotated[bool, Meta(description="Tasks run it.", examples=[False])]
    share: Annotated[int, Meta(description="Percent of the tasks that it runs as the canary.", examples=[10])]
    author: Annotated[str, Meta(description="Who published it: a user, or an agent.", examples=["admin"])]
    note: Annotated[str, Meta(description="What the author says is new.", examples=["more steps"])]
    published: Time
    digest: Annotated[str, Meta(description="sha256 of its content, hex.")]
    changes: Annotated[list[ChangeView], Meta(description="What differs from the version before; at most 200.")]
    more_changes: Annotated[int, Meta(description="Changes that are not listed.", examples=[0])]


class VersionList(Struct, frozen=True, kw_only=True):
    """The versions of a workflow, newest first."""

    versions: Annotated[list[VersionView], Meta(description="At most 1,000 are kept.")]


class ParameterView(Struct, frozen=True, kw_only=True):
    """A named, typed slot of a workflow."""

    name: Annotated[str, Meta(description="Its name.", examples=["steps"])]
    type: Annotated[str, Meta(description="What it takes.", examples=["integer"])]
    required: Annotated[bool, Meta(description="It has to be given.", examples=[False])]
    default: Annotated[Any, Meta(description="Its value when absent; null: none, or a drawn seed.", examples=[20])]
    limits: Annotated[
        dict[str, Any],
        Meta(description="minimum, maximum, step, max_length, choices.", examples=[{"minimum": 1, "maximum": 150}]),
    ]
    description: Annotated[str, Meta(description="For a person.", examples=["Sampling steps."])]
    group: Annotated[str, Meta(description="Heading in a form.", examples=["Sampling"])]


class WorkflowSummary(Struct, frozen=True, kw_only=True):
    """A workflow in the list."""

    name: Annotated[str, Meta(description="Its name.", examples=["smoke"])]
    title: Annotated[str, Meta(description="For a person.", examples=["Smoke test"])]
    description: Annotated[str, Meta(description="What it makes.")]
    version: Annotated[int, Meta(description="Number of the active version.", examples=[3])]
    canary: Annotated[CanaryView, Meta(description="A version that runs a share of the tasks.")] | None
    problem: Annotated[FileProblemView, Meta(description="What is wrong with its files; the version stays.")] | None
    digest: Annotated[str, Meta(description="Of the active version's content.")]
    parameters: Annotated[
        list[str], Meta(description="Names of its parameters.", examples=[["width", "height", "color"]])
    ]
    url: Annotated[str, Meta(description="The whole of it.", examples=["/api/v1/workflows/smoke"])]


class WorkflowList(Struct, frozen=True, kw_only=True):
    """The workflows, by name."""

    workflows: Annotated[list[WorkflowSummary], Meta(description="Those that are sound.")]
    problems: Annotated[dict[str, FileProblemView], Meta(description="What is wrong with workflow files, by workflow.")]


class WorkflowView(Struct, frozen=True, kw_only=True):
    """A named template with its parameters."""

    name: Annotated[str, Meta(description="Its name.", examples=["smoke"])]
    title: Annotated[str, Meta(description="For a person.", examples=["Smoke test"])]
    description: Annotated[str, Meta(description="What it makes.")]
    version: Annotated[int, Meta(description="Number of the version shown here.", examples=[3])]
    active: Annotated[int, Meta(description="Number of the active version.", examples=[3])]
    newest: Annotated[int, Meta(description="Number of the newest version.", examples=[4])]
    canary: Annotated[CanaryView, Meta(description="A version that runs a share of the tasks.")] | None
    problem: Annotated[FileProblemView, Meta(description="What is wrong with its files; the version stays.")] | None
    digest: Annotated[str, Meta(description="Of this version's content.")]
    parameters: Annotated[list[ParameterView], Meta(description="In the order to show them.")]
    schema: Annotated[dict[str, Any], Meta(description="JSON Schema (2020-12) of the `parameters` object.")]
    warnings: Annotated[list[str], Meta(description="Why no agent could run it now; told when it is published.")] = []


class VersionContent(Struct, frozen=True, kw_only=True):
    """A version with its content."""

    version: VersionView
    workflow: WorkflowView
    graph: Annotated[dict[str, Any], Meta(description="The graph in API format.")]


class PublishedView(Struct, frozen=True, kw_only=True):
    """What publishing did."""

    outcome: Annotated[
        str,
        Meta(
            description="`published`: a new version; `activated`: an older one with the same content; `unchanged`.",
            examples=["published"],
        ),
    ]
    version: Annotated[int, Meta(description="Number of the version with this content.", examples=[4])]
    workflow: WorkflowView
