"""The tree of the store. No other module computes a path inside it.

version                    format of this tree
oci-layout index.json      an OCI image layout; index.json lists complete images only
blobs/ALGORITHM/HEX        content
indexes/ALGORITHM/HEX      one file a layer, by diff id: its entries
layers/MAPPING/            unpacked trees, disposable
mounts/MAPPING/KEY/        what cache mounts keep, with a lock for each directory
layers/steps/              trees of running steps, each named after the session that made it
downloads/KEY/NAME         files that ADD fetched, disposable
cache.sqlite               step cache and memos, disposable
locks/                     `store` (builders share it), `names`, `downloads`, `sessions/` (one a process)
git/KEY/                   mirrors of git repositories, disposable; git/KEY.lock is held by who uses one
git/known_hosts            keys of SSH servers as they first showed them
tmp/files/                 files and folders that are being written or used, named likewise
"""

from pathlib import Path

from imgbuild.oci.digest import Digest


class StorePaths:
    """Name everything below `root`."""

    __slots__ = ("root",)

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def version(self) -> Path:
        return self.root / "version"

    @property
    def layout(self) -> Path:
        return self.root / "oci-layout"

    @property
    def names(self) -> Path:
        return self.root / "index.json"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    def blob(self, digest: Digest) -> Path:
        return self.blobs / digest.algorithm / digest.encoded

    @property
    def indexes(self) -> Path:
        return self.root / "indexes"

    def index(self, diff_id: Digest) -> Path:
        return self.indexes / diff_id.algorithm / diff_id.encoded

    @property
    def trees(self) -> Path:
        return self.root / "layers"

    @property
    def mirrors(self) -> Path:
        return self.root / "git"

    @property
    def learned_hosts(self) -> Path:
        return self.mirrors / "known_hosts"

    @property
    def staging(self) -> Path:
        """Files that are being written; all are owned by the caller."""
        return self.root / "tmp" / "files"

    @property
    def scratch(self) -> Path:
        """Trees of running steps; only a worker can remove what has mapped owners.

        They are below `trees`, so that one can become the tree of a layer by a rename: a worker
        can write to that directory alone, which is a mount of its own there.
        """
        return self.trees / "steps"

    @property
    def cache_mounts(self) -> Path:
        """What cache mounts keep; only a worker can write below it."""
        return self.root / "mounts"

    @property
    def sessions(self) -> Path:
        return self.root / "locks" / "sessions"

    @property
    def store_lock(self) -> Path:
        return self.root / "locks" / "store"

    @property
    def names_lock(self) -> Path:
        return self.root / "locks" / "names"

    @property
    def downloads(self) -> Path:
        return self.root / "downloads"

    def download(self, key: str) -> Path:
        return self.downloads / key

    @property
    def downloads_lock(self) -> Path:
        return self.root / "locks" / "downloads"

    @property
    def cache(self) -> Path:
        return self.root / "cache.sqlite"

    def directories(self) -> tuple[Path, ...]:
        """Every directory that a fresh store has, parents first."""
        return (
            self.blobs / "sha256",
            self.indexes / "sha256",
            self.trees,
            self.staging,
            self.scratch,
            self.cache_mounts,
            self.sessions,
        )

    def top_level(self) -> frozenset[str]:
        """Names that may stand in a store whose making was cut short."""
        fixed = {"version", "oci-layout", "index.json", "blobs", "indexes", "layers", "git"}
        return frozenset(fixed | {"downloads", "mounts", "locks", "tmp", "cache.sqlite"})
