"""What somebody publishes → a workflow, checked. Pure functions; no I/O.

A graph comes as the editor saves it, in API format, or inside a picture, which may carry both; parameters as in a
parameter file, as an object or as YAML. What is missing is made from what the agents offer: the graph in API format is
converted, parameters are inferred. All that can be wrong is told with the field, and with node, input and limit where
there is one. A class or file that no agent has now is no fault of a graph in API format: it is a warning.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from comfy_balancer.checks import check_outputs, check_structure
from comfy_balancer.comfyui_api.definitions import merged
from comfy_balancer.eligibility import Member, check_needs, different
from comfy_balancer.validation import check_complete, placed
from comfy_balancer.workflow_schemas import WorkflowRequest
from comfy_shared.errors import FieldProblem, InvalidTask
from comfy_shared.http.problems import invalid
from comfy_shared.models import Prompt
from comfy_shared.needs import Offer, needs_of
from comfy_shared.workflows import ConversionError, PictureError, Workflow, WorkflowError, make_from_request
from comfy_shared.workflows.checks import Flaw
from comfy_shared.workflows.loading import PARAMETERS, check_name
from comfy_shared.workflows.pictures import Graphs, read_picture

MOST_WARNINGS = 20
_NODE_KEYS = ("class_type", "inputs", "_meta")


def graphs_in(graph: dict[str, Any]) -> Graphs:
    """A graph of either format: the editor's has a list of nodes."""
    if isinstance(graph.get("nodes"), list):
        return Graphs(workflow=graph, prompt=None)
    return Graphs(workflow=None, prompt=graph)


def graphs_in_picture(data: bytes, field: str) -> Graphs:
    """The graphs that a PNG or WebP picture carries. Raises InvalidTask."""
    try:
        graphs = read_picture(data)
    except PictureError as error:
        raise invalid(field, str(error)) from None
    editor = graphs.workflow if isinstance((graphs.workflow or {}).get("nodes"), list) else None
    if editor is None and graphs.prompt is None:
        raise invalid(field, "the picture's workflow is no graph of the editor: it has no list of nodes")
    return Graphs(workflow=editor, prompt=_without_marks(graphs.prompt))


def _without_marks(prompt: dict[str, Any] | None) -> dict[str, Any] | None:
    """Without what an instance notes in the nodes while it runs them (`is_changed`)."""
    if prompt is None:
        return None
    return {
        node_id: {key: node[key] for key in _NODE_KEYS if key in node} if isinstance(node, dict) else node
        for node_id, node in prompt.items()
    }


def author(
    request: WorkflowRequest, graphs: Graphs, members: Sequence[Member], *, node_limit: int
) -> tuple[Workflow, list[str]]:
    """The workflow that is to be published, and why no agent could run it now.

    Raises:
        InvalidTask: what is wrong with it.
    """
    try:
        check_name(request.name)
    except WorkflowError as error:
        raise invalid("name", error.message) from None
    if graphs.prompt is not None:
        _check_structure(request.name, graphs.prompt, node_limit)
    offers = different([member for member in members if member.agent.alive]) or different(members)
    try:
        workflow = make_from_request(
            request.name,
            graphs.prompt,
            graphs.workflow,
            request.parameters or {},
            title=request.title,
            description=request.description,
            object_info=merged(offers) or None,
        )
    except WorkflowError as error:
        raise _misfit(error) from None
    if graphs.prompt is None:
        _check_structure(request.name, workflow.prompt, node_limit)
    return workflow, _check_runs(workflow, offers, members)


def _check_structure(name: str, prompt: Prompt, node_limit: int) -> None:
    if problems := check_structure(prompt, node_limit=node_limit):
        raise _refused(problems, name, prompt)


def _misfit(error: WorkflowError) -> InvalidTask:
    cause = error.__cause__
    field, node, parameter = "graph", "", ""
    if isinstance(cause, ConversionError) and cause.node_id:
        field, node = f"graph.{cause.node_id}", cause.node_id
    elif isinstance(cause, Flaw) and cause.parameter:
        parameter = cause.parameter
        field = ".".join(part for part in ("parameters", parameter, cause.key) if part)
    elif (error.file or "").endswith(PARAMETERS):
        field = "parameters"
    message = f"line {error.line}: {error.message}" if error.line else error.message
    problem = FieldProblem(field=field, message=message, workflow=error.workflow, node=node, parameter=parameter)
    return InvalidTask((problem,))


def _check_runs(workflow: Workflow, offers: Sequence[Offer], members: Sequence[Member]) -> list[str]:
    """Raises InvalidTask when no agent would ever run all of it; the warnings tell what none has now."""
    prompt = workflow.prompt
    needs = needs_of(prompt, offers)
    filled = {
        f"prompt.{target.node_id}.inputs.{target.input_name}"
        for parameter in workflow.parameters
        if parameter.required or parameter.type.is_file or parameter.default is not None
        for target in parameter.targets
    }
    problems = check_outputs(prompt, offers) + check_complete(prompt, needs, offers)
    # What a parameter always sets is checked when it is set.
    if problems := [problem for problem in problems if problem.field not in filled]:
        raise _refused(problems, workflow.name, prompt)
    lacking = check_needs(prompt, needs, offers, members, hold=False)
    return [f"{problem.field}: {problem.message}" for problem in lacking[:MOST_WARNINGS]]


def _refused(problems: Sequence[FieldProblem], name: str, prompt: Mapping[str, Any]) -> InvalidTask:
    """The same problems under the field that was sent."""
    found = placed(InvalidTask(tuple(problems)), None, prompt if isinstance(prompt, dict) else {}).problems
    return InvalidTask(
        tuple(
            msgspec.structs.replace(problem, workflow=name, field=problem.field.replace("prompt", "graph", 1))
            for problem in found
        )
    )
