"""Workflows and their versions → what clients see. Pure functions."""

from comfy_balancer.views import API
from comfy_balancer.workflow_schemas import (
    CanaryView,
    ChangeView,
    FileProblemView,
    ParameterView,
    VersionView,
    WorkflowSummary,
    WorkflowView,
)
from comfy_shared.moments import iso
from comfy_shared.versions import FileProblem, Standing, Version
from comfy_shared.workflows import Parameter, ParameterType, Workflow, json_schema
from comfy_shared.workflows.checks import own_value


def workflow_url(name: str) -> str:
    return f"{API}/workflows/{name}"


def workflow_summary(workflow: Workflow, standing: Standing, problem: FileProblem | None) -> WorkflowSummary:
    return WorkflowSummary(
        name=workflow.name,
        title=workflow.title,
        description=workflow.description,
        version=standing.active,
        canary=_canary(standing),
        problem=problem_view(problem) if problem else None,
        digest=workflow.digest,
        parameters=[parameter.name for parameter in workflow.parameters],
        url=workflow_url(workflow.name),
    )


def workflow_view(
    workflow: Workflow,
    number: int,
    standing: Standing,
    problem: FileProblem | None = None,
    warnings: list[str] | None = None,
) -> WorkflowView:
    """A version of a workflow, in the standing of all."""
    return WorkflowView(
        name=workflow.name,
        title=workflow.title,
        description=workflow.description,
        version=number,
        active=standing.active,
        newest=standing.newest,
        canary=_canary(standing),
        problem=problem_view(problem) if problem else None,
        digest=workflow.digest,
        parameters=[_parameter_view(workflow, parameter) for parameter in workflow.parameters],
        schema=json_schema(workflow),
        warnings=warnings or [],
    )


def _canary(standing: Standing) -> CanaryView | None:
    return CanaryView(version=standing.canary, share=standing.share) if standing.share else None


def problem_view(problem: FileProblem) -> FileProblemView:
    return FileProblemView(message=problem.message, file=problem.file, line=problem.line, agent=problem.agent)


def _parameter_view(workflow: Workflow, parameter: Parameter) -> ParameterView:
    drawn = parameter.type is ParameterType.SEED and parameter.default is None
    has_default = not (parameter.required or parameter.type.is_file or drawn)
    return ParameterView(
        name=parameter.name,
        type=parameter.type.value,
        required=parameter.required,
        default=own_value(workflow.prompt, parameter) if has_default else None,
        limits=parameter.limits(),
        description=parameter.description,
        group=parameter.group,
    )


def version_view(version: Version, standing: Standing) -> VersionView:
    about = version.about
    return VersionView(
        version=version.number,
        active=version.number == standing.active,
        share=standing.share if version.number == standing.canary else 0,
        author=about.author,
        note=about.note,
        published=iso(version.published_at),
        digest=version.digest,
        changes=[
            ChangeView(kind=change.kind, where=change.where, before=change.before, after=change.after)
            for change in about.changes
        ],
        more_changes=about.more_changes,
    )
