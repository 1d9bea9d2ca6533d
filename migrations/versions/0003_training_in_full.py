"""training in full

Revision: 0003; after: 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
_PARTIAL = (
    ("ix_files_to_check", "files", ["created_at"], "status = 'uploaded'"),
    ("ix_exports_checkpoint", "exports", ["checkpoint_id"], "checkpoint_id IS NOT NULL"),
    (
        "ix_exports_to_purge",
        "exports",
        ["deleted_at"],
        "deleted_at IS NOT NULL AND purged_at IS NULL",
    ),
    (
        "ix_runs_of_exports_to_clean",
        "runs",
        ["ended_at"],
        "cleaned_at IS NULL AND export_id IS NOT NULL",
    ),
)


def upgrade() -> None:
    op.create_table(
        "exports",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("checkpoint_id", sa.String(), nullable=True),
        sa.Column("options", sa.JSON(none_as_null=True), nullable=False),
        sa.Column(
            "status",
            sa.Enum(*_STATUSES, name="exportstatus", native_enum=False, length=32),
            nullable=False,
        ),
        sa.Column("pool", sa.String(), nullable=False),
        sa.Column("requires", sa.String(), nullable=False),
        sa.Column("slot", sa.String(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("crashes", sa.BigInteger(), nullable=False),
        sa.Column("lost_runs", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.String(), nullable=True),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("artifact_key", sa.String(), nullable=True),
        sa.Column("filename", sa.String(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("pushed", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("queued_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("deleted_at", sa.Double(), nullable=True),
        sa.Column("purged_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_exports_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["created_by"], ["api_keys.id"], name=op.f("fk_exports_created_by_api_keys")
        ),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_exports_checkpoint_id_checkpoints")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exports")),
    )
    op.create_index("ix_exports_job_created", "exports", ["job_id", "created_at", "id"])
    op.create_index("ix_exports_queue", "exports", ["status", "pool", "queued_at", "id"])
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("export_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("file_id", sa.String(), nullable=True))
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.add_column(sa.Column("container", sa.String(), nullable=True))
        batch_op.add_column(
            sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False)
        )
    op.execute("UPDATE files SET container = 'jsonl' WHERE report IS NOT NULL")
    with op.batch_alter_table("job_files", schema=None) as batch_op:
        batch_op.alter_column("format", existing_type=sa.String(), nullable=True)
    for name, table, columns, condition in _PARTIAL:
        where = sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for name, table, *_ in _PARTIAL:
        op.drop_index(name, table)
    with op.batch_alter_table("job_files", schema=None) as batch_op:
        batch_op.alter_column("format", existing_type=sa.String(), nullable=False)
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.drop_column("attempts")
        batch_op.drop_column("container")
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_column("file_id")
        batch_op.drop_column("export_id")
    op.drop_table("exports")
