"""What earlier builds found out: the layers of steps, digests of files, where blobs are.

All of it can be lost without harm: it makes builds fast, never right. SQLite in WAL mode, one
connection for all threads; a commit is durable against a crash of this process, and the last ones
may be lost, never torn, when the machine dies (https://www.sqlite.org/wal.html).
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgbuild.errors import DiskFullError, StoreError
from imgbuild.oci.codec import descriptor_from_json, descriptor_to_json
from imgbuild.oci.descriptor import Layer
from imgbuild.oci.digest import Digest, parse_digest
from imgbuild.store import filememo
from imgbuild.store.failure import explained
from imgbuild.store.filememo import FileKey

if TYPE_CHECKING:
    import sqlite3

_SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE steps (key TEXT PRIMARY KEY, family TEXT NOT NULL, layer TEXT NOT NULL,
    diff_id TEXT NOT NULL, uncompressed_size INTEGER NOT NULL, created TEXT NOT NULL,
    document BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX steps_by_family ON steps (family);
CREATE TABLE files (dev INTEGER, bucket INTEGER, records BLOB NOT NULL,
    PRIMARY KEY (dev, bucket));
CREATE TABLE trees (place TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, digest TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE origins (number INTEGER PRIMARY KEY, digest TEXT NOT NULL, repository TEXT NOT NULL,
    UNIQUE (digest, repository));
CREATE TABLE memos (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_TABLES = ("steps", "files", "trees", "origins", "memos")

# Kernel clocks for file times tick at 1 to 10 ms; some file systems keep whole seconds only.
_TICK = 50_000_000
_COARSE_TICK = 2_000_000_000


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a step made; `created` is RFC 3339."""

    layer: Layer
    created: str


class StepCache:
    """The cache of a store; the file is opened at the first question."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    # --- steps ---

    def get(self, key: str) -> StepRecord | None:
        """Return what the step with this key made. Whether its blob is still there is not asked."""
        row = self._one(
            "SELECT layer, diff_id, uncompressed_size, created FROM steps WHERE key = ?", key
        )
        if row is None:
            return None
        descriptor = descriptor_from_json(json.loads(row[0]), "cached layer")
        return StepRecord(Layer(descriptor, parse_digest(row[1]), row[2]), row[3])

    def has_family(self, family: str) -> bool:
        """Tell whether any step of a family was recorded."""
        return self._one("SELECT 1 FROM steps WHERE family = ?", family) is not None

    def put(self, key: str, record: StepRecord, document: bytes, family: str = "") -> None:
        """Record a step; `document` is what its key was made of.

        Steps that differ in what they read alone are of one `family`.
        """
        layer = record.layer
        text = json.dumps(descriptor_to_json(layer.descriptor))
        row = (
            key,
            family,
            text,
            str(layer.diff_id),
            layer.uncompressed_size,
            record.created,
            document,
        )
        with self._session() as connection:
            connection.execute("INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def document(self, key: str) -> bytes | None:
        """Return what the key of a recorded step was made of."""
        row = self._one("SELECT document FROM steps WHERE key = ?", key)
        return None if row is None else bytes(row[0])

    # --- digests of files ---

    def get_many(self, keys: Sequence[FileKey]) -> dict[FileKey, bytes]:
        """Return the sha256 of those files that have not changed since they were recorded."""
        found: dict[FileKey, bytes] = {}
        with self._session() as connection:
            for (dev, bucket), members in filememo.buckets(keys).items():
                records = filememo.unpack(_records(connection, dev, bucket))
                for key in members:
                    record = records.get(key[1] & filememo.LOW)
                    if record is not None and record[:3] == key[2:]:
                        found[key] = record[3]
        return found

    def put_many(self, digests: Mapping[FileKey, bytes], before: int) -> None:
        """Record the sha256 of files that were looked at `before`, in nanoseconds since 1970.

        A file that changed just before is left out: it could change again without its times
        showing it (https://git-scm.com/docs/racy-git).
        """
        settled = [
            key
            for key in digests
            if min(key[3:]) >= filememo.EARLIEST
            and is_settled(max(key[3:]), before, coarse=not key[4] % 1_000_000_000)
        ]
        if not settled:
            return
        with self._session() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for (dev, bucket), members in filememo.buckets(settled).items():
                records = filememo.unpack(_records(connection, dev, bucket))
                for key in members:
                    records[key[1] & filememo.LOW] = (*key[2:], digests[key])
                connection.execute(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?)",
                    (_signed(dev), bucket, filememo.pack(records)),
                )
            connection.execute("COMMIT")

    # --- digests of trees ---

    def tree(self, place: str, fingerprint: str) -> Digest | None:
        """Return the digest of what is at `place`, when it still has that fingerprint."""
        row = self._one("SELECT fingerprint, digest FROM trees WHERE place = ?", place)
        return Digest(row[1]) if row is not None and row[0] == fingerprint else None

    def put_tree(self, place: str, fingerprint: str, digest: Digest) -> None:
        with self._session() as connection:
            row = (place, fingerprint, str(digest))
            connection.execute("INSERT OR REPLACE INTO trees VALUES (?, ?, ?)", row)

    # --- where blobs are ---

    def origin(self, digest: Digest, registry: str) -> str | None:
        """Return a repository of `registry` (`docker.io`) that a blob was seen in last, or None."""
        with self._session() as connection:
            row = connection.execute(
                "SELECT repository FROM origins WHERE digest = ? AND substr(repository, 1, ?) = ?"
                " ORDER BY number DESC LIMIT 1",
                (str(digest), len(registry) + 1, f"{registry}/"),
            ).fetchone()
        return None if row is None else str(row[0])

    def add_origin(self, digests: Iterable[Digest], repository: str) -> None:
        """Record that blobs are in `repository` (`docker.io/library/debian`)."""
        rows = [(str(digest), repository) for digest in digests]
        with self._session() as connection:
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT OR REPLACE INTO origins (digest, repository) VALUES (?, ?)", rows
            )
            connection.execute("COMMIT")

    # --- anything else ---

    def memo(self, key: str) -> str | None:
        row = self._one("SELECT value FROM memos WHERE key = ?", key)
        return None if row is None else str(row[0])

    def set_memo(self, key: str, value: str) -> None:
        with self._session() as connection:
            connection.execute("INSERT OR REPLACE INTO memos VALUES (?, ?)", (key, value))

    # --- the file ---

    def clear(self) -> None:
        """Forget everything."""
        with self._session() as connection:
            _make_schema(connection)
            connection.execute("VACUUM")

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _one(self, statement: str, key: str) -> Any:
        with self._session() as connection:
            return connection.execute(statement, (key,)).fetchone()

    @contextmanager
    def _session(self) -> Iterator["sqlite3.Connection"]:
        import sqlite3

        with self._lock:
            try:
                if self._connection is None:
                    self._connection = _open(self._path)
                yield self._connection
            except sqlite3.Error as error:
                self._recover(error)
                raise _explain(error, self._path) from error

    def _recover(self, error: "sqlite3.Error") -> None:
        if self._connection is None:
            return
        if self._connection.in_transaction:
            self._connection.rollback()
        if _is_damage(error):
            self._connection.close()
            self._connection = None
            _remove(self._path)


def is_settled(changed: int, before: int, *, coarse: bool = True) -> bool:
    """Tell whether a file that changed at a time cannot have changed again at the same time.

    `before` is when it was looked at; both are in nanoseconds since 1970. `coarse` is for file
    systems that keep whole seconds.
    """
    return changed + (_COARSE_TICK if coarse else _TICK) < before


def _signed(number: int) -> int:
    # Device and inode numbers are unsigned 64 bit, SQLite's integers signed.
    return number - (1 << 64) if number >= 1 << 63 else number


def _records(connection: "sqlite3.Connection", dev: int, bucket: int) -> bytes:
    row = connection.execute(
        "SELECT records FROM files WHERE dev = ? AND bucket = ?", (_signed(dev), bucket)
    ).fetchone()
    return bytes(row[0]) if row is not None else b""


def _open(path: Path) -> "sqlite3.Connection":
    import sqlite3

    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
    # Nothing in a damaged cache is worth more than a build that works.
    _remove(path)
    return _connect(path)


def _is_damage(error: "sqlite3.Error") -> bool:
    import sqlite3

    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


def _remove(path: Path) -> None:
    with explained(f"remove the damaged step cache {path}"):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _connect(path: Path) -> "sqlite3.Connection":
    import sqlite3

    # Statements commit by themselves (isolation_level None); the lock keeps threads apart.
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        if connection.execute("PRAGMA user_version").fetchone()[0] != _SCHEMA_VERSION:
            _make_schema(connection, only_if_other=True)
            _use_wal(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: "sqlite3.Connection") -> None:
    import sqlite3

    # Kept in the file. SQLite does not wait for other connections here: one of those that
    # open a new cache at the same time gets it, and the others need not.
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise


def _make_schema(connection: "sqlite3.Connection", *, only_if_other: bool = False) -> None:
    connection.execute("BEGIN IMMEDIATE")
    # Another process may have made the tables while this one waited for the lock.
    current = connection.execute("PRAGMA user_version").fetchone()[0]
    if not (only_if_other and current == _SCHEMA_VERSION):
        for table in _TABLES:
            connection.execute(f"DROP TABLE IF EXISTS {table}")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _explain(error: "sqlite3.Error", path: Path) -> StoreError:
    import sqlite3

    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError(
            "no space left to write the step cache",
            hint="free some space, or choose a store on another disk with --store",
        )
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return StoreError(
            f"cannot open the step cache {path}: {error}",
            hint="make the store writable for this user, or choose another with --store",
        )
    if _is_damage(error):
        return StoreError(
            f"the step cache {path} was damaged: {error}",
            hint="it was removed; run the same command again",
        )
    return StoreError(f"the step cache {path} failed: {error}")
