"""References to git repositories, compared with BuildKit's dfgitutil."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from imgbuild.errors import DockerfileError
from imgbuild.plan.gitref import GitRef, parse_git_ref

VECTORS = Path(
    os.environ.get("IMGBUILD_VECTORS") or Path(__file__).resolve().parents[3] / "shared" / "vectors"
)
FILE = VECTORS / "git-ref" / "git-refs.json"
CASES: list[dict[str, Any]] = json.loads(FILE.read_text()) if FILE.exists() else []
NAMES = {
    "Remote": "remote",
    "ShortName": "short_name",
    "Ref": "ref",
    "Checksum": "checksum",
    "SubDir": "subdir",
    "KeepGitDir": "keep_git_dir",
    "Submodules": "submodules",
    "MTime": "mtime",
    "FetchByCommit": "fetch_by_commit",
    "IndistinguishableFromLocal": "like_local",
    "UnencryptedTCP": "unencrypted",
}

pytestmark = pytest.mark.skipif(not CASES, reason=f"no vectors at {FILE}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["input"])
def test_references(case: dict[str, Any]) -> None:
    if not case["is_git"]:
        assert parse_git_ref(case["input"]) is None
    elif case["error"]:
        with pytest.raises(DockerfileError) as caught:
            parse_git_ref(case["input"])
        assert caught.value.message == case["error"]
    else:
        wanted = {NAMES[key]: value for key, value in case["ref"].items()}
        assert parse_git_ref(case["input"]) == GitRef(**wanted)
