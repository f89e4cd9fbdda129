"""`--call` against buildx: text and JSON, warnings of builds, options of checks."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from imgbuild.build import calls
from imgbuild.build.bases import Lookup
from imgbuild.build.contexts import Contexts
from imgbuild.build.remotes import Remotes
from imgbuild.cli.calls_text import check_text, outline_text, targets_text
from imgbuild.dockerfile.lint import CheckOptions, parse_check_options
from imgbuild.errors import DockerfileError
from imgbuild.events import ignore
from imgbuild.oci.config import ImageConfig, RunConfig
from imgbuild.oci.platform import Platform
from imgbuild.oci.reference import Reference
from imgbuild.options import BuildOptions
from imgbuild.plan.calls_json import check_json, outline_json, targets_json
from imgbuild.plan.model import BaseImage
from imgbuild.store.store import Store
from tests.vectors import load

HOST = Platform("linux", "amd64")


def named(case: dict[str, Any]) -> str:
    return str(case["name"])


def describe(name: str, reference: Reference, _platform: Platform) -> BaseImage:
    """The busybox of the host's kind, whatever was asked for, as the builder had it."""
    assert reference.familiar.startswith("busybox"), name
    return BaseImage(name, None, ImageConfig(HOST, RunConfig(env=(("PATH", "/bin"),))), ())


def no_network() -> Any:
    pytest.fail("fetched")


def asked(tmp_path: Path, case: dict[str, Any], store: Store) -> calls.Question:
    folder = tmp_path / named(case)
    folder.mkdir()
    (folder / "Dockerfile").write_text(case["dockerfile"])
    for name, text in case.get("files", {}).items():
        (folder / name).write_text(text)
    options = BuildOptions(folder, target=case.get("target"), platform="linux/amd64")
    lookup = Lookup(store, {}, lambda *_: pytest.fail("pulled"), ignore, "", False, describe)
    contexts = Contexts(options, store.paths.staging, Remotes(no_network, no_network))
    return calls.ask(options, lookup, {}, contexts)


def sorted_blocks(text: str) -> list[list[str]]:
    """The order of secrets and of SSH agents is not stable in BuildKit."""
    return [sorted(block.split("\n")) for block in text.split("\n\n")]


def sorted_lists(document: dict[str, Any]) -> dict[str, Any]:
    for key in ("secrets", "ssh"):
        if key in document:
            document[key].sort(key=lambda item: item["name"])
    return document


@pytest.mark.parametrize("case", load("call/call.json", list, named))
def test_call(case: dict[str, Any], tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        question = asked(tmp_path, case, store)
        if case["call"] == "outline":
            outline = calls.outline(question)
            assert sorted_blocks(outline_text(outline)) == sorted_blocks(case["text"])
            assert sorted_lists(json.loads(outline_json(outline))) == sorted_lists(case["json"])
        elif case["call"] == "targets":
            targets = calls.targets(question)
            assert targets_text(targets) == case["text"]
            assert json.loads(targets_json(targets)) == case["json"]
        else:
            check(case, calls.check(question), str(tmp_path))


def check(case: dict[str, Any], found: calls.CheckResult, folder: str) -> None:
    assert check_text(found).replace(folder, "@CTX@") == case["text"]
    assert (1 if not found.ok else 0) == case["exit_text"] == case["exit_json"]
    document = json.loads(check_json(found))
    if case["name"] == "check-many":
        # Which of two wrong names is told is up to chance in BuildKit.
        assert document["buildError"]["location"]["ranges"][0]["start"]["line"] == 2
        del document["buildError"]["location"], case["json"]["buildError"]["location"]
    assert short(document) == short(case["json"])


def short(document: dict[str, Any]) -> dict[str, Any]:
    """Why a reference is wrong is said in words of our own."""
    if "buildError" in document:
        message = document["buildError"]["message"]
        document["buildError"]["message"] = re.sub("(invalid reference format).*", r"\1", message)
    return document


@pytest.mark.parametrize("case", load("misc/lint_options.json", list, lambda case: case["input"]))
def test_check_options(case: dict[str, Any]) -> None:
    if case["error"]:
        with pytest.raises(DockerfileError) as caught:
            parse_check_options(case["input"])
        assert caught.value.message == case["error"]
        return
    config = case["config"]
    assert parse_check_options(case["input"]) == CheckOptions(
        skip=tuple(config["skip"] or ()),
        skip_all=config["skip_all"],
        experimental=tuple(config["experimental"] or ()),
        experimental_all=config["experimental_all"],
        error=config["error"],
    )
