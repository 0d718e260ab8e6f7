from __future__ import annotations

import logging
from pathlib import Path

import pytest

from modelcsi.config.address import TcpAddress
from modelcsi.config.file import load_config
from modelcsi.config.model import Config
from modelcsi.errors import InvalidRequest

_UPSTREAM = """\
service_name: model.csi.modelpack.org
root_dir: /var/lib/dragonfly/model-csi
external_csi_endpoint: tcp://$POD_IP:5243
external_csi_authorization: "token"
dynamic_csi_endpoint: unix:///var/run/dynamic.sock
csi_endpoint: unix:///csi/csi.sock
metrics_addr: tcp://$POD_IP:5244
trace_endpoint: http://$HOST_IP:4318
pprof_addr: tcp://127.0.0.1:5245
pull_config:
  docker_config_dir: /root/.docker
  proxy_url: ""
  dragonfly_endpoint:
  concurrency: 5
  pull_layer_timeout_in_seconds: 300
  node_layer_concurrency: 10
features:
  check_disk_quota: true
  disk_usage_limit: 10TiB
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test writes its file."""
    return tmp_path / "config.yaml"


def _load(path: Path, text: str, **environment: str) -> Config:
    path.write_text(text)
    return load_config(path, environment)


def _refusal(path: Path, text: str, **environment: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        _load(path, text, **environment)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "pull_config:\nfeatures: null\n", "pull_config: {concurrency: null}"]
)
def test_what_is_not_set_has_its_default(path: Path, text: str) -> None:
    """An empty file, empty sections and null, as templates write them, are the defaults."""
    assert Config() == _load(path, text)


def test_every_key_of_the_upstream_driver(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An existing configuration is read as it is; what has no effect is named in one warning."""
    with caplog.at_level(logging.WARNING):
        config = _load(path, _UPSTREAM, POD_IP="10.1.2.3")

    assert (TcpAddress("10.1.2.3", 5244), TcpAddress("127.0.0.1", 5244)) == config.metrics_addresses
    assert (Path("/root/.docker"), 5, 10 << 40) == (
        config.docker_config_dir,
        config.pull_config.layers_at_once,
        config.features.disk_usage_limit,
    )
    (record,) = caplog.records
    assert (
        "external_csi_endpoint, external_csi_authorization, dynamic_csi_endpoint, trace_endpoint, pprof_addr"
        in record.getMessage().replace(
            "pull_config.pull_layer_timeout_in_seconds, pull_config.node_layer_concurrency, ", ""
        )
    )
    assert "check_disk_quota" not in record.getMessage()


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("metric_addr: tcp://127.0.0.1:1", "unknown key 'metric_addr' (did you mean 'metrics_addr'?)"),
        ("concurrency: 3", "unknown key 'concurrency' (did you mean 'pull_config.concurrency'?)"),
        ("pull_config: {proxy: x}", "unknown key 'pull_config.proxy' (did you mean 'pull_config.proxy_url'?)"),
        ("environment: {}", "unknown key 'environment'"),
        ("1: x", "unknown key '1' (known keys: service_name"),
    ],
)
def test_an_unknown_key_names_the_nearest(path: Path, text: str, hint: str) -> None:
    """A typo is an error that says what may have been meant."""
    assert _refusal(path, text).startswith(hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("publish_slots: '8'", "publish_slots is the text '8', not a whole number"),
        ("publish_slots: true", "publish_slots is True, not a whole number"),
        ("publish_slots: 0", "publish_slots is 0, less than 1"),
        ("features: {check_disk_quota: 1}", "features.check_disk_quota is 1, neither true nor false"),
        ("features: {disk_usage_limit: 10 apples}", "features.disk_usage_limit is the text '10 apples', not a size"),
        ("features: {disk_usage_limit: -1}", "features.disk_usage_limit is -1, less than 0"),
        (
            f"features: {{disk_usage_limit: '{'9' * 5000}TiB'}}",
            "features.disk_usage_limit is an impossibly large number",
        ),
        (
            f"features: {{check_disk_quota: {'59:' * 3000}59}}",
            "features.check_disk_quota is a very large number, neither",
        ),
        (f"publish_slots: {'59:' * 3000}59", "publish_slots is an impossibly large number"),
        ("features: []", "features is a list, not a mapping of keys to values"),
        ("[a, b]", "the file is a list, not a mapping of keys to values"),
        ("external_csi_authorization: 4711", "external_csi_authorization is a int, not text (put it in quotes)"),
        ("pull_config: {memory_budget: 1MiB}", "pull_config.memory_budget is 1048576, less than 8MiB"),
        ("pull_config: {concurrency: -1}", "pull_config.concurrency is -1, less than 0"),
        ("pull_config: {proxy_url: 'u:secret@proxy'}", "pull_config.proxy_url is no http:// or https:// URL"),
        ("root_dir: var/lib", "root_dir 'var/lib' is not an absolute path"),
        ("service_name: my/driver", "service_name 'my/driver' is no CSI driver name"),
        ("log_level: loud", "log_level 'loud' is none of debug, info, warning, error"),
        ("metrics_addr: 127.0.0.1:5244", "metrics_addr: '127.0.0.1:5244' is no address"),
        ("metrics_addr: tcp://h:65536", "metrics_addr: 'tcp://h:65536' is no address"),
        ("csi_endpoint: tcp://0.0.0.0:1", "csi_endpoint: 'tcp://0.0.0.0:1' is no unix socket"),
        (f"csi_endpoint: unix:///{'x' * 107}", f"csi_endpoint: /{'x' * 107} is too long for a unix socket"),
    ],
)
def test_a_wrong_value_names_its_key(path: Path, text: str, message: str) -> None:
    """Wrong types and impossible values say which key of which file; no secret is repeated."""
    assert _refusal(path, text).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("root_dir: /a\nlog_level: info\nroot_dir: /b\n", "line 3: the key 'root_dir' is there twice"),
        (
            "features:\n  disk_usage_limit: 1\n  disk_usage_limit: 2\n",
            "line 3: the key 'disk_usage_limit' is there twice",
        ),
        ("root_dir: /a\n  log_level: [\n", "line 2: mapping values are not allowed here"),
        ("root_dir: \0", "is not YAML: unacceptable character"),
        ("root_dir: 2024-99-99", "is not YAML: month must be in 1..12"),
        ("root_dir: !!timestamp x", "is not YAML: a value does not fit its tag"),
        ("root_dir: !!bool x", "is not YAML: a value does not fit its tag"),
        ("[" * 5000, "is nested too deeply"),
        ("root_dir: !!python/name:os.system", "line 1: could not determine a constructor"),
    ],
)
def test_bad_yaml_names_the_line(path: Path, text: str, message: str) -> None:
    """What is not YAML, or ambiguous, is an error with its line."""
    assert _refusal(path, text).startswith(message)


def test_a_file_that_does_not_exist(path: Path) -> None:
    """A missing file is the administrator's mistake, not a bug."""
    with pytest.raises(InvalidRequest, match=r"config\.yaml: cannot be read: No such file"):
        load_config(path, {})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10TiB", 10 << 40),
        ("500GB", 500 * 10**9),
        ("1.5 GiB", 3 << 29),
        ("'1,000 kB'", 10**6),
        ("2Mi", 2 << 20),
        ("3g", 3 * 10**9),
        ("4096", 4096),
        ("'4096'", 4096),
        ("12B", 12),
        ("0", 0),
    ],
)
def test_sizes(path: Path, text: str, size: int) -> None:
    """Sizes are read as the upstream driver reads them."""
    assert size == _load(path, f"features: {{disk_usage_limit: {text}}}").features.disk_usage_limit


@pytest.mark.parametrize(("text", "seconds"), [("5", 5), ("1.5", 1.5), ("90s", 90), ("'5 m'", 300), ("2h", 7200)])
def test_times(path: Path, text: str, seconds: float) -> None:
    """A number is one of seconds."""
    assert seconds == _load(path, f"fuse: {{read_timeout: {text}}}").fuse.read_timeout


@pytest.mark.parametrize("text", ["soon", "-5", "5d", "true", "'1e3'", "0", ".nan"])
def test_what_is_no_time(path: Path, text: str) -> None:
    """The message names the key."""
    assert "fuse.read_timeout is " in _refusal(path, f"fuse: {{read_timeout: {text}}}")


def test_variables_in_addresses(path: Path) -> None:
    """`$NAME` and `${NAME}` are expanded in addresses."""
    config = _load(path, "csi_endpoint: unix://${BASE}/csi.sock\nmetrics_addr: tcp://$H:80", BASE="/run/csi", H="h")

    assert ("unix:///run/csi/csi.sock", "tcp://h:80") == (config.csi_endpoint, config.metrics_addr)


@pytest.mark.parametrize("text", ["tcp://$POD_IP:80", "tcp://[$POD_IP]:80"])
def test_an_ipv6_address_gets_its_brackets(path: Path, text: str) -> None:
    """The same file works on IPv4 and IPv6 clusters."""
    assert TcpAddress("fd00::1", 80) == _load(path, f"metrics_addr: '{text}'", POD_IP="fd00::1").metrics_addresses[0]


def test_a_variable_that_is_not_set(path: Path) -> None:
    """An address with a hole in it is never listened on; the error names the variable."""
    assert _refusal(path, "metrics_addr: tcp://$POD_IP:5244").startswith(
        "metrics_addr is 'tcp://$POD_IP:5244', and the environment has no POD_IP"
    )


def test_equal_addresses_are_one(path: Path) -> None:
    """A pod address that is 127.0.0.1 is listened on once."""
    config = _load(path, "metrics_addr: tcp://$POD_IP:5244", POD_IP="127.0.0.1")

    assert (TcpAddress("127.0.0.1", 5244),) == config.metrics_addresses


def test_the_endpoint_of_the_environment_wins(path: Path) -> None:
    """CSI_ENDPOINT beats the file, and is checked like it."""
    assert Path("/b.sock") == _load(path, "csi_endpoint: unix:///a.sock", CSI_ENDPOINT="unix:///b.sock").csi_socket
    assert _refusal(path, "", CSI_ENDPOINT="/b.sock").startswith("csi_endpoint: '/b.sock' is no unix socket")


def test_secrets_are_not_in_the_representation(path: Path) -> None:
    """A Config may be logged."""
    config = _load(path, "external_csi_authorization: s3cret\npull_config: {proxy_url: 'http://u:s3cret@p'}")

    assert "s3cret" not in repr(config)
