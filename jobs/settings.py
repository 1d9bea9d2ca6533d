"""Every setting of the service, read once at the two edges (API, worker) from `TUNESMITH_*`.

The defaults run everything on one machine; a team sets three URLs.
"""

import json
import re
import secrets
import socket
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_PREFIX = "TUNESMITH_"
_HTTP = re.compile(r"https?://[^/@\s]+(/[^@\s]*)?$")
_DATABASE = re.compile(r"(sqlite|postgresql)(\+\w+)?://")


class Settings(BaseSettings):
    """Frozen values; durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    data_dir: Path = Field(Path("data"), description="What this host keeps: all of it by default.")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in data_dir.")
    broker_url: str = Field("", description="URL of a Redis; empty: files in data_dir.")
    artifacts_url: str = Field("", description="file:// URL of the store; empty: in data_dir.")

    organization: str = Field("local", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        default=["127.0.0.1", "localhost", "::1"],
        description='Host headers the API answers to; ["*"] for any.',
    )

    max_upload_bytes: PositiveInt = 8 << 30
    max_part_bytes: PositiveInt = Field(64 << 20, description="Of one part of an upload.")
    upload_seconds: PositiveFloat = Field(
        3600, description="Time to complete an upload in parts; then its parts go."
    )
    max_line_bytes: PositiveInt = 4 << 20
    prepared_max_bytes: NonNegativeInt = Field(
        20 << 30, description="Of prepared data that this host's jobs share; 0: each keeps its own."
    )
    max_body_bytes: PositiveInt = 1 << 20
    max_row_errors: PositiveInt = 100
    check_memory_bytes: PositiveInt = Field(
        4 << 30, description="For the process that checks a file which is not JSON Lines."
    )
    check_cpu_seconds: PositiveInt = 3600
    max_streams: PositiveInt = Field(
        2000, description="Streams and followed logs that one API process serves at once."
    )

    heartbeat_seconds: PositiveFloat = 10
    lease_seconds: PositiveFloat = 60
    sweep_seconds: PositiveFloat = 5
    poll_seconds: PositiveFloat = 5
    stop_grace_seconds: PositiveFloat = 30
    drain_seconds: PositiveFloat = 300
    phase_timeout_seconds: PositiveFloat = Field(
        3600, description="Longest silence of a training process before it counts as hung."
    )
    max_crashes: PositiveInt = Field(3, description="Crashes without checkpoint progress between.")
    max_lost_runs: PositiveInt = Field(
        20, description="Lost hosts and drains a job may live through."
    )

    webhook_allow_private: bool = Field(
        default=False, description="Webhooks may go to private addresses, and over plain http."
    )
    webhook_pause_seconds: PositiveFloat = Field(
        5, description="Before an undelivered webhook is tried again; doubled each time."
    )
    webhook_max_seconds: PositiveFloat = Field(
        3 * 24 * 3600, description="How long an undelivered webhook is tried."
    )

    worker_pool: str = "default"
    worker_gpus: int | None = Field(
        None,
        ge=0,
        description="GPUs to offer: so many, the first of CUDA_VISIBLE_DEVICES where that is set; "
        "None: all that are seen.",
    )
    warm_start: bool = Field(
        default=True,
        description="Have a process with its libraries loaded stand by for each idle slot.",
    )
    warm_start_free_bytes: PositiveInt = Field(
        4 << 30, description="Memory that must be available for that; one process takes 0.4 GB."
    )
    hub_token: str | None = Field(None, description="The worker's own token for gated base models.")
    hub_push_token: str | None = Field(
        None, description="The worker's own token that exports are pushed with; None: none are."
    )
    light_export_bytes: NonNegativeInt = Field(
        4 << 30, description="Of a base model: what is made of a larger one waits for the CPU."
    )
    wandb_api_key: str | None = Field(
        None, description="The worker's own key for jobs that ask for wandb; None: written offline."
    )
    wandb_base_url: str | None = Field(None, description="Of a W&B server of one's own.")
    mlflow_tracking_uri: str | None = Field(
        None, description="The MLflow server for jobs that ask for mlflow; None: written to files."
    )
    mlflow_tracking_token: str | None = Field(None, description="The worker's own, at that server.")
    mlflow_tracking_username: str | None = Field(None, description="Instead of a token.")
    mlflow_tracking_password: str | None = Field(None, description="Beside the user's name.")

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _json_list(cls, value: Any) -> Any:  # noqa: ANN401 - pydantic hands over anything
        """Decoded here, so that a slip is a complaint about this field like any other."""
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError('should be a JSON list such as ["tunesmith.example"]') from None

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: str) -> str:
        if url and not url.startswith(("redis://", "rediss://")):
            raise ValueError("should be empty, or begin with redis:// or rediss://")
        return url

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url and not _DATABASE.match(url):
            raise ValueError("should be empty, or begin with sqlite:// or postgresql+psycopg://")
        return url

    @field_validator("artifacts_url")
    @classmethod
    def _known_store(cls, url: str) -> str:
        if url and not url.startswith("file:///"):
            raise ValueError("should be empty, or begin with file:///")
        return url

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _server_without_secrets(cls, uri: str | None) -> str | None:
        if uri and not _HTTP.match(uri):
            raise ValueError(
                "should begin with http:// or https://, without a user or password in it: those "
                "are settings of their own"
            )
        return uri or None

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Self:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least three times heartbeat_seconds")
        return self

    @property
    def worker_secrets(self) -> tuple[str, ...]:
        """What no stored word of a run may hold."""
        known = (
            self.hub_token,
            self.hub_push_token,
            self.wandb_api_key,
            self.mlflow_tracking_token,
            self.mlflow_tracking_password,
        )
        return tuple(secret for secret in known if secret)

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'tunesmith.db'}"

    @property
    def broker_folder(self) -> Path:
        return self.data_dir.resolve() / "broker"

    @property
    def artifacts_folder(self) -> Path:
        if self.artifacts_url:
            return Path(self.artifacts_url.removeprefix("file://"))
        return self.data_dir.resolve() / "artifacts"

    @property
    def admin_key_file(self) -> Path:
        return self.data_dir / "admin.key"

    @property
    def server_file(self) -> Path:
        """Where `tunesmith serve` writes its URL, for the CLI beside it."""
        return self.data_dir / "server.json"

    @property
    def prepared_folder(self) -> Path:
        return self.data_dir.resolve() / "prepared"

    @property
    def extensions_folder(self) -> Path:
        """What DeepSpeed has compiled on this host, for every run that needs it again."""
        return self.data_dir.resolve() / "extensions"

    @property
    def runs_folder(self) -> Path:
        return self.data_dir.resolve() / "runs"


def read_settings() -> Settings:
    """The settings of the environment, for a front door to begin with.

    Raises:
        SystemExit: Some cannot be used; its one line names the variables.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SystemExit(f"tunesmith: {'; '.join(map(_sentence, error.errors()))}") from None


def _sentence(complaint: Any) -> str:  # noqa: ANN401 - pydantic's, a mapping
    words = complaint["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not complaint["loc"]:
        return f"{_PREFIX}*: {words}"
    name = _PREFIX + str(complaint["loc"][0]).upper()
    # A value that our own checks refuse may be an URL with a password in it.
    value = "" if complaint["type"] == "value_error" else f", but is {complaint['input']!r}"
    return f"{name} {words}{value}"


def worker_name(settings: Settings) -> str:
    """This host's lasting name: made once and kept in its data folder."""
    path = settings.data_dir / "worker.id"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_name(f".worker.id.{secrets.token_hex(4)}")
        temporary.write_text(f"{socket.gethostname()}-{secrets.token_hex(4)}")
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_text().strip()
