"""The printed plan; whole plans are in testdata/plan."""

import json

from imgbuild.plan.render import render_json, render_plan, to_json
from tests.unit.plan.planning import plan


def test_proxies_show_by_name_alone() -> None:
    built = plan("FROM debian\nRUN x\n", proxies={"HTTP_PROXY": "http://user:password@host"})
    assert "password" not in render_plan(built)
    assert "password" not in render_json(built)
    assert to_json(built)["stages"][0]["steps"][0]["hidden_env"] == ["HTTP_PROXY", "http_proxy"]


def test_json_is_json() -> None:
    built = plan('FROM debian\nENV A="\udcff é"\nCOPY --chmod=7 . /\n')
    assert json.loads(render_json(built)) == json.loads(json.dumps(to_json(built)))


def test_text_ends_lines_and_has_no_control_characters() -> None:
    text = render_plan(plan('FROM debian\nENV A="a\\\nb"\nRUN ["x","\\n\\u001b[31m"]\nCOPY . /\n'))
    assert text.endswith("\n")
    assert all(line.isprintable() for line in text.splitlines())
