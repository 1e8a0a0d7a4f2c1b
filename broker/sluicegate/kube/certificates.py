# SPDX-License-Identifier: Apache-2.0
"""A certificate authority of our own and what it issues. Pure: `now` is an argument.

Theory of operation. A `Keyring` holds the authority, the certificate that is served, and a bundle of every authority
that a peer may still meet. An authority lives ten years, a certificate 90 days; either is renewed when two thirds of
its life are over. A new authority joins the bundle together with the old one, which leaves when it has expired, so
that a peer which trusts a former bundle still trusts what is served today, and the other way round: the new authority
issues nothing until it has been in the bundle for `OVERLAP`. That is long, since a pod keeps the bundle with which it
was injected for as long as it lives.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = dt.timedelta(days=3_650)
LIFE = dt.timedelta(days=90)
OVERLAP = dt.timedelta(days=365)
_SKEW = dt.timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, PEM."""

    certificate: bytes
    key: bytes

    @property
    def begins(self) -> dt.datetime:
        return x509.load_pem_x509_certificate(self.certificate).not_valid_before_utc

    @property
    def ends(self) -> dt.datetime:
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


@dataclass(frozen=True, slots=True)
class Keyring:
    """`bundle`: PEM of all authorities to trust. `next_authority` waits in the bundle until it may issue."""

    authority: Pair
    served: Pair
    bundle: bytes
    next_authority: Pair | None = None

    def __repr__(self) -> str:
        return f"<Keyring until {self.served.ends:%Y-%m-%d}>"


def renew(held: Keyring | None, name: str, hosts: Sequence[str], now: dt.datetime) -> Keyring:
    """The keyring to use at `now`, for a server at `hosts`; `held` itself when nothing is due."""
    if held is None:
        authority = make_authority(name, now)
        return Keyring(authority, issue(authority, name, hosts, now), authority.certificate)
    ring = held
    if ring.next_authority is not None and now >= ring.next_authority.begins + _SKEW + OVERLAP:
        served = issue(ring.next_authority, name, hosts, now)
        ring = Keyring(ring.next_authority, served, ring.bundle)
    elif ring.next_authority is None and _due(ring.authority, now):
        following = make_authority(name, now)
        ring = replace(ring, next_authority=following, bundle=ring.bundle + following.certificate)
    if _due(ring.served, now) or not set(hosts) <= hosts_of(ring.served):
        ring = replace(ring, served=issue(ring.authority, name, hosts, now))
    bundle = _living(ring.bundle, now)
    return ring if bundle == ring.bundle else replace(ring, bundle=bundle)


def make_authority(name: str, now: dt.datetime) -> Pair:
    """A self-signed authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {now:%Y-%m-%d}")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pair(certificate, key)


def issue(authority: Pair, name: str, hosts: Sequence[str], now: dt.datetime) -> Pair:
    """A certificate for a server at `hosts`, signed by `authority`; it ends no later than that."""
    signer = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    parent = x509.load_pem_x509_certificate(authority.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    life = min(LIFE, authority.ends - now)
    certificate = (
        _builder(subject, parent.subject, key.public_key(), now, life)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _pair(certificate, key)


def hosts_of(pair: Pair) -> set[str]:
    """The DNS names and addresses that the certificate is for."""
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName)) | {
        str(address) for address in names.get_values_for_type(x509.IPAddress)
    }


def _due(pair: Pair, now: dt.datetime) -> bool:
    return now >= pair.begins + (pair.ends - pair.begins) * 2 / 3


def _living(bundle: bytes, now: dt.datetime) -> bytes:
    """`bundle` without what has expired; unchanged when all of it has, since nothing would be left to trust."""
    certificates = x509.load_pem_x509_certificates(bundle)
    living = [certificate for certificate in certificates if certificate.not_valid_after_utc > now]
    if len(living) == len(certificates) or not living:
        return bundle
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in living)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, life: dt.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
