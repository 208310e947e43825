# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SCRAM secrets as the RFCs and PostgreSQL define them, the same in every run."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest

from ansible_collections.holdfast.postgres.plugins.plugin_utils._scram import scram_secret, secret_with

PINNED = (
    "SCRAM-SHA-256$4096:y+oB/CMxNc5mhnI0TKSubA=="
    "$e7zlDU/uFtmVpMyvQdNl1Cu46HnurQNxl6P0iQrzto0=:7rv9Wb0d2Vuvm+6FYsm8GcgGs8grAq4KmKm2T2R2phI="
)


def parts(secret):
    """Iterations, salt, stored key and server key of a secret."""
    iterations, salt, stored, server = re.fullmatch(r"SCRAM-SHA-256\$(\d+):(.+)\$(.+):(.+)", secret).groups()
    return int(iterations), *(base64.b64decode(text, validate=True) for text in (salt, stored, server))


def test_secret_proves_the_exchange_of_rfc_7677():
    """Section 3: user, pencil; the server's salt, and what client and server then show each other."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    _iterations, _salt, stored, server = parts(secret_with("pencil", salt, 4096))
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = (
        "n=user,r=rOprNGfwEbeRWgbNEkqO,r=%s,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=%s" % (nonce, nonce)
    ).encode()
    assert base64.b64encode(hmac.digest(server, message, "sha256")) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.digest(stored, message, "sha256")
    client_key = bytes(one ^ other for one, other in zip(proof, signature))
    assert hashlib.sha256(client_key).digest() == stored


def test_secret_has_the_form_that_postgresql_stores():
    iterations, salt, stored, server = parts(scram_secret("pencil", "rently_app"))
    assert (iterations, len(salt), len(stored), len(server)) == (4096, 16, 32, 32)


def test_every_run_arrives_at_the_same_secret():
    assert scram_secret("pencil", "rently_app") == scram_secret("pencil", "rently_app")
    # Pinned: another salt would change every password of every host at once.
    assert scram_secret("pencil", "rently_app") == PINNED


def test_same_password_of_two_roles_cannot_be_seen():
    assert scram_secret("pencil", "one") != scram_secret("pencil", "two")
    assert parts(scram_secret("pencil", "one"))[1] != parts(scram_secret("pencil", "two"))[1]


def test_secret_is_returned_as_it_is():
    secret = scram_secret("pencil", "rently_app")
    assert scram_secret(secret, "another") == secret


@pytest.mark.parametrize("text", ["SCRAM-SHA-256$4096:salt", "SCRAM-SHA-256$x:YQ==$YQ==:YQ==", "md5" + 32 * "0"])
def test_what_only_resembles_a_secret_is_a_password(text):
    assert scram_secret(text, "rently_app") != text


def test_empty_password_is_refused_without_a_word_of_others():
    with pytest.raises(ValueError, match=r"^role rently_app has an empty password; PostgreSQL would refuse"):
        scram_secret("", "rently_app")


@pytest.mark.parametrize(
    ("password", "same_as"),
    [
        # RFC 4013, section 3, and what PostgreSQL's saslprep.c does with the rest.
        ("I\u00adX", "IX"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("e\u0301", "\u00e9"),
    ],
)
def test_passwords_that_look_alike_are_one(password, same_as):
    assert secret_with(password, b"salt") == secret_with(same_as, b"salt")


@pytest.mark.parametrize(
    ("password", "unlike"),
    [
        ("user", "USER"),
        # Prohibited characters: taken as they are.
        ("\u00aa\u0007", "a\u0007"),
        ("\u0627\u00aa1", "\u0627a1"),
        # Nothing would be left.
        ("\u00ad", ""),
        # In ASCII nothing is changed.
        ("a  b", "a b"),
    ],
)
def test_passwords_that_postgresql_keeps_apart_are_two(password, unlike):
    assert secret_with(password, b"salt") != secret_with(unlike, b"salt")
