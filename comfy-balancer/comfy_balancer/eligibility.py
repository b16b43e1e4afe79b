"""Which agent can run that, and why not? Pure functions over what is known of the agents.

An agent can run a prompt when its instance offers the node classes and files, and it carries the labels that the task
requires; it can run it now when it also is alive, has its instance and takes tasks. A submit is refused for the first
kind of reason only: an agent that drains or restarts comes back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from comfy_balancer.checks import check_choices, check_offered
from comfy_shared.errors import FieldProblem
from comfy_shared.models import Needs, Prompt
from comfy_shared.needs import Holders, Offer, has_labels, nearest
from comfy_shared.registry import Agent

MOST_AGENTS = 16  # named in one problem
MOST_LACKS = 4  # told of one agent
MOST_LABELS = 50  # names, and values of each, told of in one problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An agent, and what its instance offers."""

    agent: Agent
    offer: Offer | None  # None: its instance is absent, or was never seen


def different(members: Sequence[Member]) -> list[Offer]:
    """The offers of these agents, each once: agents with equal instances share theirs."""
    return list({id(member.offer): member.offer for member in members if member.offer}.values())


def check_needs(
    prompt: Prompt,
    needs: Needs,
    offers: Sequence[Offer],
    members: Sequence[Member],
    *,
    hold: bool,
) -> list[FieldProblem]:
    """Why no agent can run the prompt; with `hold` only what waiting for another agent cannot help.

    Nothing is wrong while nothing is known of any agent.
    """
    problems = check_choices(prompt, needs, offers)
    if hold:
        return problems
    if lacking := _check_labels(needs, members):
        return lacking + problems
    if needs.labels:
        offers = different([member for member in members if has_labels(member.agent.record.labels, needs)])
    return check_offered(prompt, needs, offers, _holders(members)) + problems


def _holders(members: Sequence[Member]) -> Holders:
    def holders(class_type: str, name: str, value: str) -> list[str]:
        found = []
        for member in members:
            offer = member.offer
            if offer is None or not offer.knows(class_type):
                continue
            if not name or value in (offer.choices(class_type, name) or ()):
                found.append(member.agent.record.id)
        return found[:MOST_AGENTS]

    return holders


def _check_labels(needs: Needs, members: Sequence[Member]) -> list[FieldProblem]:
    if not members or any(has_labels(member.agent.record.labels, needs) for member in members):
        return []
    existing: dict[str, set[str]] = {}
    for member in members:
        for name, value in member.agent.record.labels.items():
            existing.setdefault(name, set()).add(value)
    known = {name: sorted(values)[:MOST_LABELS] for name, values in sorted(existing.items())[:MOST_LABELS]}
    problems = []
    for name, value in needs.labels:
        if value in existing.get(name, ()):
            continue
        near = nearest(value, sorted(existing[name])) if name in existing else nearest(name, sorted(existing))
        message = f"no agent has the label {name}={value}"
        problems.append(FieldProblem(field=f"require.{name}", message=message, nearest=near, limits={"labels": known}))
    if not problems:
        had = {f"{name}={value}": _labeled(name, value, members) for name, value in needs.labels}
        message = "each of these labels exists, but no single agent has all of them"
        problems.append(FieldProblem(field="require", message=message, limits={"agents": had}))
    return problems


def _labeled(name: str, value: str, members: Sequence[Member]) -> list[str]:
    return [member.agent.record.id for member in members if member.agent.record.labels.get(name) == value][:MOST_AGENTS]


def hindrances(member: Member, needs: Needs | None) -> list[str]:
    """Why the agent cannot run a prompt with these needs now; empty when it can. None: the needs are not known."""
    agent, record = member.agent, member.agent.record
    found = lacks(member, needs) if needs else []
    if not agent.alive:
        found.append("is not alive: its heartbeat lapsed")
    elif record.state == "waiting":
        found.append("waits for its instance" + (f": {record.reason}" if record.reason else ""))
    elif member.offer is None:
        found.append("has not told what its instance offers")
    if agent.draining or record.state == "draining":
        found.append("drains: it claims no more")
    return found


def lacks(member: Member, needs: Needs) -> list[str]:
    """What the agent lacks of these needs, as far as its offer is known; the first few."""
    labels = member.agent.record.labels
    found = [f"lacks the label {name}={value}" for name, value in needs.labels if labels.get(name) != value]
    if offer := member.offer:
        found += [f"lacks the node class {name!r}" for name in needs.classes if not offer.knows(name)]
        found += [
            f"lacks the file {value!r}"
            for class_type, name, value in needs.choices
            if offer.knows(class_type) and value not in (offer.choices(class_type, name) or ())
        ]
    if len(found) > MOST_LACKS:
        found[MOST_LACKS:] = [f"lacks {len(found) - MOST_LACKS} more"]
    return found


def read_needs(raw: object) -> Needs | None:
    """The needs that a lane's key holds; None when it is gone or broken."""
    try:
        return msgspec.json.decode(raw, type=Needs) if isinstance(raw, bytes) else None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
