"""A Debian base image made with debootstrap, reaching its mirror the way this host does.

Sources, certificates and proxies of the host are copied at run time; nothing here names one.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

_ENVIRONMENT = ("http_proxy", "https_proxy", "no_proxy")


@cache
def tree() -> Path:
    """Return an unpacked minimal Debian; skip where it cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root")
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed")
    kept = Path(tempfile.gettempdir()) / "imgbuild-test-debian"
    done = kept / "done"
    if not done.exists():
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(mode=0o755)
        command = ["debootstrap", "--variant=minbase", "bookworm", str(kept / "root")]
        if mirror := _mirror():
            command.append(mirror)
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"no Debian mirror can be had: {made.stdout[-300:]}")
        _adapt(kept / "root")
        done.touch()
    return kept / "root"


def _mirror() -> str | None:
    """Return the host's own mirror when it is a Debian with one."""
    if "ID=debian" not in Path("/etc/os-release").read_text().split():
        return None
    for file in _source_files():
        found = re.search(
            r"^(?:URIs:|deb(?: \[.*?\])?) *(\S+/debian)/? *", file.read_text(), re.MULTILINE
        )
        if found:
            return found[1]
    return None


def _source_files() -> list[Path]:
    folder = Path("/etc/apt")
    return [
        p for p in [folder / "sources.list", *folder.glob("sources.list.d/debian*")] if p.is_file()
    ]


def _adapt(root: Path) -> None:
    """Give the tree the host's way to a mirror: sources, certificates, and what proxies are set."""
    if _mirror():
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
        for file in _source_files():
            target = root / "etc/apt" / file.relative_to("/etc/apt")
            shutil.copy(file, target)
    for file in Path("/etc/apt/apt.conf.d").glob("*"):
        if "Acquire" in file.read_text():
            shutil.copy(file, root / "etc/apt/apt.conf.d" / file.name)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        (root / "etc/ssl/certs").mkdir(parents=True, exist_ok=True)
        shutil.copy(bundle, root / "etc/ssl/certs" / bundle.name)
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()


def proxy_arguments() -> list[str]:
    """Return `--build-arg` flags for the proxies of this host."""
    return [
        word
        for name in _ENVIRONMENT
        for value in [os.environ.get(name) or os.environ.get(name.upper())]
        if value
        for word in ("--build-arg", f"{name}={value}")
    ]


def pack(root: Path, layout: Path, name: str) -> str:
    """Pack `root` with its owners as an OCI image layout; return its manifest's digest.

    GNU tar and gzip write the layer, so that a base image of other tools is what is tested.
    """
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    raw = layout / "layer.tar"
    subprocess.run(
        [
            "tar",
            "--numeric-owner",
            "--format=pax",
            "--pax-option=delete=atime,delete=ctime",
            "--xattrs",
            "--xattrs-include=*",
            "--one-file-system",
        ]
        + ["--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "-C", str(root)]
        + ["-cf", str(raw), "."],
        check=True,
    )
    diff_id = _digest(raw)
    subprocess.run(["gzip", "-1n", str(raw)], check=True)
    layer = _keep(layout / "layer.tar.gz", blobs)
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["bash"],
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "debootstrap"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _document(config, "application/vnd.oci.image.config.v1+json", layout, blobs),
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **layer}],
    }
    top = _document(manifest, manifest["mediaType"], layout, blobs)
    top["annotations"] = {"org.opencontainers.image.ref.name": name}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return str(top["digest"])


def _document(value: object, media_type: object, layout: Path, blobs: Path) -> dict[str, object]:
    file = layout / "document"
    file.write_text(json.dumps(value))
    return {"mediaType": media_type, **_keep(file, blobs)}


def _keep(file: Path, blobs: Path) -> dict[str, object]:
    digest, size = _digest(file), file.stat().st_size
    file.rename(blobs / digest.removeprefix("sha256:"))
    return {"digest": digest, "size": size}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
