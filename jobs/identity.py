"""Who is asking: what an API key stands for."""

from dataclasses import dataclass
from typing import Literal

from jobs.errors import Forbidden

Role = Literal["admin", "member"]


@dataclass(frozen=True)
class Identity:
    """The key of a request, with the project and organisation it belongs to."""

    key_id: str
    project_id: str
    organization: str
    role: Role

    def require_admin(self) -> None:
        """Pass an admin's key.

        Raises:
            Forbidden: The key is a member's.
        """
        if self.role != "admin":
            raise Forbidden("this needs an admin's API key", code="admin_required")
