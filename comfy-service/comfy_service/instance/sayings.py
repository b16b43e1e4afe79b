"""What the instance writes into its own log, told in ours."""

import structlog

from comfy_service.instance.protocol import LogLines

log = structlog.get_logger(__name__)


def tell(frame: LogLines, task_id: str | None) -> None:
    """Logs the lines, with the task that the instance runs now."""
    fields = {"task_id": task_id} if task_id else {}
    for line in frame.lines:
        text = line.strip()
        if text and not line.startswith("\r"):  # progress bars rewrite their line
            log.info("ComfyUI says", action="instance.log", text=text, **fields)
