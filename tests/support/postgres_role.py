# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role postgres without a host: its own defaults, the facts of a host, and what it makes of both."""

from __future__ import annotations

import pathlib
from typing import Any

import yaml

from ansible_collections.holdfast.postgres.plugins.plugin_utils._postgres import postgres_plan
from ansible_collections.holdfast.postgres.plugins.plugin_utils._postgres_problems import postgres_problems

ROOT = pathlib.Path(__file__).resolve().parents[2]
# As the role's vars/main.yml hands its variables to the filters; what is a template there is a value here.
DEFAULTS: dict[str, Any] = {
    name.removeprefix("postgres_"): value
    for name, value in yaml.safe_load((ROOT / "roles/postgres/defaults/main.yml").read_text(encoding="utf-8")).items()
}
DEFAULTS.update(
    version="15",
    tls_certificate="/c/db.crt",
    tls_key="/c/db.key",
    tls_ca="/c/ca.crt",
    replication_slot="replica1",
    replication_sslmode="verify-full",
    replication_secret=True,
    role_names=[],
)
del DEFAULTS["replication_password"], DEFAULTS["roles"], DEFAULTS["privileges"]


def host(memory_mb: int = 16384, processors: int = 8, *, rotational: str = "0") -> dict[str, Any]:
    """Ansible's facts of a host with one disk."""
    return {
        "memtotal_mb": memory_mb,
        "processor_vcpus": processors,
        "mounts": [{"mount": "/", "device": "/dev/vda1"}],
        "devices": {"vda": {"rotational": rotational, "partitions": {"vda1": {}}}},
    }


def plan(*clusters: dict[str, Any], facts: dict[str, Any] | None = None, **choices: Any) -> list[dict[str, Any]]:
    """The plan for these clusters; `choices` are variables of the role without their prefix."""
    return postgres_plan(clusters or [{"name": "main"}], facts=facts or host(), defaults={**DEFAULTS, **choices})


def problems(
    *clusters: dict[str, Any],
    facts: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
    packaged: tuple[str, ...] = ("15",),
    **choices: Any,
) -> list[str]:
    """What speaks against these clusters on a host where `state` was found."""
    facts = facts or host()
    return postgres_problems(
        plan(*clusters, facts=facts, **choices),
        facts=facts,
        defaults={**DEFAULTS, **choices},
        packaged=packaged,
        state=state or {},
    )
