"""Alembic's entry: connects to the database of the settings, or to the one it is handed."""

from alembic import context
from sqlalchemy import create_engine, pool

from jobs.database import keep_log, lock_for_migration
from jobs.models import Base
from jobs.settings import read_settings


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or read_settings().resolved_database_url
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        keep_log(connection)
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            compare_type=True,
            render_as_batch=connection.dialect.name == "sqlite",
        )
        with context.begin_transaction():
            lock_for_migration(connection)
            context.run_migrations()


run()
