# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of a report: nothing that comes from a database, a file or a person becomes markup."""

from __future__ import annotations

import json
import pathlib
import re
from html.parser import HTMLParser
from typing import Any

import jinja2

ROOT = pathlib.Path(__file__).resolve().parents[3]
TEMPLATE = ROOT / "roles" / "report" / "templates" / "report.html.j2"

DOCUMENT: dict[str, Any] = {
    "deployment": {
        "id": "20261120T221500Z-7f3a",
        "kind": "deploy",
        "database": "rently_lending",
        "status": "rolled_back",
        "started_at": "2026-11-20T22:15:00.000000Z",
        "finished_at": "2026-11-20T22:16:00.000000Z",
        "duration_s": 60.0,
        "operator": "ada",
        "controller": "ci",
    },
    "steps": [
        {"name": "preflight", "status": "succeeded", "duration_s": 1.0, "offset_s": 0.0},
        {"name": "verify", "status": "failed", "duration_s": 3.0, "offset_s": 1.0},
        {"name": "report", "status": "skipped", "duration_s": 0.0, "offset_s": None},
    ],
    "backup": {
        "path": "/b/d1",
        "snapshot_at": "2026-11-20T22:15:01Z",
        "lsn": "0/1",
        "rows": 5,
        "tables": 2,
        "bytes": 100,
        "duration_s": 1.0,
    },
    "lint": {
        "findings": [
            {"level": "error", "rule": "x", "path": "/m", "line": 1, "message": "m", "allowed": False, "reason": ""},
            {"level": "error", "rule": "y", "path": "/m", "line": 2, "message": "m", "allowed": True, "reason": "why"},
            {"level": "info", "rule": "z", "path": "/m", "line": 3, "message": "m", "allowed": False, "reason": ""},
        ],
    },
    "rehearsal": {
        "mode": "full",
        "notes": ["a note"],
        "problem": "a problem",
        "proven": True,
        "restores_rows": False,
        "restore_s": 1.5,
        "up_ms": 4321,
        "down_ms": 7,
        "versions": [
            {"version": "v2", "down": "proven", "reason": "r", "up_ms": 4321, "down_ms": 7, "records": [{"number": 9}]},
            {"version": "v3", "down": "missing", "reason": "", "up_ms": None, "down_ms": None, "records": []},
        ],
        "schema_differences": [{"message": "It differs.", "diff": "-a\n+b"}],
        "rows_lost": [{"message": "The table x has other values."}],
        "locks": [{"relation": "public.loan", "lock": "AccessExclusiveLock", "held_ms": 12.5}],
    },
    "migrations": [
        {
            "version": "v2",
            "description": "x_y",
            "status": "failed",
            "statements": 2,
            "duration_ms": 1,
            "message": "m",
            "records": [
                {
                    "number": 1,
                    "line": 3,
                    "statement": "ALTER TABLE loan",
                    "rows": 5,
                    "attempts": 2,
                    "predicted_ms": 1234,
                    "duration_ms": 2345.6,
                    "strongest_lock": "AccessExclusiveLock",
                    "locks": {"public.loan": "AccessExclusiveLock"},
                    "blocked_sessions": 4,
                    "blocked_ms": 77,
                },
                {"number": 2, "statement": "(psql)", "predicted_ms": None, "duration_ms": 1, "strongest_lock": None},
            ],
        }
    ],
    "checks": [
        {
            "suite": "post",
            "name": "n",
            "severity": "error",
            "status": "failed",
            "message": "m",
            "sample": [{"column": "value"}],
            "stage": "verify",
            "source": "checks",
            "duration_ms": 1.0,
        },
        {
            "suite": "pre",
            "name": "n",
            "severity": "info",
            "status": "passed",
            "stage": "preflight",
            "source": "probes",
            "duration_ms": None,
        },
    ],
    "timings": {
        "compared_with": "baseline 3",
        "summary": "Of 2 queries one became slower.",
        "timings": [
            {
                "group": "g",
                "name": "overdue",
                "status": "measured",
                "median_ms": 40.0,
                "p95_ms": 44.0,
                "baseline_ms": 10.0,
                "baseline_q1_ms": 9.0,
                "baseline_q3_ms": 11.0,
                "level": "critical",
                "history": [{"median_ms": 10.0}, {"median_ms": 20.0}],
            },
            {
                "group": "g",
                "name": "gone",
                "status": "failed",
                "message": "m",
                "median_ms": None,
                "p95_ms": None,
                "baseline_ms": None,
                "level": None,
                "history": [],
            },
        ],
        "regressions": [
            {
                "name": "overdue",
                "kind": "slower",
                "level": "critical",
                "message": "it is slower",
                "plan_before": {"text": "Index Scan"},
                "plan_now": {"text": "Seq Scan"},
            }
        ],
        "not_compared": [{"name": "fresh", "reason": "it is new"}],
        "workload_change": {
            "slower": [{"query": "SELECT $1", "calls": 1200, "mean_before_ms": 1.5, "mean_since_ms": 15.2}]
        },
    },
    "further_failures": [{"stage": "timing", "msg": "slower", "hint": "h"}],
    "rollback": {
        "sentence": "s",
        "used": "u",
        "done": True,
        "retired": "r",
        "stall_ms": 1.0,
        "terminated": [{}],
        "restore_s": 2.0,
        "writes": {"known": True, "tables": {"public.loan": {"inserted": 1, "updated": 0, "deleted": 0}}},
        "left": {
            "known": False,
            "directory": "/r/d1/writes",
            "problem": "no room",
            "sequences": [{"sequence": "s", "retired": 7, "serving": 1}],
            "tables": [
                {
                    "table": "public.payment",
                    "found_in": "both",
                    "inserted": 1,
                    "updated": None,
                    "deleted": 0,
                    "conflicting": 0,
                    "known": False,
                    "uncertain": True,
                    "reason": "because",
                    "file": "f.csv",
                    "deleted_file": "d.csv",
                },
                {
                    "table": "public.loan",
                    "found_in": "retired",
                    "known": True,
                    "inserted": 2,
                    "updated": 0,
                    "deleted": 0,
                },
            ],
        },
        "carried": {
            "rows": 9,
            "problem": None,
            "tables": [{"table": "public.payment", "rows": 9, "rejected": 1, "columns_left": {"column": 3}}],
            "refused": [{"table": "t", "reason": "r"}],
            "rejected": [{"table": "t", "key": {"column": "k"}, "reason": "r", "detail": "d"}],
            "rejected_total": 101,
            "rejected_file": "/r/d1/writes/rejected.csv",
        },
    },
    "failure": {"stage": "verify", "code": "c", "msg": "m", "hint": "h", "path": "p", "line": 3, "statement": "SELECT"},
    "summary": "All of it.",
}


class Page(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element."""
        self.elements.append(tag)
        self.attributes |= {name for name, _value in attrs}


def render(document: dict[str, Any]) -> tuple[str, Page]:
    environment = jinja2.Environment(trim_blocks=True, autoescape=False)
    environment.filters["to_json"] = json.dumps
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(report_document=document)
    page = Page()
    page.feed(html)
    return html, page


def everywhere(value: Any, text: str) -> Any:
    """The same document with every text, keys of free mappings included, replaced."""
    if isinstance(value, str):
        return text
    if isinstance(value, list):
        return [everywhere(item, text) for item in value]
    if isinstance(value, dict):
        free = {"public.loan", "column"} & set(value)
        return {text if key in free else key: everywhere(item, text) for key, item in value.items()}
    return value


def test_no_value_becomes_markup() -> None:
    plain = render(DOCUMENT)[1]
    for text in ("</title></style><script>alert(1)</script>", "\" onmouseover='alert(1)' <b>&", "--><img src=x>"):
        hostile = everywhere(DOCUMENT, text)
        hostile["checks"][0]["status"] = "failed"
        html, page = render(hostile)
        assert set(page.elements) <= set(plain.elements)
        assert page.attributes == plain.attributes
        assert text not in html


def test_page_says_what_was_left_behind_and_carried_forward() -> None:
    html, _page = render(DOCUMENT)
    for text in ("not known", "because", "f.csv, d.csv", "/r/d1/writes", "no room", "only the retired database has"):
        assert text in html, text
    for text in ("Carried forward: 9 rows", "in 3 rows", "No row of", "1 more are in", "rejected.csv"):
        assert text in html, text
    before = {**DOCUMENT["rollback"], "left": None, "carried": None}
    html, _page = render({**DOCUMENT, "rollback": before})
    assert "public.loan" in html and "Carried" not in html


def test_page_needs_nothing_from_elsewhere() -> None:
    html, page = render(DOCUMENT)
    assert not re.search(r"https?:|@import|url\(", html)
    assert not {"script", "link", "img", "iframe"} & set(page.elements)
    assert 'lang="en"' in html and "width=device-width" in html


def test_page_says_what_the_lint_found_and_what_is_allowed_why() -> None:
    html, _page = render(DOCUMENT)
    found = html.partition("What the lint found before")[2].partition("</section>")[0]
    assert "/m:1" in found and "Allowed: why" in found and "/m:3" not in found
    assert "What the lint found before" not in render({**DOCUMENT, "lint": None})[0]


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).replace("\u2013", "-").split())


def test_page_sets_what_was_predicted_of_a_statement_beside_what_happened() -> None:
    html, _page = render(DOCUMENT)
    text = text_of(html.partition("Statements of v2")[2].partition("</table>")[0])
    assert "predicted took strongest lock sessions blocked" in text
    assert "1 · line 3 · 5 rows · 2 attempts ALTER TABLE loan 1,234 ms 2,346 ms AccessExclusiveLock" in text
    assert "public.loan 4 for 77 ms" in text
    assert "(psql) - 1 ms - -" in text
    # Each cell says on a narrow page what it is.
    assert html.count('data-label="sessions blocked"') == 2


def test_page_says_what_the_rehearsal_has_shown() -> None:
    text = text_of(render(DOCUMENT)[0].partition("The rehearsal")[2].partition("</section>")[0])
    for words in ("a note", "The way back does not work: a problem.", "does not bring every row back", "-a +b",
                  "v2 4,321 ms 7 ms proven r", "v3 - - missing", "public.loan AccessExclusiveLock 12 ms",
                  "The table x has other values. The steps down do not bring that back."):  # fmt: skip
        assert words in text, words
    assert "Statements of" not in text
    # Where nothing was applied, what was rehearsed is all there is to see.
    assert "Statements of v2" in text_of(render({**DOCUMENT, "migrations": []})[0])
    assert "The rehearsal" not in render({**DOCUMENT, "rehearsal": None})[0]


def test_page_draws_times_against_their_baseline_and_shows_both_plans() -> None:
    html = render(DOCUMENT)[0].partition("Query times")[2].partition("</section>")[0]
    # One chart, because the other query has no time: 40 ms is near the top, 10 ms at a quarter of that.
    assert html.count("<svg") == 1
    assert '<circle class="critical" cx="212" cy="6.0" r="4"/>' in html
    assert 'y1="36.0"' in html and 'points="8.0,36.0 110.0,26.0 212.0,6.0 "' in html
    text = text_of(html)
    for words in ("overdue g 40 ms 44 ms 10 ms \u00d7 4.00 failed", "gone g · m - - - failed", "Plan before Index Scan",
                  "Plan now Seq Scan", "fresh: it is new", "SELECT $1 1,200 1.50 ms 15 ms"):  # fmt: skip
        assert words in text, words


def test_page_tells_every_failure_of_a_verification() -> None:
    text = text_of(render(DOCUMENT)[0].partition("The failure")[2].partition("</section>")[0])
    assert "And at the stage timing slower Next step: h" in text


def test_page_has_a_section_for_each_kind_of_evidence() -> None:
    html, _page = render(DOCUMENT)
    assert "Checks: 0 of 1 hold" in html and "Probes: 1 of 1 hold" in html
