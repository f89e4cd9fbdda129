"""Symbolic modes of --chmod, compared with the parser that BuildKit uses."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from imgbuild.errors import DockerfileError
from imgbuild.plan.chmod import apply_changes, parse_changes
from imgbuild.plan.copying import parse_mode

VECTORS = Path(
    os.environ.get("IMGBUILD_VECTORS") or Path(__file__).resolve().parents[3] / "shared" / "vectors"
)
FILE = VECTORS / "chmod" / "symbolic.json"
CASES: list[dict[str, Any]] = json.loads(FILE.read_text()) if FILE.exists() else []

pytestmark = pytest.mark.skipif(not CASES, reason=f"no vectors at {FILE}")


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['expr']} {c['base']} {c['is_dir']}")
def test_modes(case: dict[str, Any]) -> None:
    text = case["expr"]
    if not text:
        with pytest.raises(ValueError, match="^$"):
            parse_changes(text)
        return
    if case["error"]:
        with pytest.raises(DockerfileError, match="invalid chmod parameter"):
            parse_mode(text)
        return
    mode = parse_mode(text)
    if isinstance(mode, str):
        mode = apply_changes(parse_changes(mode), int(case["base"], 8), is_dir=case["is_dir"])
    assert mode == int(case["mode"], 8)
