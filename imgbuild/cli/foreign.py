"""What flags of docker, buildah and kaniko that `imgbuild build` does not have are called here."""

from collections.abc import Mapping

_NO_CACHE_TO_MOVE = "leave it out: the store is the cache; --store DIR chooses another one"
_NOTHING_TO_REMOVE = "leave it out: a build leaves no containers"
_NO_ATTESTATIONS = "leave it out: an image has no attestations"
_NO_WEIGHT = "leave it out: steps share the processors; --cpus NUMBER limits them"
_NO_LABELS = (
    "leave it out: the sandbox has its own filter; --cap-add and --cap-drop change capabilities"
)
_NO_BUILDER = "leave it out: there is no daemon and no builder to choose"

_HINTS: Mapping[str, str] = {
    "--build-args": "write --build-arg NAME=VALUE, once for each",
    "--builder": _NO_BUILDER,
    "--cache-dir": _NO_CACHE_TO_MOVE,
    "--cache-from": _NO_CACHE_TO_MOVE,
    "--cache-repo": _NO_CACHE_TO_MOVE,
    "--cache-to": _NO_CACHE_TO_MOVE,
    "--cap": "write --cap-add NAME or --cap-drop NAME",
    "--cgroup-parent": "leave it out: limits are put beside imgbuild's own control group",
    "--compress": "leave it out: layers are always compressed",
    "--context": "give the context as the last argument: imgbuild build … PATH",
    "--cpu-shares": _NO_WEIGHT,
    "--cpuset-cpus": "leave it out: --cpus NUMBER limits processors, and taskset chooses them",
    "--cpuset-mems": "leave it out: numactl --membind chooses the nodes of memory",
    "--destination": "give the name with -t NAME, and --push to push it",
    "--dockerfile": "name the Dockerfile with -f PATH",
    "--force-rm": _NOTHING_TO_REMOVE,
    "--layers": "leave it out: every step is cached",
    "--load": "leave it out: the image is in the store; "
    "for docker: imgbuild build -o type=docker,dest=- … | docker load",
    "--memory-swap": "leave it out: beside --memory, a step may use as much swap",
    "--no-push": "leave it out: nothing is pushed without --push",
    "--provenance": _NO_ATTESTATIONS,
    "--reproducible": "leave it out: layers are reproducible; set SOURCE_DATE_EPOCH for the times",
    "--rm": _NOTHING_TO_REMOVE,
    "--sbom": _NO_ATTESTATIONS,
    "--security-opt": _NO_LABELS,
    "--tar-path": "write an archive with -o type=docker,dest=FILE",
    "--tarPath": "write an archive with -o type=docker,dest=FILE",
}


def foreign_hint(flag: str) -> str | None:
    """Return what to do instead of giving `flag`; None for a flag that is nobody's."""
    return _HINTS.get(flag)
