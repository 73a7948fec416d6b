"""What a store's URL means. What is refused, and that no text shows it: test_cli.py."""

from __future__ import annotations

import ssl

import pytest

from gearhorn.store.url import Address, parse_url

MEANINGS = {
    "redis://": Address(),
    "redis://a": Address("a"),
    "redis://a:1": Address("a", 1),
    "redis://a/5": Address("a", database=5),
    "redis://a/": Address("a"),
    "redis://a?db=5": Address("a", database=5),
    "redis://a/3?db=5": Address("a", database=5),
    "redis://[::1]:7/2": Address("::1", 7, database=2),
    "redis://:secret@a": Address("a", password="secret"),
    "redis://me:se%2Fc%23r%40et@a/1": Address("a", database=1, username="me", password="se/c#r@et"),
    "redis://me@a": Address("a", username="me"),
    "redis://a?username=me&password=se%26cret": Address("a", username="me", password="se&cret"),
    "redis://a?protocol=2": Address("a"),
    "redis://a?protocol=3&client_name=x": Address("a", client_name="x"),
    "redis://a?socket_timeout=1.5&max_connections=3&retry_on_timeout=yes": Address("a"),
    "unix:///run/redis.sock": Address("", path="/run/redis.sock"),
    "unix://me:secret@/run/redis%20x?db=3": Address(
        "", path="/run/redis x", database=3, username="me", password="secret"
    ),
}


@pytest.mark.parametrize("url", MEANINGS)
def test_a_url_says_where_the_store_is_and_as_whom_it_is_asked(url: str) -> None:
    assert parse_url(url) == MEANINGS[url]


def test_rediss_verifies_the_certificate_and_the_host_unless_told_otherwise() -> None:
    tls = parse_url("rediss://a:1").tls
    assert tls is not None
    assert tls.check_hostname
    assert tls.verify_mode is ssl.CERT_REQUIRED
    tls = parse_url("rediss://a?ssl_check_hostname=false").tls
    assert tls is not None
    assert (tls.check_hostname, tls.verify_mode) == (False, ssl.CERT_REQUIRED)
    tls = parse_url("rediss://a?ssl_cert_reqs=none").tls
    assert tls is not None
    assert (tls.check_hostname, tls.verify_mode) == (False, ssl.CERT_NONE)


@pytest.mark.parametrize(
    "url",
    [
        "redis://a/zero",
        "redis://a/-1",
        "redis://a/1/2",
        "redis://a/٣",
        "redis://a?db=x",
        "redis://a:0x1",
        "redis:a",
        "redis:/a",
        "unix://",
        "unix:///",
        "unix:///path?db=one",
        "redis://a?socket_timeout=soon",
        "redis://a?retry_on_timeout=maybe",
        "redis://a?protocol=4",
        "rediss://a?ssl_cert_reqs=some",
    ],
)
def test_what_is_no_url_of_a_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_url(url)


def test_the_password_is_not_in_what_an_address_prints() -> None:
    assert "secret" not in repr(parse_url("redis://me:secret@a"))
