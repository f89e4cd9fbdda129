"""Whole builds without mounts give the images of builds with them."""

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.users import Who, folder_of, python_as

pytestmark = pytest.mark.rootless

_DOCKERFILE = """\
FROM base AS first
COPY f /app/f
WORKDIR /app
RUN cat f > g && mkdir -m 700 d && rm f && ln g h && ln -s g l
RUN ls > listing; mkdir -p x/y; touch x/y/a x/b; mkfifo p
COPY f /app/d/
RUN mkdir -m 777 /app/u && touch /app/u/old
USER 12:34
RUN cd /app/u && touch f && mkdir d && ln -s f l && mkfifo p
USER 0
RUN read -r name < /proc/sys/kernel/hostname && grep -q "$name" /etc/hosts
RUN rm -r x/y; mv x z; chmod 644 /app/g; chmod -R u+r /app; test -f d/f
FROM first AS second
RUN rm -rf /app/d && mkdir /app/d && echo 2 > /app/d/n
FROM first AS third
RUN echo 3 > /app/three && rm -f /app/l
FROM third
COPY --from=second /app/d /second
RUN <<END
cat /second/n /app/three > /both
test ! -e /app/l
END
"""
_CODE = """
import json, sys
from pathlib import Path
from imgbuild import api
from imgbuild.options import BuildOptions, RunOptions
from tests.support.bench import SEARCH_PATH
place, text = Path(sys.argv[1]), sys.argv[2]
(place / "context").mkdir()
(place / "context/f").write_text("content")
(place / "context/Dockerfile").write_text(text)
found = {}
for isolation in sys.argv[3:]:
    options = BuildOptions(
        place / "context",
        store=place / isolation,
        source_date_epoch=1_000_000_000,
        build_contexts={"base": "host://sh,ls,cat,mkdir,rm,mv,ln,chmod,touch,test,mkfifo,grep"},
        search_path=SEARCH_PATH,
        run=RunOptions(isolation=isolation),
    )
    notices = []
    built = api.build(options, events=lambda event: notices.append(getattr(event, "message", "")))
    found[isolation] = [step.layer and step.layer.diff_id for step in built.steps]
    left = [str(p) for p in (place / isolation).rglob("root-*")]
    found[isolation + " left"] = left
    found[isolation + " said"] = [text for text in notices if text.startswith("RUN steps")]
    api.reset(store=place / isolation)
json.dump(found, sys.stdout)
"""


@pytest.mark.parametrize(
    ("who", "usual", "bare"),
    [("self", "A", "D"), ("subids", "A", "D-userns"), ("single", "C", "D-userns")],
)
def test_images_are_equal(who: Who, usual: str, bare: str, tmp_path: Path) -> None:
    if who == "self" and os.getuid() != 0:
        pytest.skip("not root")
    with folder_of(who, tmp_path) as place:
        done = python_as(who, _CODE, place, _DOCKERFILE, usual, bare, timeout=300)
        found = cast(dict[str, Any], json.loads(done.stdout))
    assert found[bare] == found[usual]
    assert found[f"{bare} left"] == []
    (said,) = found[f"{bare} said"]
    assert f"tier {bare}" in said
    assert "boundary" in said
