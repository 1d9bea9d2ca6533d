"""The engine, and the one transaction of a request or a step.

On SQLite a writer takes the write lock when it begins (`BEGIN IMMEDIATE`): a transaction that
reads first and writes later would otherwise fail with a busy snapshot instead of waiting.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    bindparam,
    create_engine,
    event,
    extract,
    func,
    select,
    text,
)
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

_BUSY_TIMEOUT_SECONDS = 30
_CONNECT_TIMEOUT_SECONDS = 5
_NETWORK = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Of connections to a server: a silent network is noticed within half a minute, not two hours."""
_ENDED_WHILE_IDLE = "25P03"
_PATIENCE = {"lock_timeout": "30s", "idle_in_transaction_session_timeout": "60s"}
"""Of PostgreSQL: whoever stands still in a transaction does not stop all others for good."""
_CHECKPOINT_PAGES = 10_000
"""How far SQLite's log grows (40 MB) before a writer carries it into the database and waits for
the disk: at SQLite's own 1,000 a busy API stops for that every second."""
_LOCK = 0x74756E65  # any number, the same in every process


class Database:
    """Connections to the one database of a deployment."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self._engine = _sqlite_engine(url) if self.is_sqlite else _server_engine(url)
        self._writer = self._engine.execution_options(writing=True)
        # SQLite's own waiting for the write lock sleeps in growing steps: the writers of one
        # process queue here instead, and are served without a pause between them.
        self._turn: AbstractContextManager[object] = _Turn() if self.is_sqlite else nullcontext()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for one consistent look; it is rolled back at the end."""
        with Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that commits when the block ends and rolls back when it raises.

        Raises:
            sqlalchemy.exc.OperationalError: The database is away, or locked for too long.
            sqlalchemy.exc.TimeoutError: Too many others wait for it in this process.
        """
        with (
            self._turn,
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def claiming(self) -> Iterator[Session]:
        """As `writing`, one at a time over the whole deployment."""
        with self.writing() as session:
            if not self.is_sqlite:
                session.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            yield session

    def answers(self) -> bool:
        """Whether the database can be asked anything now."""
        try:
            with self.reading() as session:
                session.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        return True

    def close(self) -> None:
        self._engine.dispose()


class _Turn:
    """Lets one writer of a process in, and does not let the next ones wait for ever."""

    def __init__(self) -> None:
        self._lock = Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=_BUSY_TIMEOUT_SECONDS):
            raise PoolTimeout("other writers of this process hold the database too long")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def serialise(session: Session, name: str, *, shared: bool = False) -> None:
    """Hold whoever asks for the same name until this transaction ends.

    Those that ask for it `shared` do not hold each other. SQLite has one writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        session.execute(_LOCK_SHARED if shared else _LOCK_ALONE, {"number": number})


_NUMBER = bindparam("number", type_=BigInteger)
_LOCK_ALONE = select(func.pg_advisory_xact_lock(_NUMBER))
_LOCK_SHARED = select(func.pg_advisory_xact_lock_shared(_NUMBER))


def keep_log(connection: Connection) -> None:
    """Have SQLite write ahead into a log, which its file remembers.

    Done before others come: whoever switches does not wait for another one, but fails.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.commit()


def lock_for_migration(connection: Connection) -> None:
    """Let one process at a time migrate; the next one finds nothing left to do."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK + 1)))


def now(session: Session) -> float:
    """When this transaction first asked, by the database's clock: one clock for all hosts.

    SQLite lives on one host and has no clock but that host's.
    """
    if "now" not in session.info:
        on_server = session.get_bind().dialect.name != "sqlite"
        session.info["now"] = (
            float(session.execute(_SERVER_CLOCK).scalar_one()) if on_server else time.time()
        )
    at: float = session.info["now"]
    return at


_SERVER_CLOCK = select(extract("epoch", func.clock_timestamp()))


def _server_engine(url: str) -> Engine:
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=20,
        connect_args={"connect_timeout": _CONNECT_TIMEOUT_SECONDS, **_NETWORK},
    )
    event.listen(engine, "connect", _prepare_server)
    event.listen(engine, "handle_error", _as_away, retval=True)
    return engine


def _prepare_server(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
    with connection.cursor() as cursor:
        for name, value in _PATIENCE.items():
            cursor.execute(f"SET {name} = '{value}'")
    connection.commit()


def _as_away(context: ExceptionContext) -> BaseException | None:
    """A session that the server has ended is away; to psycopg it is an error of our own."""
    error = context.original_exception
    if getattr(error, "sqlstate", None) != _ENDED_WHILE_IDLE:
        return None
    context.is_disconnect = True
    return OperationalError(context.statement, context.parameters, error)


def _sqlite_engine(url: str) -> Engine:
    if (path := make_url(url).database) is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url, pool_size=16, max_overflow=32, connect_args={"timeout": _BUSY_TIMEOUT_SECONDS}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
    connection.isolation_level = None  # transactions are begun by us, below
    for pragma in (
        "synchronous=FULL",
        "foreign_keys=ON",
        f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
