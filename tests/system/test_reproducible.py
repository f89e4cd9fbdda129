"""The same Dockerfile gives the same manifest digest on any account, in any folder, with any umask, zone and locale."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import users
from tests.support.command import PROJECT, imgbuild_as

pytestmark = [pytest.mark.rootless, pytest.mark.system]

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
DOCKERFILE = """\
FROM base
WORKDIR /srv/app
COPY . .
RUN echo made > made && ln -s made link && mkdir -p a/b && echo x > a/b/c
COPY --chown=12:34 one /owned/
RUN rm one && echo y >> made
CMD ["cat", "made"]
"""


def _context(folder: Path, names: list[str]) -> Path:
    """Write the same files in the order of `names`, so that folders list them differently."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(f"content of {name}\n")
        (folder / name).chmod(0o644)
        os.utime(folder / name, (1_600_000_000, 1_600_000_000))
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "Dockerfile").chmod(0o644)
    folder.chmod(0o755)
    return folder


def _build(context: Path, store: Path, env: Mapping[str, str], umask: int) -> str:
    command = [
        sys.executable,
        "-m",
        "imgbuild",
        "-q",
        "--build-context",
        "base=host://sh,cat,ln,mkdir,rm",
    ]
    done = subprocess.run(
        [*command, "-t", "repro", str(context)],
        capture_output=True,
        text=True,
        umask=umask,
        env={
            "PATH": PATH,
            "PYTHONPATH": str(PROJECT),
            "HOME": str(store.parent),
            "SOURCE_DATE_EPOCH": "1700000000",
            "IMGBUILD_STORE": str(store),
            **env,
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_umask_zone_locale_folder_and_order_do_not_matter(tmp_path: Path) -> None:
    names = [f"file{n}" for n in range(20)] + ["one"]
    first = _context(tmp_path / "a" / "context", names)
    second = _context(tmp_path / "elsewhere" / "deeper" / "context", list(reversed(names)))
    one = _build(first, tmp_path / "s1", {"TZ": "UTC", "LC_ALL": "C"}, 0o022)
    two = _build(second, tmp_path / "s2", {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"}, 0o077)
    assert one == two
    assert one.startswith("sha256:")


@pytest.mark.parametrize("who", ["subids", "single"])
def test_root_and_an_ordinary_user_get_the_same_digest(tmp_path: Path, who: users.Who) -> None:
    names = [f"file{n}" for n in range(20)] + ["one"]
    context = _context(tmp_path / "context", names)
    as_root = _build(context, tmp_path / "store", {}, 0o022)
    with users.folder_of(who, tmp_path) as folder:
        shutil.copytree(context, folder / "context")
        done = imgbuild_as(
            who,
            *("-q", "--build-context", "base=host://sh,cat,ln,mkdir,rm", "-t", "repro"),
            str(folder / "context"),
            env={"SOURCE_DATE_EPOCH": "1700000000", "TZ": "America/Lima", "PATH": PATH},
        )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == as_root
