"""TLS on equal terms: one certificate (ECDSA, P-256), and clients that offer one cipher suite and one key exchange, so
that every contender has to take those.

The certificate and its key are in the repository: they are worth nothing, and so all runs have the same.
"""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
from functools import cache

from machine import ROOT, WORK, CannotBeHad

CERTIFICATE = ROOT / "bench" / "certificate.pem"
KEY = ROOT / "bench" / "certificate.key"

SUITE, GROUP = "TLS_AES_128_GCM_SHA256", "X25519"
SUITE_NUMBER, GROUP_NUMBER, TLS13 = 0x1301, 0x001D, 0x0304

# Whatever uses OpenSSL reads it, if the environment says so: wrk has no options for this.
SETTINGS = f"""
openssl_conf = all
[all]
ssl_conf = each
[each]
system_default = default
[default]
MinProtocol = TLSv1.3
Ciphersuites = {SUITE}
Groups = {GROUP}
"""


@cache
def environment() -> dict[str, str]:
    """In which a program that uses OpenSSL offers no more than it should."""
    path = WORK / "openssl.cnf"
    path.write_text(SETTINGS)
    return {"OPENSSL_CONF": str(path)}


@cache
def context() -> ssl.SSLContext:
    """For a client that looks at the certificate by itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


@cache
def certificate() -> bytes:
    """As it is sent in a handshake."""
    return ssl.PEM_cert_to_DER_cert(CERTIFICATE.read_text())


def look_at(command: list[str], environment: dict[str, str]) -> None:
    """Makes sure that a load generator, whose address is to follow its command, offers what it should."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        program = subprocess.Popen([*command, url], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            hello = b""
            # wrk begins with a connection that it does not use.
            while not hello:
                with listener.accept()[0] as connection:
                    connection.settimeout(10)
                    head = connection.recv(5, socket.MSG_WAITALL)
                    if len(head) == 5:
                        hello = connection.recv(int.from_bytes(head[3:], "big"), socket.MSG_WAITALL)
        except OSError as error:
            raise CannotBeHad(f"equal terms of TLS cannot be had: {command[0]} begins no handshake: {error}") from error
        finally:
            program.kill()
            program.wait()
    suites, groups, versions = _offered(hello)
    suites = [number for number in suites if number >> 8 == 0x13]
    if (suites, groups) != ([SUITE_NUMBER], [GROUP_NUMBER]) or TLS13 not in versions:
        raise CannotBeHad(f"equal terms of TLS cannot be had: {command[0]} offers suites {suites}, groups {groups}")


def _offered(hello: bytes) -> tuple[list[int], list[int], list[int]]:
    """Cipher suites, groups and versions of a ClientHello (RFC 8446 §4.1.2)."""

    def numbers(data: bytes) -> list[int]:
        return [number for number, in struct.iter_unpack(">H", data)]

    # Kind and length of the message, version, random; then the session.
    at = 4 + 2 + 32
    at += 1 + hello[at]
    (length,) = struct.unpack_from(">H", hello, at)
    suites = numbers(hello[at + 2 : at + 2 + length])
    at += 2 + length
    at += 1 + hello[at] + 2
    found = {}
    while at < len(hello):
        kind, length = struct.unpack_from(">HH", hello, at)
        found[kind] = hello[at + 4 : at + 4 + length]
        at += 4 + length
    return suites, numbers(found.get(10, b"")[2:]), numbers(found.get(43, b"")[1:])
