"""The tables. Times are Unix seconds by the database's clock; ids are opaque and random.

Every row that a user can name belongs to a project, but for the base models of the catalogue.
They are one schema and name each other, so that importing one brings all.
"""

from jobs.tables.base import Base, Json, new_id, table_of
from jobs.tables.catalogue import CheckpointPermission, Model
from jobs.tables.events import Event, EventCounter
from jobs.tables.exports import Export
from jobs.tables.files import File, Upload, UploadPart
from jobs.tables.jobs import Creation, Job, JobFile, JobMetadata
from jobs.tables.runs import Artifact, Checkpoint, Run, Worker
from jobs.tables.tenants import ApiKey, Organization, Project
from jobs.tables.webhooks import WebhookDelivery, WebhookEndpoint

__all__ = [
    "ApiKey",
    "Artifact",
    "Base",
    "Checkpoint",
    "CheckpointPermission",
    "Creation",
    "Event",
    "EventCounter",
    "Export",
    "File",
    "Job",
    "JobFile",
    "JobMetadata",
    "Json",
    "Model",
    "Organization",
    "Project",
    "Run",
    "Upload",
    "UploadPart",
    "WebhookDelivery",
    "WebhookEndpoint",
    "Worker",
    "new_id",
    "table_of",
]
