from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from modelcsi.config.environment import Environment, Mode, docker_config_dir, node_name, read_environment
from modelcsi.errors import InvalidRequest


def test_an_empty_environment_has_the_defaults() -> None:
    """Nothing set is the same as every variable set to nothing."""
    names = ("X_CSI_MODE", "CSI_NODE_ID", "CSI_ENDPOINT", "DOCKER_CONFIG", "HTTPS_PROXY", "SSL_CERT_FILE", "HOME")

    assert Environment() == read_environment({})
    assert Environment() == read_environment(dict.fromkeys(names, ""))


def test_every_variable_is_read() -> None:
    """Each variable of the design has its field."""
    variables = {
        "X_CSI_MODE": "controller",
        "CSI_NODE_ID": "node-1",
        "CSI_ENDPOINT": "unix:///csi.sock",
        "POD_IP": "10.0.0.1",
        "DOCKER_CONFIG": "/docker",
        "HOME": "/home/me",
        "HTTPS_PROXY": "http://secure",
        "HTTP_PROXY": "http://plain",
        "NO_PROXY": ".local",
        "SSL_CERT_FILE": "/ca.pem",
    }

    assert Environment(
        mode=Mode.CONTROLLER,
        node_id="node-1",
        csi_endpoint="unix:///csi.sock",
        pod_ip="10.0.0.1",
        docker_config="/docker",
        home="/home/me",
        https_proxy="http://secure",
        http_proxy="http://plain",
        no_proxy=".local",
        ssl_cert_file="/ca.pem",
    ) == read_environment(variables)


def test_proxy_variables_in_either_case() -> None:
    """Lower case counts where upper case is not set."""
    read = read_environment({"https_proxy": "http://low", "no_proxy": "low", "NO_PROXY": "UP"})

    assert ("http://low", "UP") == (read.https_proxy, read.no_proxy)


def test_an_unknown_mode() -> None:
    """A mode that is neither of the two is an error that names it."""
    with pytest.raises(InvalidRequest, match=r"X_CSI_MODE is 'nodes' \(it is node or controller\)"):
        read_environment({"X_CSI_MODE": "nodes"})


def test_a_node_id_longer_than_csi_allows() -> None:
    """The node id is checked at start, not when kubelet asks for it."""
    with pytest.raises(InvalidRequest, match="256 bytes"):
        read_environment({"CSI_NODE_ID": "n" * 257})


def test_the_host_name_stands_in_for_a_node_id(caplog: pytest.LogCaptureFixture) -> None:
    """Without CSI_NODE_ID the node has its host name, with a warning; with it there is none."""
    with caplog.at_level(logging.WARNING):
        names = [node_name(Environment(node_id="node-1")), node_name(Environment())]

    assert ["node-1", socket.gethostname()] == names
    assert 1 == len(caplog.records)


def test_where_docker_keeps_its_configuration() -> None:
    """DOCKER_CONFIG, else ~/.docker."""
    assert Path("/docker") == docker_config_dir(Environment(docker_config="/docker"))
    assert Path("/home/me/.docker") == docker_config_dir(Environment(home="/home/me"))


def test_proxy_passwords_are_not_in_the_representation() -> None:
    """A proxy URL may hold a password, and representations end in logs."""
    assert "secret" not in repr(
        read_environment({"HTTPS_PROXY": "http://u:secret@p", "HTTP_PROXY": "http://u:secret@p"})
    )
