# SPDX-License-Identifier: Apache-2.0
"""Certificates over the years: who trusts the bundle of yesterday trusts what is served today, and vice versa."""

from __future__ import annotations

import datetime as dt
from collections import deque

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from sluicegate.kube.certificates import AUTHORITY_LIFE, LIFE, OVERLAP, Keyring, hosts_of, renew

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOSTS = ("broker.sluicegate-system.svc", "127.0.0.1")


def trusted(bundle: bytes, ring: Keyring, at: dt.datetime) -> bool:
    store = Store(x509.load_pem_x509_certificates(bundle))
    verifier = PolicyBuilder().store(store).time(at).build_server_verifier(x509.DNSName(HOSTS[0]))
    try:
        verifier.verify(x509.load_pem_x509_certificate(ring.served.certificate), [])
    except VerificationError:
        return False
    return True


def test_nothing_is_made_again_before_two_thirds_of_its_life():
    ring = renew(None, "broker", HOSTS, START)
    assert hosts_of(ring.served) == set(HOSTS)
    assert renew(ring, "broker", HOSTS, START + LIFE * 0.6) is ring
    later = renew(ring, "broker", HOSTS, START + LIFE * 0.7)
    assert later.served != ring.served
    assert later.authority == ring.authority
    assert trusted(ring.bundle, later, START + LIFE)


def test_another_host_gets_a_certificate_at_once():
    ring = renew(None, "broker", HOSTS, START)
    wider = renew(ring, "broker", (*HOSTS, "broker"), START)
    assert hosts_of(wider.served) == {*HOSTS, "broker"}
    assert wider.authority == ring.authority


def test_fifteen_years_of_daily_checks_break_no_trust():
    now, ring, authorities = START, renew(None, "broker", HOSTS, START), set[bytes]()
    yesterday = ring
    injected = deque([ring.bundle], maxlen=OVERLAP.days)  # what the pods of the last year were given
    while now < START + AUTHORITY_LIFE * 1.5:
        now += dt.timedelta(days=1)
        ring = renew(ring, "broker", HOSTS, now)
        injected.append(ring.bundle)
        authorities.add(ring.authority.certificate)
        if ring is not yesterday:
            assert trusted(injected[0], ring, now), "a pod that runs for a year"
            assert trusted(ring.bundle, ring, now)
            assert trusted(yesterday.bundle, ring, now), "a peer with the bundle of the check before"
            assert trusted(ring.bundle, yesterday, now), "a server that has not taken the new certificate yet"
            assert len(x509.load_pem_x509_certificates(ring.bundle)) <= 2
        yesterday = ring
    assert len(authorities) == 3


def test_a_keyring_shows_no_key():
    assert "PRIVATE" not in repr(renew(None, "broker", HOSTS, START))
