"""Who may do what: organizations, their projects, and the keys of those."""

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from jobs.identity import Role
from jobs.tables.base import Base


class Organization(Base):
    __tablename__ = "organizations"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float]


class Project(Base):
    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str]
    created_at: Mapped[float]
    __table_args__ = (Index("uq_projects_name", "organization_id", "name", unique=True),)


class ApiKey(Base):
    """A bearer key; only its hash is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    role: Mapped[Role]
    sha256: Mapped[str] = mapped_column(unique=True)
    last4: Mapped[str]
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]
