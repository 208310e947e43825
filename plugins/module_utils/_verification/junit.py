# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results of checks as JUnit XML, which job runners show."""

from __future__ import annotations

import os
import re
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError

# Characters that XML 1.0 cannot hold in any form (https://www.w3.org/TR/xml/#charsets).
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(
    results: Sequence[Mapping[str, Any]], *, fail_on: str = "error", name: str = "holdfast.postgres.pg_check"
) -> bytes:
    """Return the document. A check of severity error that failed is a failure, or an error when its SQL failed.

    Warnings count as failures when ``fail_on`` says so; otherwise they are told in the output of a passed test.
    """
    root = ET.Element("testsuites", {"name": name})
    for suite_name in dict.fromkeys(str(result["suite"]) for result in results):
        members = [result for result in results if str(result["suite"]) == suite_name]
        suite = ET.SubElement(root, "testsuite", {"name": _clean(suite_name)})
        totals = {"tests": len(members), "failures": 0, "errors": 0, "skipped": 0}
        for result in members:
            outcome = _add_case(suite, result, fail_on=fail_on)
            if outcome:
                totals[outcome] += 1
        suite.attrib.update({key: str(value) for key, value in totals.items()})
        suite.set("time", _seconds(sum(result["duration_ms"] for result in members)))
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _add_case(suite: ET.Element, result: Mapping[str, Any], *, fail_on: str) -> str:
    case = ET.SubElement(
        suite,
        "testcase",
        {
            "classname": _clean(str(result["suite"])),
            "name": _clean(str(result["name"])),
            "time": _seconds(result["duration_ms"]),
        },
    )
    message = _clean(str(result["message"]))
    if result["status"] == "skipped":
        ET.SubElement(case, "skipped", {"message": message})
        return "skipped"
    if result["status"] != "failed":
        return ""
    details = _clean("\n".join(str(row) for row in result["sample"]))
    if result["severity"] == "error" or (result["severity"] == "warning" and fail_on == "warning"):
        tag, outcome = ("error", "errors") if result["errored"] else ("failure", "failures")
        ET.SubElement(case, tag, {"message": message, "type": str(result["severity"])}).text = details
        return outcome
    ET.SubElement(case, "system-out").text = "%s: %s\n%s" % (result["severity"], message, details)
    return ""


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def _seconds(duration_ms: float) -> str:
    return "%.3f" % (duration_ms / 1000)


def refuse_unwritable(path: str) -> None:
    """Raise `HoldfastError` (``destination_unwritable``) when no file can be made at ``path``; makes none."""
    directory = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise _unwritable(path, "it is a directory")
    if not os.path.isdir(directory):
        raise _unwritable(path, "the directory %s does not exist" % directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise _unwritable(path, "this user may not write in %s" % directory)


def _unwritable(path: str, reason: str) -> HoldfastError:
    return HoldfastError(
        code="destination_unwritable",
        msg="Cannot write the JUnit file %s: %s." % (path, reason),
        hint="Name a file in a directory that exists and that this user can write.",
    )


def write_junit(path: str, document: bytes) -> None:
    """Write the file, readable by its owner only, in one step; raises `HoldfastError` (``destination_unwritable``).

    Samples may hold personal data, therefore nobody else may read it.
    """
    directory = os.path.dirname(os.path.abspath(path))
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".holdfast-junit-", dir=directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(document)
        os.replace(temporary, path)
    except OSError as exc:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise _unwritable(path, exc.strerror or str(exc)) from exc
