"""Which files make a context for TLS, and which refusals name them."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from gearhorn.config import Config
from gearhorn.errors import StartError
from gearhorn.gearman.tls import tls_context


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """An authority, a certificate of its own with its key, the key encrypted, and nonsense."""
    authority = trustme.CA()
    issued = authority.issue_cert("worker.example")
    found = {name: tmp_path / name for name in ("ca", "cert", "key", "nonsense")}
    authority.cert_pem.write_to_path(str(found["ca"]))
    issued.cert_chain_pems[0].write_to_path(str(found["cert"]))
    issued.private_key_pem.write_to_path(str(found["key"]))
    found["nonsense"].write_text("no certificate")
    return found


def test_without_an_authority_there_is_no_tls() -> None:
    assert tls_context(Config()) is None


def test_servers_and_their_names_are_verified(files: dict[str, Path]) -> None:
    config = Config(ssl_ca=files["ca"], ssl_cert=files["cert"], ssl_key=files["key"])
    context = tls_context(config)
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"ssl_cert": "cert"}, "--ssl-cert and --ssl-key need --ssl-ca"),
        ({"ssl_key": "key"}, "--ssl-cert and --ssl-key need --ssl-ca"),
        ({"ssl_ca": "ca", "ssl_key": "key"}, "--ssl-key needs --ssl-cert"),
        ({"ssl_ca": "nonsense"}, "--ssl-ca .*nonsense: "),
        ({"ssl_ca": "gone"}, "--ssl-ca .*gone: "),
        ({"ssl_ca": "ca", "ssl_cert": "nonsense", "ssl_key": "key"}, "--ssl-cert .*nonsense: "),
        ({"ssl_ca": "ca", "ssl_cert": "cert", "ssl_key": "nonsense"}, "--ssl-cert .*cert: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    files: dict[str, Path], given: dict[str, str], text: str
) -> None:
    paths = {key: files.get(name, files["ca"].parent / name) for key, name in given.items()}
    with pytest.raises(StartError, match=text):
        tls_context(replace(Config(), **paths))  # type: ignore[arg-type]
