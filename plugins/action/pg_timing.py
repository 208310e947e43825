# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads files of named queries where they are kept, on the controller, and hands their contents to the module."""

from __future__ import annotations

from ansible_collections.holdfast.postgres.plugins.action.pg_check import ActionModule as ReadsFiles


class ActionModule(ReadsFiles):
    """Run holdfast.postgres.pg_timing with ``documents`` in place of ``queries``."""

    MODULE = "holdfast.postgres.pg_timing"
    FILES = "queries"
