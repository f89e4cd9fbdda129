"""`host://sh,ls,python3`: a small base image of programs of this machine, for work without a network.

The same files give the same image. It is kept while no file it was made of changes, by stat.
"""

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator

from imgbuild.build.hosttree import HostTree, find_program, status
from imgbuild.build.images import load_image
from imgbuild.build.platforms import host_platform
from imgbuild.errors import ImgbuildError, UsageError
from imgbuild.layer.entry import Entry, sort_key
from imgbuild.oci import media_types
from imgbuild.oci.config import HistoryEntry, ImageConfig, RunConfig, dump_config
from imgbuild.oci.descriptor import Descriptor, Layer
from imgbuild.oci.digest import parse_digest
from imgbuild.oci.manifest import Manifest, dump_manifest
from imgbuild.options import STANDARD_PATH
from imgbuild.plan.model import BaseImage
from imgbuild.store.store import Store

LABEL = "org.imgbuild.base"
_VERSION = 1
_FILES = {
    b"etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n"
    b"nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    b"etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    b"etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
}
_DIRECTORIES = {
    b"dev": 0o755,
    b"etc": 0o755,
    b"proc": 0o755,
    b"root": 0o700,
    b"sys": 0o755,
    b"tmp": 0o1777,
    b"usr": 0o755,
    b"usr/bin": 0o755,
    b"var": 0o755,
    b"var/tmp": 0o1777,
}
# Shown as on this machine: a symlink where /usr is merged.
_LAYOUT = ("/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32")


def host_image(store: Store, programs: tuple[str, ...], search_path: str) -> tuple[BaseImage, bool]:
    """Return an image with `programs`, and whether it had to be made.

    Raises `UsageError` for a program that is not there or cannot be read.
    """
    if not programs:
        raise UsageError("host:// names no programs", hint="write it as host://sh,ls,python3")
    found = [find_program(name, search_path) for name in programs]
    key = "host-base " + json.dumps([_VERSION, programs, [(p, os.path.realpath(p)) for p in found]])
    known = _known(store, key)
    if known is not None:
        return known, False
    tree = HostTree()
    for name in programs:
        tree.add_program(name, search_path)
    before = _fingerprint(tree.paths)
    descriptor = _write(store, tree, programs)
    if _fingerprint(tree.paths) != before:
        raise UsageError("host://: files changed while they were read", hint="try again")
    memo = {
        "descriptor": [descriptor.digest, descriptor.size],
        "paths": sorted(tree.paths),
        "fingerprint": before,
    }
    store.cache.set_memo(key, json.dumps(memo))
    return load_image(store.blobs, "host", descriptor, host_platform()), True


def _known(store: Store, key: str) -> BaseImage | None:
    """Return the image made before, if it is whole and none of its files changed."""
    text = store.cache.memo(key)
    if text is None:
        return None
    memo = json.loads(text)
    try:
        if _fingerprint(memo["paths"]) != memo["fingerprint"]:
            return None
        digest, size = memo["descriptor"]
        descriptor = Descriptor(media_types.OCI_MANIFEST, parse_digest(digest), size)
        image = load_image(store.blobs, "host", descriptor, host_platform())
    except ImgbuildError:
        return None
    whole = all(store.blobs.exists(layer.descriptor) for layer in image.layers)
    return image if whole else None


def _fingerprint(paths: Iterable[str]) -> str:
    """Return a digest of the paths and their stat: files and directories that changed change it."""
    state = hashlib.sha256()
    for path in sorted(paths):
        try:
            s = os.lstat(path)
        except OSError:
            state.update(b"%b gone\0" % os.fsencode(path))
            continue
        # The times of directories such as /usr/bin change with every installed package; whether
        # a library folder has new files matters only for Python's own, whose files are few.
        times = b"" if stat.S_ISDIR(s.st_mode) and "/python" not in path else _times(s)
        state.update(
            b"%b\0%d %d %o %d %b\0"
            % (os.fsencode(path), s.st_dev, s.st_ino, s.st_mode, _size(s), times)
        )
    return state.hexdigest()


def _times(s: os.stat_result) -> bytes:
    return b"%d %d" % (s.st_mtime_ns, s.st_ctime_ns)


def _size(s: os.stat_result) -> int:
    return s.st_size if not stat.S_ISDIR(s.st_mode) else 0


def _write(store: Store, tree: HostTree, programs: tuple[str, ...]) -> Descriptor:
    # Not loaded while the image of earlier builds is still good.
    from imgbuild.build.commit import LayerMaker

    entries = {entry.path: (entry, source) for entry, source in _entries(tree)}
    newest = max(entry.mtime for entry, _ in entries.values())
    with LayerMaker(store, None) as maker:
        for path in sorted(entries, key=sort_key):
            entry, source = entries[path]
            if isinstance(source, str):
                with _open(source) as stream:
                    maker.add(entry, stream)
            else:
                maker.add(entry, io.BytesIO(source) if entry.type == "file" else None)
        maker.finish_tar()
        layer = maker.finish()
    return _write_documents(store, tree, programs, layer, newest)


def _open(path: str) -> io.BufferedReader:
    try:
        return open(path, "rb")
    except OSError as problem:
        raise UsageError(f"host://: cannot read {path}: {problem.strerror}") from None


def _entries(tree: HostTree) -> Iterator[tuple[Entry, str | bytes]]:
    """Give entries with where their content is: a path here, or the bytes. All belong to root."""
    newest = 0
    paths = set(tree.paths) | {path for path in _LAYOUT if os.path.islink(path)}
    below_root = any(path.startswith("/root/") for path in paths)
    for path in sorted(paths):
        found = status(path)
        name = os.fsencode(path).lstrip(b"/")
        mtime = found.st_mtime_ns // 1_000_000_000
        if stat.S_ISLNK(found.st_mode):
            link = os.fsencode(os.readlink(path))
            yield Entry(name, "symlink", 0o777, mtime=mtime, linkname=link), b""
            continue
        newest = max(newest, mtime) if stat.S_ISREG(found.st_mode) else newest
        if stat.S_ISREG(found.st_mode):
            # Set-user-id bits of this machine's programs stay behind.
            mode = stat.S_IMODE(found.st_mode) & 0o755
            yield Entry(name, "file", mode, mtime=mtime, size=found.st_size), path
    folders = {os.fsencode(p).lstrip(b"/"): 0o755 for p in paths if _is_folder(p)}
    folders |= {_target(p): 0o755 for p in paths if p in _LAYOUT and os.path.islink(p)}
    folders |= _DIRECTORIES
    for path in tree.links:
        folders |= {os.fsencode(p).lstrip(b"/"): 0o755 for p in _parents(path)}
    if below_root:
        folders[b"root"] = 0o755
    # Directories change with every package that is installed: they take the newest file's time.
    for name, mode in folders.items():
        if not os.path.islink(b"/" + name):
            yield Entry(name, "dir", mode, mtime=newest), b""
    for path, target in tree.links.items():
        name = os.fsencode(path).lstrip(b"/")
        yield Entry(name, "symlink", 0o777, mtime=newest, linkname=os.fsencode(target)), b""
    for name, content in _FILES.items():
        yield Entry(name, "file", 0o644, mtime=newest, size=len(content)), content


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _target(path: str) -> bytes:
    return os.fsencode(os.path.realpath(path)).lstrip(b"/")


def _parents(path: str) -> Iterator[str]:
    at = os.path.dirname(path)
    while at != "/":
        yield at
        at = os.path.dirname(at)


def _write_documents(
    store: Store, tree: HostTree, programs: tuple[str, ...], layer: Layer, newest: int
) -> Descriptor:
    import time

    env = [("PATH", STANDARD_PATH)]
    if tree.library_path:
        env.append(("LD_LIBRARY_PATH", ":".join(tree.library_path)))
    if tree.has_python:
        # Compiled modules would end up in the layer of whichever RUN imports them first.
        env.append(("PYTHONDONTWRITEBYTECODE", "1"))
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(newest))
    config = ImageConfig(
        host_platform(),
        RunConfig(
            env=tuple(env), cmd=("/bin/sh",), working_dir="/",
            labels={LABEL: "host", f"{LABEL}.programs": ",".join(programs)},
        ),
        (layer.diff_id,),
        (HistoryEntry(created, f"host://{','.join(programs)}", comment="imgbuild"),),
        created,
    )  # fmt: skip
    config_descriptor = store.blobs.add(media_types.OCI_CONFIG, dump_config(config))
    manifest = Manifest(media_types.OCI_MANIFEST, config_descriptor, (layer.descriptor,))
    return store.blobs.add(media_types.OCI_MANIFEST, dump_manifest(manifest))
