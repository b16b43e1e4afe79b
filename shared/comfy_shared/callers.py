"""Who asks: the owner in whose name a door acts, and what the role lets it do.

Every door (REST, ComfyUI protocol, Comfy API v2, OpenAI, MCP) is given a `Caller` by the log-in and hands it on; what
another owner has is answered as if it were not there.
"""

from enum import StrEnum

import msgspec


class Role(StrEnum):
    """What a caller may do."""

    ADMIN = "admin"  # everything, and sees everybody's tasks
    USER = "user"  # its own tasks


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """A logged-in client."""

    owner: str  # in whose name
    role: Role

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN

    def may_see(self, owner: str) -> bool:
        """Whether the things of `owner` exist for this caller."""
        return self.is_admin or owner == self.owner
