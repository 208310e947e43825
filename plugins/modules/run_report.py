#!/usr/bin/python
# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the report of a run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run_report
short_description: Write the files of a run's report
version_added: 0.1.0
description:
  - Writes files into one directory, each of which is there whole or not at all, and makes a link beside the directory
    point at it. One task, because an undo has no time for six.
  - The directory is for its owner and group (mode 0750), and so are the files (0640).
  - Check mode writes nothing; it fails where the user may not write, and says whether anything would change.
options:
  path:
    description: The directory of the report; it is made when it is missing.
    type: path
    required: true
  files:
    description: The content of each file, by its name.
    type: dict
    required: true
  latest:
    description: Name of the link to the newest report, beside the directory.
    type: str
author:
  - Holdfast maintainers (@holdfast)
"""

EXAMPLES = r"""
- name: Write the report
  holdfast.postgres.run_report:
    path: /var/lib/holdfast/reports/20261120T221500Z-7f3a
    latest: latest
    files:
      report.json: "{{ report | to_nice_json }}"
      report.html: "{{ lookup('ansible.builtin.template', 'report.html.j2') }}"
"""

RETURN = r"""
directory:
  description: The directory of the report.
  returned: success
  type: str
code:
  description: Stable word for the failure.
  returned: failure
  type: str
  sample: destination_unwritable
hint:
  description: The next step.
  returned: failure
  type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.holdfast.postgres.plugins.module_utils._core.argspec import failures_reported
from ansible_collections.holdfast.postgres.plugins.module_utils._ledger.report import write_report


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
            "latest": {"type": "str"},
        },
        supports_check_mode=True,
    )
    params = module.params
    with failures_reported(module):
        changed = write_report(
            path=params["path"],
            files=params["files"],
            latest=params["latest"] or None,
            check_mode=module.check_mode,
        )
    module.exit_json(changed=changed, directory=params["path"])


if __name__ == "__main__":
    main()
