"""The container image that hack/image built; MODELCSI_IMAGE names the archive."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.image import NONROOT, UnpackedImage, files_below
from tests.fakes.kubelet import Kubelet

_ROOT = Path(__file__).resolve().parents[2]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
_LARGEST_BYTES = 80_000_000
_COMMANDS = ("model-csi-driver", "modelcsi", "model-csi-cli")
_PYTHON = "/opt/venv/bin/python"
_IMPORT_EVERYTHING = """
import importlib, pkgutil, modelcsi
for module in pkgutil.walk_packages(modelcsi.__path__, "modelcsi."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, "needs", error.name)
"""
_USE_KUBERNETES = """
from kubernetes import client, config, dynamic, watch
pod = client.ApiClient()._ApiClient__deserialize({"metadata": {"name": "a"}}, "V1Pod")
print(pod.metadata.name, client.CoreV1Api().list_namespaced_pod.__name__)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> UnpackedImage:
    """The image, unpacked once."""
    archive = os.environ.get("MODELCSI_IMAGE")
    if not archive:
        pytest.skip("MODELCSI_IMAGE names no image: hack/image FILE builds one")
    if os.geteuid() != 0:
        pytest.skip("a chroot needs root")
    return UnpackedImage(Path(archive), tmp_path_factory.mktemp("image"))


@pytest.fixture
def driver_config(image: UnpackedImage) -> Iterator[Path]:
    """A configuration file that the image's programs see as /mnt/config.yaml."""
    file = image.scratch / "config.yaml"
    config: dict[str, Any] = {
        "service_name": "model.csi.modelpack.org",
        "csi_endpoint": "unix:///mnt/csi.sock",
        "root_dir": "/mnt/store",
        "metrics_addr": "",
    }
    file.write_text(json.dumps(config))
    yield file
    file.unlink()


def test_is_small(image: UnpackedImage) -> None:
    """A node downloads at most 80 MB."""
    assert image.compressed_bytes <= _LARGEST_BYTES


def test_an_upgrade_of_the_driver_alone_is_a_small_layer(image: UnpackedImage) -> None:
    """The project is the last layer, without what it depends on."""
    assert image.layers[-1]["size"] < 2_000_000


def test_has_the_name_that_pods_use(image: UnpackedImage) -> None:
    """Containerd imports it under the name of the annotation."""
    names = image.descriptor["annotations"]

    assert names["org.opencontainers.image.ref.name"] == "localhost/model-csi-driver:dev"


def test_says_what_it_is(image: UnpackedImage) -> None:
    """The labels are the project's own words."""
    labels = image.config["config"]["Labels"]
    expected = {
        "title": _PROJECT["name"],
        "description": _PROJECT["description"],
        "licenses": _PROJECT["license"],
        "version": _PROJECT["version"],
    }

    assert expected == {name: labels[f"org.opencontainers.image.{name}"] for name in expected}


def test_starts_the_driver(image: UnpackedImage) -> None:
    """The entry point is the name by which existing deployments call it, and no user is set: a node mounts."""
    config = image.config["config"]

    assert (["/usr/bin/model-csi-driver"], "") == (config["Entrypoint"], config.get("User", ""))


@pytest.mark.parametrize("name", _COMMANDS)
def test_has_the_command(image: UnpackedImage, name: str) -> None:
    """Each name is in /usr/bin and explains itself, to anybody."""
    assert "usage:" in image.run(f"/usr/bin/{name}", "--help", user=NONROOT)


def test_is_this_version(image: UnpackedImage) -> None:
    """The command says the version of pyproject.toml."""
    assert image.run("/usr/bin/modelcsi", "--version") == f"modelcsi {_PROJECT['version']}\n"


def test_runs_python_3_13(image: UnpackedImage) -> None:
    """As design and lock say."""
    assert image.run(_PYTHON, "-c", "import sys; print(sys.version_info[:2])") == "(3, 13)\n"


def test_has_stat_for_the_probes_of_existing_charts(image: UnpackedImage) -> None:
    """Upstream's chart runs `stat` on the socket."""
    assert image.run("stat", "-c", "%F", "/usr/bin/model-csi-driver") == "symbolic link\n"


def test_has_nothing_to_build_or_install_python_with(image: UnpackedImage) -> None:
    """No compiler, no linker, no pip, no setuptools, no headers."""
    unwanted = {"gcc", "cc", "g++", "c++", "ld", "as", "make", "pip", "pip3", "uv", "strip", "Python.h"}
    files = [Path(file) for file in files_below(image.root)]
    packages = {"pip", "setuptools", "oras", "wheel"}

    assert [] == [file for file in files if file.name in unwanted or packages.intersection(file.parts)]


def test_keeps_nothing_of_the_machine_that_built_it(image: UnpackedImage) -> None:
    """No settings of pip, no resolver, no host name, no foreign certificate, no cache."""
    left = [
        file
        for file in files_below(image.root)
        if file.endswith(("pip.conf", "ca.crt", ".whl", ".deb", "resolv.conf", "_Packages.lz4"))
        or file.startswith(("usr/local/share/ca-certificates/", "src/", "var/lib/apt/lists/", "root/.c"))
    ]

    assert [] == [file for file in left if (image.root / file).stat().st_size]


def test_imports_every_module_but_the_push(image: UnpackedImage) -> None:
    """Every dependency is there, and every library that its wheels link; only oras is not, which only `modelcsi push` needs."""
    assert image.run(_PYTHON, "-c", _IMPORT_EVERYTHING, user=NONROOT) == "modelcsi.pack.client needs oras\n"


def test_has_both_adapters_of_lazy_mounts(image: UnpackedImage) -> None:
    """pyfuse3 was built from its locked source, finds libfuse's library, and brought no program with root's rights."""
    script = "import importlib.metadata, pyfuse3, trio; print(importlib.metadata.version('pyfuse3'))"
    locked = re.search(r"(?m)^pyfuse3==(\S+)", (_ROOT / "requirements.lock").read_text())

    assert locked is not None
    assert f"{locked[1]}\n" == image.run(_PYTHON, "-c", script, user=NONROOT)
    assert [] == [file for file in files_below(image.root) if Path(file).name.startswith("fusermount")]


def test_can_speak_to_the_api_server(image: UnpackedImage) -> None:
    """The Kubernetes client works without its asyncio twin, which is left out."""
    assert image.run(_PYTHON, "-c", _USE_KUBERNETES, user=NONROOT) == "a list_namespaced_pod\n"


def test_every_module_is_compiled(image: UnpackedImage) -> None:
    """A read-only root cannot hold a new .pyc: one that is missing would be compiled at each start."""
    files = files_below(image.root / "opt/venv/lib")
    compiled = {file for file in files if file.endswith(".cpython-313.pyc")}
    sources = [Path(file) for file in files if file.endswith(".py")]

    assert [] == [s for s in sources if str(s.parent / "__pycache__" / f"{s.stem}.cpython-313.pyc") not in compiled]


@pytest.mark.parametrize(("mode", "user"), [("controller", NONROOT), ("node", 0)])
def test_serves_on_a_read_only_root(image: UnpackedImage, driver_config: Path, mode: str, user: int) -> None:
    """The controller needs no root user, and neither mode writes anywhere but where its configuration says."""
    kubelet = Kubelet(image.scratch / "csi.sock", image.scratch)
    with image.start("/usr/bin/model-csi-driver", mode, "--config", "/mnt/config.yaml", user=user) as process:
        try:
            seen = _read_until_ready(process)
            answer = kubelet.probe()
            process.send_signal(signal.SIGTERM)
            seen += process.communicate(timeout=20)[0]
        finally:
            process.kill()

    assert (True, 0) == (answer.is_ok and answer.response.ready.value, process.returncode), seen


def _read_until_ready(process: subprocess.Popen[str]) -> str:
    """The log up to the line that says that it serves; up to its end if it never does."""
    assert process.stdout is not None, "its output is a pipe"
    seen = ""
    for line in process.stdout:
        seen += line
        if "ready: " in line:
            break
    return seen
