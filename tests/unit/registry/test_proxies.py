from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from modelcsi.errors import InvalidRequest
from modelcsi.registry.proxies import Proxy, ProxySettings


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://registry.example.com/v2/", "http://secure:3128"),
        ("http://registry.example.com/v2/", "http://plain:80"),
        ("https://127.0.0.1:5000/v2/", None),
        ("https://localhost/v2/", None),
        ("https://[::1]:5000/v2/", None),
        ("https://corp.example/v2/", None),
        ("https://a.corp.example/v2/", None),
        ("https://notcorp.example/v2/", "http://secure:3128"),
        ("https://x.only-sub.example/v2/", None),
        ("https://only-sub.example/v2/", "http://secure:3128"),
        ("https://10.1.2.3/v2/", None),
        ("https://11.1.2.3/v2/", "http://secure:3128"),
        ("https://192.0.2.7/v2/", None),
        ("https://ported.example:5000/v2/", None),
        ("https://ported.example/v2/", "http://secure:3128"),
        ("https://[fd00::1]/v2/", None),
    ],
)
def test_a_proxy_is_chosen_by_scheme_and_no_proxy(url: str, expected: str | None) -> None:
    """NO_PROXY knows domains, subdomains, addresses, networks and ports; loopback never goes by a proxy."""
    settings = ProxySettings.parse(
        "secure:3128",
        "http://plain",
        "Corp.example, .only-sub.example,10.0.0.0/8,192.0.2.7,ported.example:5000,fd00::/8,not/a/net",
    )

    proxy = settings.proxy_for(urlsplit(url))

    assert expected == (proxy and proxy.url)


def test_a_star_exempts_everything() -> None:
    """NO_PROXY=* switches the proxies off."""
    settings = ProxySettings.parse("http://secure:3128", no_proxy="*")

    assert settings.proxy_for(urlsplit("https://registry.example.com")) is None


def test_the_password_of_a_proxy_is_in_no_repr() -> None:
    """The userinfo of the URL is decoded and kept out of what is shown."""
    settings = ProxySettings.parse("http://user:p%40ss@secure:3128")

    assert Proxy("http://secure:3128", "user:p@ss") == settings.https
    assert "p@ss" not in repr(settings)


@pytest.mark.parametrize("value", ["socks5://user:hunter2@host:1", "http://user:hunter2@host:port", "http://"])
def test_an_unusable_proxy_is_named_by_its_variable(value: str) -> None:
    """The message says which variable is wrong, and not what is in it."""
    with pytest.raises(InvalidRequest, match="HTTPS_PROXY") as caught:
        ProxySettings.parse(value)

    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
