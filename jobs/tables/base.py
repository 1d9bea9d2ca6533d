"""What every table is made of."""

import secrets
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Enum,
    MetaData,
    String,
    Table,
    text,
)
from sqlalchemy.orm import DeclarativeBase

from jobs.identity import Role
from jobs.states import ExportStatus, Intent, JobStatus, RunKind, RunOutcome, UploadStatus
from training.data_config import ContainerName, FormatName

Json = dict[str, Any]

_NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def new_id(prefix: str) -> str:
    """A random id of 96 bits, e.g. `ftjob-5f2c…`."""
    return prefix + secrets.token_hex(12)


def _words(words: type[StrEnum]) -> Enum:
    """Kept as the words themselves: a further one needs no change of the database."""
    return Enum(
        words, native_enum=False, length=32, values_callable=lambda all_: [w.value for w in all_]
    )


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own hook
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        int: BigInteger,
        Role: String,
        FormatName: String,
        ContainerName: String,
        JobStatus: _words(JobStatus),
        Intent: _words(Intent),
        RunKind: _words(RunKind),
        RunOutcome: _words(RunOutcome),
        UploadStatus: _words(UploadStatus),
        ExportStatus: _words(ExportStatus),
    }


def table_of(model: type[Base]) -> Table:
    """The bare table: statements over it skip the unit of work, for rows that come in numbers."""
    return Base.metadata.tables[model.__tablename__]


def only(condition: str) -> dict[str, Any]:
    """What makes an index hold only some rows: the few that are ever looked for this way."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}
