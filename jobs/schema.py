"""The schema of the database, brought to its newest version: `python -m jobs.schema`."""

from importlib.resources import files

from alembic import command
from alembic.config import Config

from jobs.settings import read_settings


def alembic_config(database_url: str) -> Config:
    """Alembic's settings for this database, wherever the package is installed."""
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config


def upgrade(database_url: str) -> None:
    """Run the migrations that the database has not seen yet."""
    command.upgrade(alembic_config(database_url), "head")


if __name__ == "__main__":
    upgrade(read_settings().resolved_database_url)
