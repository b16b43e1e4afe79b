"""What the instance writes into its own log, told in ours."""

import structlog

from comfy_service.instance.client import Instance
from comfy_service.instance.protocol import LogLines
from comfy_shared.errors import RunError

log = structlog.get_logger(__name__)


async def ask_for_log(instance: Instance, client_id: str) -> None:
    """Has the lines sent to this client's socket; an instance that does not know how goes without."""
    try:
        await instance.subscribe_logs(client_id)
    except RunError as error:
        log.info("No log of the instance", action="instance.no_log", reason=error.message)


def tell(frame: LogLines, task_id: str | None) -> None:
    """Logs the lines, with the task that the instance runs now."""
    fields = {"task_id": task_id} if task_id else {}
    for line in frame.lines:
        text = line.strip()
        if text and not line.startswith("\r"):  # progress bars rewrite their line
            log.info("ComfyUI says", action="instance.log", text=text, **fields)
