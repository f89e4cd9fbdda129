"""Answers to calls as JSON, key for key as buildx prints them with `--call=NAME,format=json`."""

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from imgbuild.errors import ImgbuildError, Span
from imgbuild.plan.calls import CheckResult, Outline, OutlineMount, Targets

# json leaves these as they are, and a terminal may obey them (ECMA-48's C1).
_CONTROLS = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def check_json(result: CheckResult) -> str:
    """Return the answer to `--call=check,format=json`."""
    document: dict[str, Any] = {
        "warnings": [
            _present(
                {
                    "ruleName": warning.rule,
                    "description": warning.detail,
                    "url": warning.url,
                    "detail": warning.message,
                    "location": _location(warning.span),
                }
            )
            for warning in result.warnings
        ]
        or None,
        "sources": [
            {"filename": result.file, "data": _encoded(result.source), "language": "Dockerfile"}
        ],
    }
    if result.error is not None:
        document["buildError"] = _error(result.error)
    return _text(document)


def _error(error: ImgbuildError) -> dict[str, Any]:
    return {
        "message": error.message,
        "location": {} if error.span is None else _location(error.span),
    }


def outline_json(outline: Outline) -> str:
    """Return the answer to `--call=outline,format=json`."""
    return _text(
        _present(
            {
                "name": outline.name,
                "description": outline.description,
                "args": [
                    _present(
                        {
                            "name": arg.name,
                            "description": arg.description,
                            "value": arg.value,
                            "location": _location(arg.span),
                        }
                    )
                    for arg in outline.args
                ],
                "secrets": _mounts(outline.secrets),
                "ssh": _mounts(outline.ssh),
                "sources": [_encoded(outline.source)],
            }
        )
    )


def _mounts(mounts: Iterable[OutlineMount]) -> list[dict[str, Any]]:
    return [
        _present({"name": each.name, "required": each.required, "location": _location(each.span)})
        for each in mounts
    ]


def targets_json(targets: Targets) -> str:
    """Return the answer to `--call=targets,format=json`."""
    found = [
        _present(
            {
                "name": target.name,
                "default": target.default,
                "description": target.description,
                "base": target.base,
                "platform": target.platform,
                "location": _location(target.span),
            }
        )
        for target in targets
    ]
    return _text({"targets": found, "sources": [_encoded(targets.source)]})


def _location(span: Span) -> dict[str, Any]:
    # One range a line, as BuildKit has them.
    lines = range(span.first, span.last + 1)
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}} for line in lines]}


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what says nothing."""
    return {key: value for key, value in fields.items() if value}


def _encoded(source: bytes) -> str:
    return base64.b64encode(source).decode("ascii")


def _text(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, indent=2, ensure_ascii=False).translate(_CONTROLS)
    return f"{text}\n"
