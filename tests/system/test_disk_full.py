"""A disk that gets full in any phase of a build: said so, nothing half made, and it goes on with more room."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import environment

pytestmark = pytest.mark.rootless

_SCRIPT = """
set -u
mount -t tmpfs -o size="$1"k none "$2" || exit 99
build() { "$3" -m imgbuild build --build-context base=host://sh,cat,dd,mkdir -t x "$4"; echo "status $?"; }
build "$@"
mount -o remount,size=300m "$2"
build "$@"
find "$2"/s/layers -name '*.new'; find "$2"/s/layers/steps "$2"/s/tmp/files -mindepth 1
"""
_DOCKERFILE = """\
FROM base
COPY big /big
RUN dd if=/dev/urandom of=/x bs=1M count=6 2>/dev/null
RUN mkdir /d && cat /x > /d/y
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
@pytest.mark.parametrize("kilobytes", [40, 1000, 6000, 12000, 18000, 24000, 30000, 40000])
def test_a_build_on_a_small_disk(tmp_path: Path, kilobytes: int) -> None:
    context, disk = tmp_path / "context", tmp_path / "disk"
    context.mkdir()
    disk.mkdir()
    (context / "Dockerfile").write_text(_DOCKERFILE)
    (context / "big").write_bytes(os.urandom(6_000_000))
    command = [
        "unshare",
        "-m",
        "sh",
        "-c",
        _SCRIPT,
        "sh",
        str(kilobytes),
        str(disk),
        sys.executable,
    ]
    done = subprocess.run(
        [*command, str(context)],
        capture_output=True,
        text=True,
        env=environment({"IMGBUILD_STORE": str(disk / "s")}),
        timeout=120,
    )
    if done.returncode == 99:
        pytest.skip("cannot mount a tmpfs here")
    # A command that met the full disk itself fails with its own status.
    first, second, *left = [line for line in done.stdout.splitlines() if not line.startswith("#")][
        -9:
    ]
    assert first in {"status 4", "status 1"}, done.stderr
    assert "no space left" in done.stderr or "did not complete" in done.stderr
    assert "Traceback" not in done.stderr
    assert (second, left) == ("status 0", []), done.stderr
