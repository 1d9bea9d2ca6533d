"""The first start of a deployment: the schema, and a first admin key in a file of its own.

`tunesmith serve` does this by itself; a team runs `python -m cli.bootstrap` once per release.
"""

import os
from pathlib import Path

from cli.errors import CliError
from jobs.database import Database
from jobs.schema import upgrade
from jobs.service import keys
from jobs.settings import Settings, read_settings


def prepare(settings: Settings) -> None:
    """Bring the database to the newest schema, and make the first key where there is none.

    Raises:
        CliError: A new database meets the key file of another one.
    """
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    upgrade(settings.resolved_database_url)
    db = Database(settings.resolved_database_url)
    try:
        _make_first_key(db, settings)
    finally:
        db.close()


def _make_first_key(db: Database, settings: Settings) -> None:
    """The file is written before the commit: a key that nobody can read must not exist."""
    written: Path | None = None
    try:
        with db.writing() as session:
            if (secret := keys.bootstrap(session, settings)) is not None:
                _write_key(settings.admin_key_file, secret)
                written = settings.admin_key_file
    except BaseException:
        if written is not None:
            written.unlink()
        raise


def _write_key(path: Path, secret: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CliError(
            f"{path} is there, but its database is new: move the file away, or use another folder"
        ) from None
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secret}\n")


if __name__ == "__main__":
    prepare(read_settings())
