from __future__ import annotations

from pathlib import Path

import pytest

from modelcsi.errors import InvalidRequest
from modelcsi.registry.hosts import Endpoint, Hosts, Mirror
from modelcsi.registry.hosts_files import HostsFiles
from modelcsi.registry.tls import TlsSettings

_UNUSABLE_LINES = [
    'capabilities = ["pul"]',
    "capabilities = 7",
    'x-modelcsi-checks-rights = "yes"',
    "x-modelcsi-check-rights = true",
    'header.Range = "bytes=0-1"',
    "header.x = 7",
    'header.x = "hunter2\\n"',
    'x-modelcsi-checks-rights = true\nheader.authorization = "hunter2"',
]


def _write(directory: Path, host: str, text: str) -> None:
    (directory / host).mkdir(exist_ok=True)
    (directory / host / "hosts.toml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("registry.example.com", Endpoint("https://registry.example.com/v2")),
        ("registry.example.com:5000", Endpoint("https://registry.example.com:5000/v2")),
        ("10.0.0.1:5000", Endpoint("https://10.0.0.1:5000/v2")),
        ("docker.io", Endpoint("https://registry-1.docker.io/v2")),
        ("localhost:5000", Endpoint("https://localhost:5000/v2", may_be_plain=True)),
        ("127.0.0.1:5000", Endpoint("https://127.0.0.1:5000/v2", may_be_plain=True)),
        ("127.9.9.9", Endpoint("https://127.9.9.9/v2", may_be_plain=True)),
        ("[::1]:5000", Endpoint("https://[::1]:5000/v2", may_be_plain=True)),
        ("localhost.example.com", Endpoint("https://localhost.example.com/v2")),
    ],
)
def test_https_is_the_default_and_only_loopback_may_be_plain(host: str, expected: Endpoint) -> None:
    """Docker's hub has another name for its registry."""
    assert expected == Hosts().origin(host)


def test_the_nodes_docker_config_can_make_a_host_plain() -> None:
    """`serverscheme: http`; an explicit https also settles it for loopback."""
    schemes = {"registry.example.com": "http", "localhost:5000": "https"}
    hosts = Hosts(schemes.get)

    assert Endpoint("http://registry.example.com/v2") == hosts.origin("registry.example.com")
    assert Endpoint("https://localhost:5000/v2") == hosts.origin("localhost:5000")


def test_what_was_found_plain_is_remembered_per_port_and_forgotten() -> None:
    """Another program may listen there after a failure."""
    hosts = Hosts()
    hosts.remember_plain("127.0.0.1:5000")

    assert Endpoint("http://127.0.0.1:5000/v2") == hosts.origin("127.0.0.1:5000")
    assert Endpoint("https://127.0.0.1:5001/v2", may_be_plain=True) == hosts.origin("127.0.0.1:5001")
    hosts.forget("127.0.0.1:5000")
    assert Endpoint("https://127.0.0.1:5000/v2", may_be_plain=True) == hosts.origin("127.0.0.1:5000")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ('server = "http://plain.example.com:5000"', "http://plain.example.com:5000/v2"),
        ('server = "https://other.example.com/"', "https://other.example.com/v2"),
        ('server = "other.example.com"', "https://other.example.com/v2"),
        ('server = "https://other.example.com/prefix/v2"', "https://other.example.com/prefix/v2"),
        ('server = "https://other.example.com/prefix"', "https://other.example.com/prefix/v2"),
        ('server = "https://other.example.com/prefix"\noverride_path = true', "https://other.example.com/prefix"),
        ("", "https://registry.example.com/v2"),
    ],
)
def test_hosts_toml_names_the_server(text: str, url: str, tmp_path: Path) -> None:
    """Containerd's file and its rule for `/v2`."""
    _write(tmp_path, "registry.example.com", text)

    assert url == Hosts(files=HostsFiles(tmp_path)).origin("registry.example.com").url


def test_directories_are_searched_in_containerds_order(tmp_path: Path) -> None:
    """`host_port_`, `host:port`, `_default`; the first that exists is the only one."""
    hosts = Hosts(files=HostsFiles(tmp_path))
    found = []
    for name in ("_default", "registry.example.com:5000", "registry.example.com_5000_"):
        _write(tmp_path, name, f'server = "http://{name.replace(":", "-").replace("_", "x")}"')
        found.append(hosts.origin("registry.example.com:5000").url)

    assert [
        "http://xdefault/v2",
        "http://registry.example.com-5000/v2",
        "http://registry.example.comx5000x/v2",
    ] == found


def test_certificates_are_named_relative_to_the_file(tmp_path: Path) -> None:
    """`ca` is a name or a list; `client` a file, a list of files, or of pairs."""
    directory = tmp_path / "registry.example.com"
    _write(tmp_path, "registry.example.com", 'ca = ["a.pem", "/abs/b.pem"]\nclient = [["c.cert", "c.key"], "both.pem"]')
    expected = TlsSettings(
        (directory / "a.pem", Path("/abs/b.pem")),
        ((directory / "c.cert", directory / "c.key"), (directory / "both.pem", None)),
    )

    assert expected == Hosts(files=HostsFiles(tmp_path)).origin("registry.example.com").tls


@pytest.mark.parametrize("text", ['ca = "a.pem"', 'ca = "a.pem"\nclient = "x.pem"'])
def test_single_names_are_as_good_as_lists(text: str, tmp_path: Path) -> None:
    """Most files name one CA."""
    _write(tmp_path, "registry.example.com", text)
    tls = Hosts(files=HostsFiles(tmp_path)).origin("registry.example.com").tls

    assert (tmp_path / "registry.example.com" / "a.pem",) == tls.ca_files


def test_without_a_file_the_certificates_in_the_directory_count(tmp_path: Path) -> None:
    """Docker's old layout: *.crt are CAs, *.cert and *.key pairs."""
    directory = tmp_path / "registry.example.com"
    directory.mkdir()
    for name in ("ca.crt", "client.cert", "client.key"):
        (directory / name).touch()
    expected = TlsSettings((directory / "ca.crt",), ((directory / "client.cert", directory / "client.key"),))

    assert expected == Hosts(files=HostsFiles(tmp_path)).origin("registry.example.com").tls


def test_what_is_not_used_is_warned_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Verification cannot be switched off, neither for the registry nor for a mirror."""
    mirror = '[host."https://mirror.example.com"]\nskip_verify = true\ndial_timeout = "1s"\n'
    _write(tmp_path, "registry.example.com", f"skip_verify = true\n{mirror}")
    hosts = Hosts(files=HostsFiles(tmp_path))
    found = [hosts.origin("registry.example.com") for _ in range(2)]

    assert [Endpoint("https://registry.example.com/v2")] * 2 == found
    assert 3 == len(caplog.records)
    assert "hosts.toml: skip_verify is refused" in caplog.text
    assert "https://mirror.example.com: skip_verify is refused" in caplog.text
    assert "https://mirror.example.com: dial_timeout is not used" in caplog.text


def test_mirrors_come_in_the_files_order_with_their_own_settings(tmp_path: Path) -> None:
    """Containerd's keys and ours; a server of another name is told which registry is meant."""
    directory = tmp_path / "registry.example.com"
    _write(
        tmp_path,
        "registry.example.com",
        """
        server = "https://registry.example.com"
        [host."https://z.example.com:5000"]
        capabilities = ["pull"]
        ca = "z.pem"
        [host."https://z.example.com:5000".header]
        x-who = ["a", "b"]
        [host."http://10.0.0.1/v2/prefix"]
        override_path = true
        x-modelcsi-checks-rights = true
        """,
    )
    name = "registry.example.com"
    first = Endpoint(
        "https://z.example.com:5000/v2",
        TlsSettings((directory / "z.pem",)),
        namespace=name,
        headers=(("X-Who", "a, b"),),
    )
    expected = (
        Mirror(first, can_resolve=False),
        Mirror(Endpoint("http://10.0.0.1/v2/prefix", namespace=name), checks_rights=True),
    )

    assert expected == Hosts(files=HostsFiles(tmp_path)).mirrors(name)


def test_an_entry_with_the_registrys_own_name_is_no_mirror(tmp_path: Path) -> None:
    """Many files put the registry's settings there; its credentials go to it as before."""
    _write(tmp_path, "registry.example.com_5000_", '[host."http://registry.example.com:5000"]\nca = "a.pem"\n')
    hosts = Hosts(files=HostsFiles(tmp_path))
    directory = tmp_path / "registry.example.com_5000_"

    assert () == hosts.mirrors("registry.example.com:5000")
    assert Endpoint("http://registry.example.com:5000/v2", TlsSettings((directory / "a.pem",))) == hosts.origin(
        "registry.example.com:5000"
    )


def test_docker_hub_under_its_own_name_is_told_no_namespace(tmp_path: Path) -> None:
    """As containerd does."""
    _write(tmp_path, "docker.io", 'server = "https://registry-1.docker.io"\n[host."https://mirror.example.com"]\n')
    hosts = Hosts(files=HostsFiles(tmp_path))

    assert ("", ["docker.io"]) == (
        hosts.origin("docker.io").namespace,
        [mirror.endpoint.namespace for mirror in hosts.mirrors("docker.io")],
    )


def test_open_mirrors_of_all_registries_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An attacker's own registry would say that it holds what the mirror has; a mirror that checks rights asks for itself."""
    text = '[host."https://open.example.com"]\n[host."https://checks.example.com"]\nx-modelcsi-checks-rights = true\n'
    _write(tmp_path, "_default", text)
    hosts = Hosts(files=HostsFiles(tmp_path))
    found = [mirror.endpoint.host for _ in range(2) for mirror in hosts.mirrors("anything.example.com")]

    assert ["checks.example.com"] * 2 == found
    assert 1 == caplog.text.count("only for registries that have a directory of their own")


@pytest.mark.parametrize(
    "text",
    [
        f"server = {'[' * 5000}",
        "server = ",
        'server = "ftp://x"',
        'server = "https://u:hunter2@x"',
        "ca = 7",
        "client = [[]]",
    ]
    + [f'[host."https://m"]\n{line}' for line in _UNUSABLE_LINES]
    + ["host = 7", "[host]\nx = 7", '[host."ftp://hunter2@m"]'],
)
def test_a_file_that_cannot_be_used_is_named(text: str, tmp_path: Path) -> None:
    """A setting that silently does not count is worse than an error."""
    _write(tmp_path, "registry.example.com", text)
    with pytest.raises(InvalidRequest, match=r"registry\.example\.com/hosts\.toml") as caught:
        Hosts(files=HostsFiles(tmp_path)).origin("registry.example.com")

    assert "hunter2" not in str(caught.value)


def test_a_file_that_breaks_while_pulls_run_counts_as_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A hosts.toml that breaks while pulls run counts as it was until it is mended.

    It may be half-written: a pull must not end by it, and the admin is told, once for each mistake.
    """
    name = "registry.example.com"
    hosts = Hosts(files=HostsFiles(tmp_path))
    found = []
    for server in ('"http://a.test"', '"htt', '"htt', '"http://b.test"', '"http://c.te'):
        _write(tmp_path, name, f"server = {server}")
        found.append(hosts.origin(name).host)
    (tmp_path / name / "hosts.toml").unlink()

    assert ["a.test", "a.test", "a.test", "b.test", "b.test", name] == [*found, hosts.origin(name).host]
    assert 2 == caplog.text.count("what it said before counts")


def test_where_a_registry_leads_has_its_own_settings_or_the_registrys_roots(tmp_path: Path) -> None:
    """An object store behind the same private CA works; the client certificate is for the registry only."""
    _write(tmp_path, "registry.example.com", 'ca = "a.pem"\nclient = [["c.cert", "c.key"]]')
    _write(tmp_path, "storage.example.com", 'ca = "s.pem"')
    hosts = Hosts(files=HostsFiles(tmp_path))
    origin = hosts.origin("registry.example.com")

    assert origin.tls == hosts.tls_of("registry.example.com", origin)
    assert TlsSettings((tmp_path / "storage.example.com" / "s.pem",)) == hosts.tls_of("storage.example.com", origin)
    assert TlsSettings((tmp_path / "registry.example.com" / "a.pem",)) == hosts.tls_of("elsewhere.example.com", origin)


def test_the_registrys_own_authorization_is_no_header_of_everybodys(tmp_path: Path) -> None:
    """It is a credential of the node's; a mirror's goes to the mirror, which proves nothing by what it gives."""
    header = '[header]\nAuthorization = "Basic x"\nx-who = "a"\n'
    _write(
        tmp_path, "registry.example.com", f'{header}[host."https://m.example.com".header]\nauthorization = "Basic y"'
    )
    files = HostsFiles(tmp_path)
    hosts = Hosts(files=files)

    assert (("X-Who", "a"),) == hosts.origin("registry.example.com").headers
    assert "Basic x" == files.server("registry.example.com").authorization
    assert [(("Authorization", "Basic y"),)] == [m.endpoint.headers for m in hosts.mirrors("registry.example.com")]


@pytest.mark.parametrize(("server", "expected"), [("", ""), ('server = "https://proxy.example.com"\n', "Basic x")])
def test_an_authorization_for_all_registries_goes_to_a_server_of_the_admins(
    tmp_path: Path, server: str, expected: str
) -> None:
    """Else whoever names a registry of his own in a pod would be sent it."""
    _write(tmp_path, "_default", f'{server}[header]\nauthorization = "Basic x"\n')

    assert expected == HostsFiles(tmp_path).server("anything.example.com").authorization
