#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask an application whether it works."""

from __future__ import annotations

DOCUMENTATION = r"""
module: app_probe
short_description: Ask an application whether it works, until it does or a deadline is over
version_added: 0.1.0
description:
  - Asks by HTTP (with a login, cookies and redirects), by TCP, by libpq, or by a command, and says for each probe
    whether the answer was the expected one. The page "probe an application" of the collection's documentation
    describes probes.
  - All probes are asked in their order, then those again that did not hold, until all do or O(deadline_s) is over.
    There is one deadline for all of them, so that an application that does not come up is found out once.
  - It asks from the host that runs the module - delegate it to the one from which users come.
  - The module itself changes nothing. Check mode leaves out commands, queries, and requests other than GET, HEAD and
    OPTIONS.
  - Passwords and tokens belong into O(logins), O(probes[].http.secret_headers), O(probes[].libpq.password) and
    O(probes[].command.secret_environment). What is there, and what a login returns, is in no result and no message.
requirements:
  - jmespath where JMESPath is used, on the host that asks
options:
  probes:
    description: What to ask. Each has exactly one of the keys C(http), C(tcp), C(libpq) and C(command).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its name, unique; results are kept by it.
        type: str
        required: true
      description:
        description: One sentence for people.
        type: str
      severity:
        description: Whether it fails the task when it does not hold.
        type: str
        choices: [error, warning]
        default: error
      stages:
        description: When it is asked - before anything is touched, after a deployment, after an undo.
        type: list
        elements: str
        choices: [preflight, verify, rollback]
        default: [verify]
      timeout_s:
        description: The longest that one attempt may take in seconds, all redirects of a request included.
        type: float
        default: 10
      retry:
        description: Whether it is asked again until the deadline. Turn it off for what must happen once.
        type: bool
        default: true
      http:
        description: A request.
        type: dict
        suboptions:
          url:
            description: The address, without a user or a password in it.
            type: str
            required: true
          method:
            description: GET, HEAD, OPTIONS, POST, PUT, PATCH or DELETE; POST where something is sent, otherwise GET.
            type: str
          headers:
            description: Further headers.
            type: dict
          secret_headers:
            description: Further headers that are secrets. No redirect takes them to another origin.
            type: dict
          json:
            description: What to send, as JSON.
            type: raw
          form:
            description: What to send, as the fields of a form.
            type: dict
          login:
            description: Name of one of O(logins).
            type: str
          follow_redirects:
            description: Whether a redirect is followed, five times at most.
            type: bool
            default: true
      tcp:
        description: A port that must be open.
        type: dict
        suboptions:
          host:
            description: Name or address.
            type: str
            required: true
          port:
            description: Number of the port.
            type: int
            required: true
      libpq:
        description: A server or a pooler that must let a role in.
        type: dict
        suboptions:
          host:
            description: Name, address, or directory of the socket.
            type: str
          port:
            description: Number of the port.
            type: int
            default: 5432
          database:
            description: The database.
            type: str
            default: postgres
          user:
            description: The role.
            type: str
          password:
            description: Its password.
            type: str
          ssl_mode:
            description: As libpq's sslmode.
            type: str
          ca_cert:
            description: As libpq's sslrootcert.
            type: path
          ssl_cert:
            description: As libpq's sslcert.
            type: path
          ssl_key:
            description: As libpq's sslkey.
            type: path
          login:
            description:
              - Whether the role logs in and runs a query. Otherwise C(pg_isready) is asked, which needs no role.
            type: bool
            default: true
          query:
            description: The query that it runs; it is left out by check mode unless it is the default one.
            type: str
            default: SELECT 1
      command:
        description: A program that must end with an expected exit code.
        type: dict
        suboptions:
          argv:
            description: The program and its arguments. No shell, and no secrets - others see them while it runs.
            type: list
            elements: str
            required: true
          environment:
            description: Further environment variables.
            type: dict
          secret_environment:
            description: Further environment variables that are secrets.
            type: dict
      expect:
        description: What is expected of the answer. Everything given must hold.
        type: dict
        suboptions:
          status:
            description: HTTP statuses, after redirects; 200 when none is given.
            type: list
            elements: int
          exit_code:
            description: Exit codes of a command; 0 when none is given.
            type: list
            elements: int
          json:
            description: Values by JMESPath expressions, such as C(length(@)) of the answer's JSON.
            type: dict
          text:
            description: A text that the answer, or the command's output, must hold.
            type: str
          value:
            description: The first value that the query of a login returns.
            type: raw
          max_latency_ms:
            description: How long the answer may take; a login before it does not count.
            type: float
  logins:
    description: How sessions begin. Each login happens once, when a probe first needs it, and again when it is refused.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Its name, unique.
        type: str
        required: true
      kind:
        description:
          - V(form) sends a form and keeps the cookies. V(token) sends one and takes a bearer token from the answer.
            V(bearer) has a token already, V(basic) a user and a password.
        type: str
        choices: [form, token, bearer, basic]
        required: true
      url:
        description: Where V(form) and V(token) log in.
        type: str
      fields:
        description: What is sent beside the password, such as the user's name.
        type: dict
      user:
        description: The user of V(basic).
        type: str
      password:
        description: The password.
        type: str
      password_field:
        description: The name under which it is sent.
        type: str
        default: password
      encoding:
        description: How V(form) and V(token) send.
        type: str
        choices: [form, json]
        default: form
      token:
        description: The token of V(bearer).
        type: str
      token_path:
        description: JMESPath to the token in the answer.
        type: str
        default: access_token
      scheme:
        description: The word before the token in the header.
        type: str
        default: Bearer
      cookie:
        description: The cookie that V(form) sets. A refused form often answers 200 as well, so it is required.
        type: str
      csrf_field:
        description: A hidden field of the page at O(logins[].url) that is sent along.
        type: str
      status:
        description: HTTP statuses of a login that succeeded, after redirects; 200 when none is given.
        type: list
        elements: int
  stage:
    description: Only probes that name this stage are asked. All are read.
    type: str
    choices: [preflight, verify, rollback]
    default: verify
  deadline_s:
    description:
      - For how many seconds probes that do not hold are asked again. Each is asked once at least.
    type: float
    default: 30
  interval_s:
    description: Seconds between two rounds.
    type: float
    default: 1
  fail_on:
    description: Which probes fail the task - those of severity error, warnings as well, or none.
    type: str
    choices: [error, warning, never]
    default: error
  validate_certs:
    description: Whether the certificates of HTTPS must be valid.
    type: bool
    default: true
  ca_cert:
    description: A file with the authorities to trust for HTTPS, in place of the system's.
    type: path
  use_proxy:
    description: Whether the proxy of the environment variables is used.
    type: bool
    default: true
  bin_dir:
    description: Directory of C(pg_isready); found when not given.
    type: path
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Ask the rental platform from the controller
  holdfast.postgres.app_probe:
    logins:
      - name: demo
        kind: token
        url: https://rentguy.internal/api/v1/auth/login
        fields: {email: rentguy@demo.local}
        password: "{{ vault_demo_password }}"
    probes:
      - name: the API is healthy
        http: {url: https://rentguy.internal/health}
        expect: {max_latency_ms: 1000}
      - name: there are seven onboarding steps
        http: {url: https://rentguy.internal/api/v1/onboarding/steps, login: demo}
        expect: {json: {length(@): 7}}
      - name: the application's role gets through the pooler
        libpq: {host: pooler1.internal, port: 6432, database: rentguy, user: rentguy_app, password: "{{ vault_app }}"}
  delegate_to: localhost
"""

RETURN = r"""
probes:
  description: One entry for each probe of the stage, in their order. Also returned when probes failed.
  returned: when the probes could be understood
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    kind:
      description: V(http), V(tcp), V(libpq) or V(command).
      type: str
    severity:
      description: V(error) or V(warning).
      type: str
    ok:
      description: Whether it holds.
      type: bool
    status:
      description: The last HTTP status or exit code, or none.
      type: int
    latency_ms:
      description: How long the last answer took, or none without an answer.
      type: float
    attempts:
      description: How often it was asked.
      type: int
    message:
      description: What was answered, and what was expected.
      type: str
checks:
  description: The same in the form of the results of M(holdfast.postgres.pg_check), for the ledger and the report.
  returned: with RV(probes)
  type: list
  elements: dict
failed_probes:
  description: How many probes of severity error do not hold.
  returned: with RV(probes)
  type: int
warned_probes:
  description: How many probes of severity warning do not hold.
  returned: with RV(probes)
  type: int
summary:
  description: One sentence with these numbers.
  returned: with RV(probes)
  type: str
  sample: 8 of 8 probes hold (0.2 s).
duration_s:
  description: How long all of it took.
  returned: with RV(probes)
  type: float
code:
  description: V(probe_failed), V(option_invalid), V(library_missing) or another stable word.
  returned: failure
  type: str
hint:
  description: The next step.
  returned: failure
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import failures_reported
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.probe import FAIL_ON, probe_application
from ansible_collections.holdfast.postgres.plugins.module_utils._verification.probe_plan import (
    LOGIN_KINDS,
    NO_QUERY,
    SEVERITIES,
    STAGES,
)

HTTP = {
    "url": {"type": "str", "required": True},
    "method": {"type": "str"},
    "headers": {"type": "dict"},
    "secret_headers": {"type": "dict", "no_log": True},
    "json": {"type": "raw"},
    "form": {"type": "dict"},
    "login": {"type": "str"},
    "follow_redirects": {"type": "bool", "default": True},
}
TCP = {"host": {"type": "str", "required": True}, "port": {"type": "int", "required": True}}
LIBPQ = {
    "host": {"type": "str"},
    "port": {"type": "int", "default": 5432},
    "database": {"type": "str", "default": "postgres"},
    "user": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "ssl_mode": {"type": "str"},
    "ca_cert": {"type": "path"},
    "ssl_cert": {"type": "path"},
    "ssl_key": {"type": "path", "no_log": False},
    "login": {"type": "bool", "default": True},
    "query": {"type": "str", "default": NO_QUERY},
}
COMMAND = {
    "argv": {"type": "list", "elements": "str", "required": True},
    "environment": {"type": "dict"},
    "secret_environment": {"type": "dict", "no_log": True},
}
EXPECT = {
    "status": {"type": "list", "elements": "int"},
    "exit_code": {"type": "list", "elements": "int"},
    "json": {"type": "dict"},
    "text": {"type": "str"},
    "value": {"type": "raw"},
    "max_latency_ms": {"type": "float"},
}
PROBE = {
    "name": {"type": "str", "required": True},
    "description": {"type": "str"},
    "severity": {"type": "str", "choices": list(SEVERITIES), "default": "error"},
    "stages": {"type": "list", "elements": "str", "choices": list(STAGES), "default": ["verify"]},
    "timeout_s": {"type": "float", "default": 10},
    "retry": {"type": "bool", "default": True},
    "http": {"type": "dict", "options": HTTP},
    "tcp": {"type": "dict", "options": TCP},
    "libpq": {"type": "dict", "options": LIBPQ},
    "command": {"type": "dict", "options": COMMAND},
    "expect": {"type": "dict", "options": EXPECT},
}
LOGIN = {
    "name": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": list(LOGIN_KINDS), "required": True},
    "url": {"type": "str"},
    "fields": {"type": "dict"},
    "user": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "password_field": {"type": "str", "default": "password", "no_log": False},
    "encoding": {"type": "str", "choices": ["form", "json"], "default": "form"},
    "token": {"type": "str", "no_log": True},
    "token_path": {"type": "str", "default": "access_token", "no_log": False},
    "scheme": {"type": "str", "default": "Bearer"},
    "cookie": {"type": "str"},
    "csrf_field": {"type": "str"},
    "status": {"type": "list", "elements": "int"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "probes": {"type": "list", "elements": "dict", "required": True, "options": PROBE},
            "logins": {"type": "list", "elements": "dict", "default": [], "options": LOGIN, "no_log": False},
            "stage": {"type": "str", "choices": list(STAGES), "default": "verify"},
            "deadline_s": {"type": "float", "default": 30},
            "interval_s": {"type": "float", "default": 1},
            "fail_on": {"type": "str", "choices": list(FAIL_ON), "default": "error"},
            "validate_certs": {"type": "bool", "default": True},
            "ca_cert": {"type": "path"},
            "use_proxy": {"type": "bool", "default": True},
            "bin_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = dict(module.params)
    with failures_reported(module):
        result = probe_application(
            environment=dict(os.environ),
            check_mode=module.check_mode,
            **{**options, "ca_cert": options["ca_cert"] or None},
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
