"""What the instance offers (its object info), for those who need it to read workflows."""

import asyncio
from collections.abc import Mapping
from typing import Any


class Classes:
    """The object info of the agent's instance as it was met last."""

    def __init__(self) -> None:
        self.object_info: Mapping[str, Any] | None = None  # None: it was never met
        self.changed = asyncio.Event()  # set with each other object info, or when all is to be read again
        self._digest = ""

    def learn(self, object_info: Mapping[str, Any], digest: str) -> None:
        """The instance was met; `digest` tells one object info from another."""
        if digest != self._digest:
            self.object_info, self._digest = object_info, digest
            self.changed.set()
