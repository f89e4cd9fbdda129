"""The package's public names stay what they are, whatever is imported."""

import inspect

import imgbuild
import imgbuild.api


def test_every_public_name_resolves() -> None:
    for name in imgbuild.__all__:
        assert getattr(imgbuild, name).__module__.startswith("imgbuild.")
    assert set(imgbuild.__all__) <= set(dir(imgbuild))


def test_functions_win_over_packages_of_the_same_name() -> None:
    from imgbuild.build import engine
    from imgbuild.plan import planner

    assert inspect.ismodule(engine)
    assert inspect.ismodule(planner)
    assert imgbuild.build is imgbuild.api.build
    assert imgbuild.plan is imgbuild.api.plan
