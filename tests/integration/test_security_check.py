# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database that is guarded as declared, and each rule broken on its own."""

from __future__ import annotations

import copy
import dataclasses
import uuid

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.security import check_security
from tests.support.junit import read_junit
from tests.support.modules import run_module

CRM = """
REVOKE ALL ON DATABASE "{database}" FROM PUBLIC;
CREATE SCHEMA crm;
CREATE TABLE crm.contact (id int PRIMARY KEY, owner text NOT NULL, note text);
CREATE TABLE crm."Deal of %s" (id int PRIMARY KEY, owner text NOT NULL);
CREATE TABLE crm.country (code text PRIMARY KEY);
ALTER TABLE crm.contact ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE crm."Deal of %s" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON crm.contact FOR SELECT TO "{role}" USING (owner = current_user);
CREATE POLICY "no blanks" ON crm.contact AS RESTRICTIVE FOR INSERT WITH CHECK (btrim(note) <> '  ');
CREATE POLICY own ON crm."Deal of %s" USING (owner = current_user OR owner IS NULL) WITH CHECK (owner = current_user);
GRANT SELECT ON crm.country TO PUBLIC;
CREATE FUNCTION crm.touch(int, text) RETURNS int LANGUAGE sql SECURITY DEFINER
    SET search_path = crm, pg_temp AS 'SELECT 1';
REVOKE ALL ON FUNCTION crm.touch(int, text) FROM PUBLIC;
CREATE FUNCTION crm.pure(int) RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = '' AS 'SELECT 1';
"""


def declared(database, role):
    return {
        "row_level_security": {"schemas": ["crm"], "exempt": ["crm.country"]},
        "policies": [
            {
                "table": "crm.contact",
                "name": "own",
                "command": "select",
                "roles": [role],
                "using": "owner =   CURRENT_USER",
            },
            {
                "table": "crm.contact",
                "name": "no blanks",
                "command": "insert",
                "permissive": False,
                "with_check": "(btrim(note) <> '  '::text)",
            },
            {
                "table": 'crm."Deal of %s"',
                "name": "own",
                "using": "(owner = CURRENT_USER) OR (owner IS NULL)",
                "with_check": "(owner = CURRENT_USER)",
            },
        ],
        "roles": {"superuser": ["postgres"], "bypassrls": [], "createrole": []},
        "public_grants": {
            "databases": [],
            "schemas": ["USAGE public"],
            "tables": ["SELECT crm.country"],
            "functions": ["EXECUTE crm.pure(integer)"],
        },
        "security_definer": {},
        "password_hashes": {},
        "tls": {},
        "extensions": ["plpgsql"],
    }


class Crm:
    """The database with its declaration, and the way to check it."""

    def __init__(self, pg, database, role):
        self.pg, self.database, self.role = pg, database, role
        self.expectations = declared(database, role)

    def execute(self, statement):
        self.pg.execute(statement, database=self.database)

    def check(self, expectations=None, **options):
        options.setdefault("fail_on", "never")
        options.setdefault("server", self.pg.server)
        return check_security(database=self.database, expectations=expectations or self.expectations, **options)

    def broken(self, expectations=None, **options):
        """The rules that are violated, with their violations."""
        results = self.check(expectations, **options)["results"]
        return {
            result["name"]: ["%(object)s %(problem)s" % row for row in result["sample"]]
            for result in results
            if result["status"] == "failed"
        }


@pytest.fixture
def crm(pg18, database):
    role = "app_" + uuid.uuid4().hex[:8]
    pg18.execute("CREATE ROLE \"%s\" LOGIN PASSWORD 'app'" % role)
    pg18.execute(CRM.replace("{database}", database).replace("{role}", role), database=database)
    pg18.execute('GRANT CONNECT ON DATABASE "%s" TO "%s"' % (database, role))
    yield Crm(pg18, database, role)
    pg18.execute('DROP OWNED BY "%s"' % role, database=database)
    pg18.execute('DROP ROLE "%s"' % role)


def test_what_is_as_declared_holds(crm, tmp_path):
    answer = crm.check(junit=str(tmp_path / "junit.xml"), fail_on="error")
    assert crm.broken() == {}
    assert (answer["passed_checks"], answer["failed_checks"], answer["changed"]) == (13, 0, False)
    root = read_junit(tmp_path / "junit.xml")
    assert [(suite.get("name"), suite.get("tests"), suite.get("failures")) for suite in root] == [
        ("security", "13", "0")
    ]


ROLE_LEVEL = "row-level security is forced"
POLICIES = "policies are as declared"
DEFINER = "functions of security definer have a safe search_path"


@pytest.mark.parametrize(
    ("statement", "rule", "violations"),
    [
        (
            "ALTER TABLE crm.contact NO FORCE ROW LEVEL SECURITY",
            ROLE_LEVEL,
            ["crm.contact row-level security is not forced, so its owner sees every row"],
        ),
        ("CREATE TABLE crm.forgotten (id int)", ROLE_LEVEL, ["crm.forgotten row-level security is not enabled"]),
        ("DROP POLICY own ON crm.contact", POLICIES, ["policy own on crm.contact is missing"]),
        (
            "CREATE POLICY everybody ON crm.contact USING (true)",
            POLICIES,
            ["policy everybody on crm.contact is not declared"],
        ),
        (
            "ALTER POLICY own ON crm.contact TO PUBLIC USING (owner = current_user OR note IS NULL)",
            POLICIES,
            [
                "policy own on crm.contact the roles is public, declared {role}",
                "policy own on crm.contact USING is (owner = CURRENT_USER) OR (note IS NULL),"
                " declared owner = CURRENT_USER",
            ],
        ),
        (
            "ALTER POLICY \"no blanks\" ON crm.contact WITH CHECK (btrim(note) <> ' ')",
            POLICIES,
            [
                "policy no blanks on crm.contact WITH CHECK is btrim(note) <> ' '::text,"
                " declared btrim(note) <> '  '::text"
            ],
        ),
        (
            'DROP POLICY own ON crm."Deal of %s";'
            'CREATE POLICY own ON crm."Deal of %s" AS RESTRICTIVE FOR DELETE'
            " USING (owner = current_user OR owner IS NULL)",
            POLICIES,
            [
                'policy own on crm."Deal of %s" the command is delete, declared all',
                'policy own on crm."Deal of %s" it is restrictive, declared permissive',
                'policy own on crm."Deal of %s" WITH CHECK is absent, declared owner = CURRENT_USER',
            ],
        ),
        (
            "CREATE TABLE public.loose (id int); CREATE POLICY own ON public.loose USING (true)",
            POLICIES,
            [
                "policy own on public.loose is not declared",
                "policy own on public.loose has no effect, as row-level security is not enabled",
            ],
        ),
        (
            'GRANT TEMPORARY ON DATABASE "{database}" TO PUBLIC',
            "PUBLIC has only listed privileges on databases",
            ["TEMPORARY {database} is granted to PUBLIC"],
        ),
        (
            "GRANT CREATE ON SCHEMA public TO PUBLIC",
            "PUBLIC has only listed privileges on schemas",
            ["CREATE public is granted to PUBLIC"],
        ),
        (
            'GRANT UPDATE ON crm.country TO PUBLIC; GRANT SELECT (owner) ON crm."Deal of %s" TO PUBLIC',
            "PUBLIC has only listed privileges on tables",
            [
                'SELECT crm."Deal of %s"(owner) is granted to PUBLIC',
                "UPDATE crm.country is granted to PUBLIC",
            ],
        ),
        (
            "GRANT EXECUTE ON FUNCTION crm.touch(int, text) TO PUBLIC",
            "PUBLIC has only listed privileges on functions of security definer",
            ["EXECUTE crm.touch(integer, text) is granted to PUBLIC"],
        ),
        (
            "ALTER FUNCTION crm.touch(int, text) RESET search_path",
            DEFINER,
            ["crm.touch(integer, text) has no search_path of its own, so its caller chooses what it calls"],
        ),
        (
            "ALTER FUNCTION crm.touch(int, text) SET search_path = crm",
            DEFINER,
            [
                "crm.touch(integer, text) its search_path does not end with pg_temp, so temporary tables of its caller"
                " are found first"
            ],
        ),
        (
            'ALTER FUNCTION crm.touch(int, text) SET search_path = "$user", crm, pg_temp',
            DEFINER,
            ['crm.touch(integer, text) its search_path has "$user", which depends on who runs it'],
        ),
        (
            "CREATE SCHEMA wide; GRANT CREATE ON SCHEMA wide TO PUBLIC;"
            "ALTER FUNCTION crm.touch(int, text) SET search_path = crm, wide, pg_temp",
            DEFINER,
            ["crm.touch(integer, text) its search_path has wide, where PUBLIC may create objects"],
        ),
    ],
)
def test_each_rule_of_the_database_is_broken_by_what_it_is_about(crm, statement, rule, violations):
    names = {"{database}": crm.database, "{role}": crm.role}

    def filled(text):
        for key, value in names.items():
            text = text.replace(key, value)
        return text

    crm.execute(filled(statement))
    assert crm.broken()[rule] == [filled(violation) for violation in violations]


@pytest.mark.parametrize(
    ("attribute", "rule"),
    [
        ("SUPERUSER", "only listed roles have superuser"),
        ("BYPASSRLS", "only listed roles have bypassrls"),
        ("CREATEROLE", "only listed roles have createrole"),
    ],
)
def test_role_with_an_attribute_that_is_not_listed_is_named(crm, attribute, rule):
    crm.execute('ALTER ROLE "%s" %s' % (crm.role, attribute))
    assert crm.broken()[rule] == ["role %s has %s" % (crm.role, attribute)]
    allowed = copy.deepcopy(crm.expectations)
    allowed["roles"][attribute.lower()].append(crm.role)
    assert rule not in crm.broken(allowed)


def test_hash_that_is_not_scram_is_named(crm):
    crm.execute("SET password_encryption = md5; ALTER ROLE \"%s\" PASSWORD 'app'" % crm.role)
    rule = "password hashes are SCRAM-SHA-256"
    assert crm.broken()[rule] == ["role %s its password hash is md5" % crm.role]
    assert rule not in crm.broken({**crm.expectations, "password_hashes": {"exempt": [crm.role]}})


def test_client_without_tls_is_named(crm):
    expectations = {"tls": {"addresses_without": []}}
    connection = crm.pg.connect(crm.database, user=crm.role, password="app")
    try:
        (violations,) = crm.broken(expectations).values()
        assert "role %s from 127.0.0.1 connects without TLS (sessions: 1)" % crm.role in violations
        (violations,) = crm.broken({"tls": {"addresses_without": [], "roles_without": [crm.role]}}).values()
        assert crm.role not in " ".join(violations)
    finally:
        connection.close()


def test_extension_that_is_not_listed_is_named(crm):
    (violations,) = crm.broken({"extensions": []}).values()
    assert violations == ["extension plpgsql version 1.0 is installed and not listed"]


def test_names_that_do_not_exist_are_violations(crm):
    expectations = {
        "row_level_security": {"tables": ["crm.gone", "crm.country"], "schemas": ["nowhere"]},
        "policies": [*crm.expectations["policies"], {"table": "crm.gone", "name": "own"}],
    }
    assert crm.broken(expectations) == {
        ROLE_LEVEL: [
            "crm.country row-level security is not enabled",
            "crm.gone does not exist",
            "schema nowhere does not exist",
        ],
        POLICIES: ["policy own on crm.gone the table does not exist"],
    }


def test_what_the_role_may_not_read_is_said_to_be_unknown(crm):
    server = dataclasses.replace(crm.pg.server, user=crm.role, password="app")
    answer = crm.check({"password_hashes": {}, "tls": {}, "extensions": ["plpgsql"]}, server=server)
    assert [(result["status"], result["message"]) for result in answer["results"]] == [
        ("skipped", "not known: the role may not read password hashes in pg_authid"),
        ("skipped", "not known: the role may not see the connections of others: it lacks pg_read_all_stats"),
        ("passed", "as declared"),
    ]


def test_error_in_one_rule_says_nothing_about_another(crm):
    answer = crm.check({"row_level_security": {"tables": ["a.b.c.d.e"]}, "extensions": ["plpgsql"]})
    assert [(result["status"], result["errored"]) for result in answer["results"]] == [
        ("failed", True),
        ("passed", False),
    ]


@pytest.mark.parametrize(
    ("expectations", "said"),
    [
        ({}, "name no rule"),
        ({"policy": []}, "'policy' is unknown"),
        ({"roles": {"superusers": []}}, "'superusers' is unknown"),
        ({"row_level_security": {}}, "neither tables nor schemas"),
        ({"policies": [{"name": "own"}]}, "policy 1, table: it is missing"),
        ({"extensions": [], "severity": {"extensions": "fatal"}}, "the word is unknown"),
    ],
)
def test_expectations_that_make_no_sense_are_refused(crm, expectations, said):
    with pytest.raises(HoldfastError, match=said) as caught:
        crm.check({**expectations, "tls": None})
    assert caught.value.code == "option_invalid"


def test_module_says_what_is_wrong_and_fails_by_severity(crm, tmp_path):
    arguments = {**crm.pg.login, "database": crm.database, "expectations": crm.expectations}
    done = run_module("pg_security_check", arguments, check=True)
    assert (done["failed"], done["changed"], done["passed_checks"]) == (False, False, 13), done
    crm.execute("DROP POLICY own ON crm.contact")
    failed = run_module("pg_security_check", arguments)
    assert (failed["failed"], failed["code"]) == (True, "check_failed")
    assert "policy own on crm.contact is missing" in failed["msg"]
    warned = run_module(
        "pg_security_check",
        {**arguments, "expectations": {**crm.expectations, "severity": {"policies": "warning"}}},
    )
    assert (warned["failed"], warned["warned_checks"]) == (False, 1)
