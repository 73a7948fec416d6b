"""What a store's URL means and what is refused. That no output shows any of it: test_cli.py."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from support.tls import Authority

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
        "http://a",
        "a:6379",
    ],
)
def test_what_is_no_url_of_a_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://a/0#b", "in a password it is written %23"),
        ("unix://host/path", "expected unix:///PATH, with no host"),
        ("redis://a?databse=1", "expected options of client_name, db"),
        ("redis://a?db=x", "db: expected a whole number"),
        ("redis://a..b", "expected a host name"),
        (f"redis://{'a' * 64}", "expected a host name"),
        ("redis://a b", "expected a host name"),
        ("redis://a:65536", "a port from 1 to 65535"),
    ],
)
def test_a_refusal_says_what_is_expected(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_url(url)


def test_certificates_are_read_from_the_files_that_the_url_names(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("me")
    files = f"ssl_ca_certs={authority.file}&ssl_certfile={certificate}&ssl_keyfile={key}"
    tls = parse_url(f"rediss://a?{files}").tls
    assert tls is not None
    names = {name for entry in tls.get_ca_certs() for name in entry["subject"]}
    own = ssl.create_default_context(cafile=authority.file).get_ca_certs()
    assert names == {name for entry in own for name in entry["subject"]}


def test_without_tls_no_file_is_read() -> None:
    assert parse_url("redis://a?ssl_ca_certs=/nowhere").tls is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("ssl_ca_certs={folder}/nowhere", "ssl_ca_certs: .*No such file"),
        ("ssl_ca_certs={folder}/text", "ssl_ca_certs: .*PEM"),
        ("ssl_certfile={certificate}", "ssl_certfile: .*PEM"),
        (
            "ssl_certfile={certificate}&ssl_keyfile={folder}/locked",
            "ssl_certfile, ssl_keyfile: .*not readable",
        ),
    ],
    ids=["missing", "of another kind", "without its key", "encrypted"],
)
def test_a_file_that_is_no_certificate_is_refused_by_the_names_of_options(
    tmp_path: Path, options: str, text: str
) -> None:
    certificate, key = Authority(tmp_path).issue("me")
    (tmp_path / "text").write_text("no certificate")
    encrypted = serialization.load_pem_private_key(Path(key).read_bytes(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"pass phrase"),
    )
    (tmp_path / "locked").write_bytes(encrypted)
    with pytest.raises(ValueError, match=text) as raised:
        parse_url("rediss://a?" + options.format(folder=tmp_path, certificate=certificate))
    assert str(tmp_path) not in str(raised.value)


def test_the_password_is_not_in_what_an_address_prints() -> None:
    assert "secret" not in repr(parse_url("redis://me:secret@a"))
