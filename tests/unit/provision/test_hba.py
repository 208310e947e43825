# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may connect: what is written for each rule, and which rules are refused."""

from __future__ import annotations

import re

import pytest

from ansible_collections.holdfast.postgres.plugins.plugin_utils._hba import hba_lines, ident_line
from tests.support.postgres_role import plan

APP = {"databases": ["rently_lending"], "users": ["rently_app"], "sources": ["10.20.2.0/24"]}
FIRST = ["local all postgres peer", "local replication postgres peer"]
LAST = [
    "local all all reject",
    "local replication all reject",
    "host all all all reject",
    "host replication all all reject",
]


def rule(**changes):
    """The line for one usual rule with changes; None takes a key out."""
    lines = hba_lines([{key: value for key, value in {**APP, **changes}.items() if value is not None}])
    assert lines[: len(FIRST)] == FIRST
    assert lines[-len(LAST) :] == LAST
    return lines[len(FIRST) : -len(LAST)]


def test_without_rules_the_administrator_of_the_host_gets_in_and_nobody_else():
    assert hba_lines([]) == FIRST + LAST


def test_rules_keep_their_order_and_the_refusal_of_everybody_else_is_last():
    lines = hba_lines([APP, {**APP, "users": ["late"], "method": "reject"}])
    assert lines == [
        *FIRST,
        'hostssl "rently_lending" "rently_app" 10.20.2.0/24 scram-sha-256',
        'hostssl "rently_lending" "late" 10.20.2.0/24 reject',
        *LAST,
    ]


def test_a_line_for_each_source():
    assert rule(sources=["10.0.0.0/8", "fd00::/8", "samehost", "samenet", ".internal", "db_1.internal"]) == [
        'hostssl "rently_lending" "rently_app" %s scram-sha-256' % source
        for source in ("10.0.0.0/8", "fd00::/8", "samehost", "samenet", ".internal", "db_1.internal")
    ]


def test_certificates_and_maps():
    assert rule(method="cert", map="poolers") == [
        'hostssl "rently_lending" "rently_app" 10.20.2.0/24 cert map="poolers"'
    ]
    assert rule(client_certificate="verify-full") == [
        'hostssl "rently_lending" "rently_app" 10.20.2.0/24 scram-sha-256 clientcert=verify-full'
    ]
    assert rule(type="local", sources=None, map="ops") == ['local "rently_lending" "rently_app" peer map="ops"']


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("plain", '"plain"'),
        ("with space", '"with space"'),
        ("a,b", '"a,b"'),
        ('say "hi"', '"say ""hi"""'),
        ("#comment", '"#comment"'),
        ("@file", '"@file"'),
        ("All", '"All"'),
        ("all of it", '"all of it"'),
        ("ж'%=\\", '"ж\'%=\\"'),
    ],
)
def test_names_are_taken_literally(name, written):
    assert rule(databases=[name], users=[name])[0].startswith("hostssl %s %s 10" % (written, written))


def test_words_of_postgresql_keep_their_meaning_and_lose_it_in_quotes():
    words = ["all", "sameuser", "samerole", "replication"]
    assert rule(databases=words, users=["all", "+staff", "+a b"]) == [
        'hostssl all,sameuser,samerole,replication all,+"staff",+"a b" 10.20.2.0/24 scram-sha-256'
    ]
    assert rule(databases=['"%s"' % word for word in words], users=['"all"', '"+staff"']) == [
        'hostssl "all","sameuser","samerole","replication" "all","+staff" 10.20.2.0/24 scram-sha-256'
    ]
    # A role has no such words beside all, and a database no members.
    assert rule(databases=["+staff"], users=["sameuser"]) == ['hostssl "+staff" "sameuser" 10.20.2.0/24 scram-sha-256']


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "trust"}, "method trust is refused; there are scram-sha-256, cert, peer, reject"),
        ({"method": "md5"}, "method md5 is refused"),
        ({"method": "password"}, "method password is refused"),
        ({"type": "hostnossl"}, "type hostnossl; there are hostssl, host, local"),
        ({"method": "peer"}, "peer knows local connections only"),
        ({"type": "local", "sources": None, "method": "scram-sha-256"}, "local connections know peer and reject only"),
        ({"type": "host", "method": "cert"}, "client certificates need type hostssl"),
        ({"type": "host", "client_certificate": "verify-ca"}, "client certificates need type hostssl"),
        ({"client_certificate": "1"}, "client_certificate 1; there are none, verify-ca, verify-full"),
        ({"type": "local"}, "a local rule has no sources"),
        ({"sources": None}, "it names no sources, such as 10.0.0.0/8"),
        ({"users": []}, "it names no databases or no users"),
        ({"user": ["x"]}, "unknown key user; there are client_certificate, databases"),
        ({"users": "rently_app"}, "users: 'rently_app' is no list; write [rently_app]"),
        ({"sources": "10.0.0.0/8"}, "sources: '10.0.0.0/8' is no list; write [10.0.0.0/8]"),
        ({"sources": ["10.0.0.1"]}, "10.0.0.1 lacks its mask, such as 10.0.0.1/32"),
        ({"sources": ["fd00::1"]}, "fd00::1 lacks its mask, such as fd00::1/128"),
        ({"sources": ["10.0.0.0/33"]}, "'10.0.0.0/33' is no subnet"),
        ({"sources": ["10.0.0/8"]}, "'10.0.0/8' is no subnet"),
        ({"sources": ["300.0.0.0/8"]}, "'300.0.0.0/8' is no subnet"),
        ({"sources": ["db.internal/24"]}, "'db.internal/24' is no subnet"),
        ({"sources": ["10.0.0.0 255.0.0.0"]}, "is no subnet, address or host name"),
        ({"sources": ["x trust\nhost all all all"]}, "is no subnet, address or host name"),
        ({"sources": ["!db"]}, "'!db' is no subnet, address or host name"),
        ({"databases": ["a\nb"]}, "cannot be written into pg_hba.conf"),
        # A name that begins with a slash is a regular expression from PostgreSQL 16 on, in quotes, too.
        ({"databases": ["/.*"]}, "'/.*' cannot be written into pg_hba.conf"),
        ({"users": ["+"]}, "cannot be written into pg_hba.conf"),
        ({"users": [""]}, "cannot be written into pg_hba.conf"),
    ],
)
def test_rule_that_is_not_strict_or_reads_differently_is_refused_with_its_number(changes, words):
    with pytest.raises(ValueError, match="^postgres_access, rule 2.*" + re.escape(words)):
        hba_lines([APP, {key: value for key, value in {**APP, **changes}.items() if value is not None}])


def test_standbys_come_after_the_administrator_and_do_not_shift_the_numbers_of_rules():
    (cluster,) = plan(replication_sources=["10.20.1.0/24"], access=[APP])
    assert cluster["hba"][2:4] == [
        'hostssl replication "holdfast_replication" 10.20.1.0/24 scram-sha-256',
        'hostssl "rently_lending" "rently_app" 10.20.2.0/24 scram-sha-256',
    ]
    with pytest.raises(ValueError, match=r"^postgres_access, rule 1: method trust"):
        plan(replication_sources=["10.20.1.0/24"], access=[{**APP, "method": "trust"}])
    with pytest.raises(ValueError, match=r"^postgres_replication_sources: 10\.20\.1\.7 lacks its mask"):
        plan(replication_sources=["10.20.1.7"])


# Maps


def test_map_is_written_with_quoted_names():
    assert ident_line({"map": "ops", "system_user": "deployer", "role": "all"}) == '"ops" "deployer" "all"'


@pytest.mark.parametrize(
    "entry",
    [{"map": "ops", "system_user": "x"}, {"map": "o", "system_user": "x", "role": "y", "user": "z"}],
)
def test_map_that_lacks_a_part_or_has_another_is_refused(entry):
    with pytest.raises(ValueError, match="has not exactly map, system_user, role"):
        ident_line(entry)


def test_rule_with_a_map_that_is_not_there_is_refused():
    local = {"type": "local", "databases": ["all"], "users": ["ops"], "map": "ops"}
    with pytest.raises(ValueError, match="access: map ops is not in postgres_ident"):
        plan(access=[local])
    (cluster,) = plan(access=[local], ident=[{"map": "ops", "system_user": "deployer", "role": "ops"}])
    assert cluster["ident"] == ['"ops" "deployer" "ops"']
