"""TLS to the job servers: what the ``--ssl-...`` options come to.

Debian's gearmand speaks no TLS, so a proxy stands in front of it (docs/operations.rst). Each
connection verifies the certificate against the name of the server as it was configured.

Rules: files are read once, at the start. What cannot be used ends the start with the file's name
and the reason; it never becomes a connection without TLS, or one that verifies less.
"""

from __future__ import annotations

import ssl

from gearhorn.config import Config
from gearhorn.errors import StartError


def _no_pass_phrase() -> str:
    """Refuse what OpenSSL would otherwise ask for on a daemon's terminal, and wait there.

    The ``ValueError`` comes out of ``load_cert_chain``, as its documentation promises.
    """
    raise ValueError("the key is encrypted, and its pass phrase cannot be asked for")


def tls_context(config: Config) -> ssl.SSLContext | None:
    """Return what verifies the job servers, host name included; None without ``--ssl-ca``.

    The key may be in the file of the certificate, so ``--ssl-key`` may be missing. All connections
    to all servers share what is returned.

    Raises ``StartError`` naming the file that cannot be used, or the option that is missing.
    """
    if config.ssl_ca is None:
        if config.ssl_cert or config.ssl_key:
            raise StartError("--ssl-cert and --ssl-key need --ssl-ca")
        return None
    try:
        context = ssl.create_default_context(cafile=str(config.ssl_ca))
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"--ssl-ca {config.ssl_ca}: {error}") from None
    if config.ssl_cert:
        try:
            context.load_cert_chain(config.ssl_cert, config.ssl_key, password=_no_pass_phrase)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise StartError(f"--ssl-cert {config.ssl_cert}: {error}") from None
    elif config.ssl_key:
        raise StartError("--ssl-key needs --ssl-cert")
    return context
