"""What flags and commands of docker, buildah and kaniko that imgbuild does not have are called here."""

from collections.abc import Mapping

_NO_CACHE_TO_MOVE = "leave it out: the store is the cache; --store DIR chooses another one"
_NOTHING_TO_REMOVE = "leave it out: a build leaves no containers"
_NO_ATTESTATIONS = "leave it out: an image has no attestations"
_NO_WEIGHT = "leave it out: commands share the processors; --cpus NUMBER limits them"
_NO_LABELS = "leave it out: the sandbox has a filter of its own; --cap-add and --cap-drop change capabilities"
_NO_BUILDER = "leave it out: there is no daemon and no builder to choose"
_NAMESPACES = "leave it out: commands have namespaces of their own; --isolation says which"
_LOGINS = "leave it out: logins are read from config.json in $DOCKER_CONFIG or ~/.docker"
_STORE = "leave it out: --store DIR is where images are kept"
_OF_STEPS = "it is for the RUN steps of imgbuild build"

_OF_BOTH: Mapping[str, str] = {
    "--authfile": _LOGINS,
    "--cgroup-parent": "leave it out: limits are put beside imgbuild's own control group",
    "--cpu-shares": _NO_WEIGHT,
    "--cpuset-cpus": "leave it out: --cpus NUMBER limits processors, and taskset chooses them",
    "--cpuset-mems": "leave it out: numactl --membind chooses the nodes of memory",
    "--creds": _LOGINS,
    "--dns-opt": "write --dns-option OPTION",
    "--ipc": _NAMESPACES,
    "--memory-swap": "leave it out: beside --memory, a command may use as much swap",
    "--net": "write --network",
    "--pid": _NAMESPACES,
    "--root": _STORE,
    "--security-opt": _NO_LABELS,
    "--storage-driver": _STORE,
    "--tls-verify": "leave it out: registries are reached over https, and over http on loopback",
    "--userns": _NAMESPACES,
    "--uts": _NAMESPACES,
}
_OF_BUILD: Mapping[str, str] = {
    "--allow-insecure-entitlement": "write --allow security.insecure",
    "--attest": _NO_ATTESTATIONS,
    "--build-args": "write --build-arg NAME=VALUE, once for each",
    "--builder": _NO_BUILDER,
    "--cache-dir": _NO_CACHE_TO_MOVE,
    "--cache-from": _NO_CACHE_TO_MOVE,
    "--cache-repo": _NO_CACHE_TO_MOVE,
    "--cache-to": _NO_CACHE_TO_MOVE,
    "--cap": "write --cap-add NAME or --cap-drop NAME",
    "--compress": "leave it out: layers are always compressed",
    "--context": "give the context as the last argument: imgbuild build … PATH",
    "--debug": "--progress=plain shows all output, --on-fail=shell opens a shell",
    "--destination": "give the name with -t NAME, and --push to push it",
    "--dockerfile": "name the Dockerfile with -f PATH",
    "--env": "write ENV in the Dockerfile, or give an ARG with --build-arg NAME=VALUE",
    "--force-rm": _NOTHING_TO_REMOVE,
    "--format": "leave it out: images are OCI images; for docker: -o type=docker,dest=FILE",
    "--layers": "leave it out: every step is cached",
    "--load": "leave it out: the image is in the store; "
    "for docker: imgbuild build -o type=docker,dest=- … | docker load",
    "--mount": "write it in the Dockerfile: RUN --mount=…; or show a directory to each RUN with -v",
    "--no-cache-filter": "write --no-cache: it makes every step anew",
    "--no-push": "leave it out: nothing is pushed without --push",
    "--privileged": "write RUN --security=insecure in the Dockerfile, and --allow security.insecure",
    "--provenance": _NO_ATTESTATIONS,
    "--pull-always": "write --pull",
    "--reproducible": "leave it out: layers are reproducible; set SOURCE_DATE_EPOCH for the times",
    "--rm": _NOTHING_TO_REMOVE,
    "--sbom": _NO_ATTESTATIONS,
    "--squash": "leave it out: layers stay; a last stage FROM scratch with COPY --from has one",
    "--tar-path": "write an archive with -o type=docker,dest=FILE",
    "--tarPath": "write an archive with -o type=docker,dest=FILE",
    "--tmpfs": "write it in the Dockerfile: RUN --mount=type=tmpfs,target=DIR",
    "-e": "write ENV in the Dockerfile, or give an ARG with --build-arg NAME=VALUE",
}
_NO_PORTS = "leave it out: no ports are published; with --network=host they are this machine's"
_NO_DAEMON = "leave it out: there is no daemon; the shell can run it beside: imgbuild run … &"
_OF_RUN: Mapping[str, str] = {
    "--allow": _OF_STEPS,
    "--allow-secret-in-layer": _OF_STEPS,
    "--detach": _NO_DAEMON,
    "--gpus": "name it as a device, such as --device vendor.com/gpu=all",
    "--group-add": "leave it out: groups are those of the image's user; --user USER:GROUP adds one",
    "--init": "leave it out: what a command leaves running is ended",
    "--mount": "write -v SOURCE:TARGET[:ro]",
    "--name": "leave it out: nothing is left that could be called by a name",
    "--on-fail": _OF_STEPS,
    "--platform": "leave it out: what runs is for this machine",
    "--privileged": "leave it out: --cap-add ALL has all capabilities that can be given here",
    "--publish": _NO_PORTS,
    "--pull": "leave it out: imgbuild pull NAME pulls an image",
    "--tmpfs": "leave it out: the whole root is thrown away; /dev/shm is in memory",
    "-d": _NO_DAEMON,
    "-p": _NO_PORTS,
}
_FLAGS = {
    "imgbuild build": {**_OF_BOTH, **_OF_BUILD},
    "imgbuild run": {**_OF_BOTH, **_OF_RUN},
}

_NO_CONTAINERS = "no container is kept; imgbuild run NAME COMMAND runs a command in an image"
_CONFIG = "logins are read from config.json in $DOCKER_CONFIG or ~/.docker"
_COMMANDS: Mapping[str, str] = {
    "bud": "write imgbuild build",
    "builder": "imgbuild cache mount rm removes caches, imgbuild reset everything",
    "buildx": "leave the word out: imgbuild build …",
    "exec": _NO_CONTAINERS,
    "history": "it is in what imgbuild inspect NAME shows",
    "image": "leave the word out: imgbuild images, inspect, tag, rm, pull, push",
    "info": "imgbuild doctor tells what this host allows",
    "load": "give it to a build: --build-context NAME=oci-layout://PATH",
    "login": _CONFIG,
    "logout": _CONFIG,
    "logs": _NO_CONTAINERS,
    "mount": "write imgbuild cache mount",
    "prune": "imgbuild cache mount rm removes caches, imgbuild reset everything",
    "ps": _NO_CONTAINERS,
    "rmi": "write imgbuild rm",
    "save": "imgbuild build -o type=docker,dest=FILE writes an archive",
    "system": "imgbuild doctor tells what this host allows, imgbuild reset empties the store",
    "version": "write imgbuild --version",
}


def foreign_hint(path: str, flag: str) -> str | None:
    """Return what to do instead of giving `flag` to the command `path`; None for a flag that is nobody's."""
    return _FLAGS.get(path, {}).get(flag)


def foreign_command(name: str) -> str | None:
    """Return what to do instead of the command `name`; None for one that is nobody's."""
    return _COMMANDS.get(name)
