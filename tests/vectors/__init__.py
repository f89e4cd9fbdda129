"""Data of other projects, read in place: `IMGBUILD_VECTORS` or ../shared/vectors beside the project."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "vectors"
VECTORS = Path(os.environ.get("IMGBUILD_VECTORS") or _DEFAULT)


def load(
    name: str, select: Callable[[Any], list[Any]] = list, label: Callable[[Any], str] = repr
) -> list[Any]:
    """Return a file's cases as parameters; one skipped parameter where the file is absent."""
    path = VECTORS / name
    if not path.exists():
        reason = f"the vectors are not here: {path}"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    cases = select(json.loads(path.read_text()))
    return [
        pytest.param(case, id=f"{number}-{label(case)[:50]}") for number, case in enumerate(cases)
    ]
