"""Which node classes a raw prompt may name, by the caller's role. Pure functions.

A pattern (shell style) is about the class name, or, after `module:`, about the Python module that the object info names
for the class. Who denies wins. A class is allowed by its name, or by its module, and then on every agent that has it:
custom nodes may carry the name of a core node. A published workflow's graph is the operator's and is not asked.

The defaults for the role user: ComfyUI's own nodes, for what comes with ComfyUI can be read, and without those in
`RISKY`. Nodes that call paid services of others (`comfy_api_nodes`) and custom nodes are the operator's decision.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from comfy_shared.errors import FieldProblem
from comfy_shared.models import Prompt
from comfy_shared.needs import Offer

MODULE = "module:"
MOST_PROBLEMS = 50
CORE = ("module:nodes", "module:comfy_extras.*")
RISKY = (
    # Load what may be a pickle: legacy formats, whole folders of weights, training data.
    "CheckpointLoader", "DiffusersLoader", "HypernetworkLoader", "*Dataset*", "*DataSet*",
    # Read files that the instance happens to have: other people's inputs and outputs.
    "LoadLatent", "LoadImageOutput", "LoadImage*FromFolder*", "Load3D*", "Preview3D*", "WebcamCapture",
    # Write model files, or hold a GPU for hours.
    "CheckpointSave", "ImageOnlyCheckpointSave", "CLIPSave", "ModelSave", "VAESave", "LoraSave", "SaveLoRA*",
    "LossGraph*", "Train*",
    # An unlucky pattern stops the whole instance, and nothing can interrupt it.
    "Regex*",
)  # fmt: skip
# Not even an admin sends code in a prompt: a key that leaks would be a shell on every GPU. Whoever needs such a node
# publishes a workflow, or empties the setting. `LoadTrainingDataset` unpickles.
RUNS_CODE = ("LoadTrainingDataset", "*ExecPython*", "*PythonScript*", "*RunPython*", "*EvalPython*", "*Shell*")


class NodePolicy:
    """What one role may use. The two lists are patterns, separated by commas."""

    def __init__(self, role: str, allowed: str, denied: str) -> None:
        self._role = role
        self._allowed = _patterns(allowed)
        self._denied = _patterns(denied)
        self._all = "*" in self._allowed

    def check(self, prompt: Prompt, offers: Sequence[Offer], *, hold: bool = False) -> list[FieldProblem]:
        """A problem for each node whose class is not allowed.

        A class that no agent has is left to the check that says so, unless the task is to wait for an agent: what the
        class will be then is not known now.
        """
        return list(self._problems(prompt, offers, hold=hold or not offers))[:MOST_PROBLEMS]

    def _problems(self, prompt: Prompt, offers: Sequence[Offer], *, hold: bool) -> Iterator[FieldProblem]:
        objections: dict[str, str | None] = {}
        for node_id, node in prompt.items():
            class_type = node["class_type"]
            if class_type not in objections:
                modules = [offer.module(class_type) for offer in offers if offer.knows(class_type)]
                objections[class_type] = self._objection(class_type, modules, hold=hold)
            if reason := objections[class_type]:
                field = f"prompt.{node_id}.class_type"
                yield FieldProblem(field=field, message=f"the node class {class_type!r} {reason}")

    def _objection(self, class_type: str, modules: Sequence[str], *, hold: bool) -> str | None:
        named = [class_type, *(MODULE + module for module in modules)]
        if any(_fits(name, self._denied) for name in named):
            return f"is not allowed in a prompt of the role {self._role}"
        if self._all or _fits(class_type, self._allowed):
            return None
        if not modules:
            message = f"is known to no agent, so whether the role {self._role} may use it is not known either"
            return message if hold else None
        if all(_fits(MODULE + module, self._allowed) for module in modules):
            return None
        return f"is not among those that the role {self._role} may use"


def _patterns(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def _fits(name: str, patterns: frozenset[str]) -> bool:
    """A bare pattern is about class names only, also when a class is named like a module."""
    about_module = name.startswith(MODULE)
    return any(fnmatchcase(name, pattern) for pattern in patterns if pattern.startswith(MODULE) == about_module)
