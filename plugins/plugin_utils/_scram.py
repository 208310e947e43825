# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SCRAM secrets as PostgreSQL stores them, so that a password itself never reaches a server, its log or a disk."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import stringprep
import unicodedata

ITERATIONS = 4096
_SECRET = re.compile(r"SCRAM-SHA-256\$[0-9]+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+\Z")


def scram_secret(password: str, role: str) -> str:
    """Return what ``pg_authid.rolpassword`` holds for the password of a role.

    The salt is derived from role and password, as slowly as the secret itself, so that a second run, check mode and the
    userlist of a pooler all arrive at the same secret. A password that is a SCRAM secret already is returned as it is.
    """
    password, role = str(password), str(role)
    if _SECRET.match(password):
        return password
    if not password:
        raise ValueError("role %s has an empty password; PostgreSQL would refuse every login with it" % role)
    secret = _prepared(password).encode("utf-8")
    salt = hashlib.pbkdf2_hmac("sha256", secret, b"holdfast role " + role.encode("utf-8"), ITERATIONS)[:16]
    return secret_with(password, salt)


def secret_with(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """Return the secret of a password with a given salt (RFC 5802, section 3)."""
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password).encode("utf-8"), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return "SCRAM-SHA-256$%d:%s$%s:%s" % (iterations, _base64(salt), _base64(stored_key), _base64(server_key))


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _prepared(password: str) -> str:
    """Normalise as SASLprep does (RFC 4013); what it prohibits stays as it is, like in PostgreSQL's saslprep.c."""
    if password.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in password if not stringprep.in_table_b1(char)
    )
    normal = unicodedata.normalize("NFKC", mapped)
    prohibited = (
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
        stringprep.in_table_a1,
    )
    if not normal or any(test(char) for char in normal for test in prohibited):
        return password
    if any(map(stringprep.in_table_d1, normal)) and (
        any(map(stringprep.in_table_d2, normal))
        or not (stringprep.in_table_d1(normal[0]) and stringprep.in_table_d1(normal[-1]))
    ):
        return password
    return normal
