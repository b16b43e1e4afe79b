"""What somebody publishes → a workflow, checked. Pure functions; no I/O.

A graph comes as the editor saves it or in API format; parameters as in a parameter file, as an object or as YAML. All
that can be wrong with them is told with the field, and with node, input and limit where there is one. A class or file
that no agent has now is no fault of the workflow: it is a warning.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from comfy_balancer.checks import check_outputs, check_structure
from comfy_balancer.eligibility import Member, check_needs, different
from comfy_balancer.validation import check_complete, placed
from comfy_balancer.workflow_schemas import WorkflowRequest
from comfy_shared.errors import FieldProblem, InvalidTask
from comfy_shared.http.problems import invalid
from comfy_shared.models import Prompt
from comfy_shared.needs import Offer, needs_of
from comfy_shared.workflows import Workflow, WorkflowError, make_from_request
from comfy_shared.workflows.loading import PARAMETERS, check_name

MOST_WARNINGS = 20


def author(request: WorkflowRequest, members: Sequence[Member], *, node_limit: int) -> tuple[Workflow, list[str]]:
    """The workflow that is to be published, and why no agent could run it now.

    Raises:
        InvalidTask: what is wrong with it.
    """
    try:
        check_name(request.name)
    except WorkflowError as error:
        raise invalid("name", error.message) from None
    offers = different(members)
    prompt, editor = _graphs(request.graph)
    if problems := check_structure(prompt, node_limit=node_limit):
        raise _refused(problems, request.name, prompt)
    try:
        workflow = make_from_request(
            request.name,
            prompt,
            editor,
            request.parameters or {},
            title=request.title,
            description=request.description,
        )
    except WorkflowError as error:
        raise _misfit(error) from None
    return workflow, _check_runs(workflow, offers, members)


def _graphs(graph: dict[str, Any]) -> tuple[Prompt, dict[str, Any] | None]:
    """The graph in API format, and the editor's."""
    return graph, None


def _misfit(error: WorkflowError) -> InvalidTask:
    field = "parameters" if (error.file or "").endswith(PARAMETERS) else "graph"
    message = f"line {error.line}: {error.message}" if error.line else error.message
    return InvalidTask((FieldProblem(field=field, message=message, workflow=error.workflow),))


def _check_runs(workflow: Workflow, offers: Sequence[Offer], members: Sequence[Member]) -> list[str]:
    """Raises InvalidTask when no agent would ever run all of it; the warnings tell what none has now."""
    prompt = workflow.prompt
    needs = needs_of(prompt, offers)
    filled = {
        f"prompt.{target.node_id}.inputs.{target.input_name}"
        for parameter in workflow.parameters
        for target in parameter.targets
    }
    problems = check_outputs(prompt, offers) + check_complete(prompt, needs, offers)
    # What a parameter sets is checked when it is set.
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
