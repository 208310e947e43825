# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deciding whether a deployment may go on: what people signed, what machines found, and whether it is the time for it.

Whatever cannot be read or is not known counts as missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import yaml

from ansible_collections.holdfast.postgres.plugins.module_utils._core.entry import Entry, invalid
from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.plugin_utils._window import (
    Window,
    judge_window,
    parse_blackout,
    parse_window,
)

KINDS = ("standard", "hotfix", "infrastructure", "cleanup")
#: In this order: before anything runs, before anything is touched, before the new version is called good.
STAGES = ("open", "ready", "go_live")
#: Who runs the playbook, among the roles that must be different people.
DEPLOYER = "deployer"
CONDITIONS = ("signed_by", "checks", "probes", "archive", "rehearsal", "holds")
ITEM_KEYS = (
    "name",
    "title",
    "kinds",
    "stage",
    "hours",
    "reference",
    "standing",
    "digest",
    "next",
    *CONDITIONS,
)
KIND_KEYS = ("windows", "minutes", "signature_hours", "apart")
SIGNATURE_KEYS = ("item", "items", "role", "by", "at", "reference", "for", "database", "digest", "decision", "comment")
CHECKS_KEYS = ("suites", "names", "tags")
#: Which severities of a suite or a tag count; a check that is named always does.
SEVERITIES = {"error": ("error",), "warning": ("error", "warning")}
ARCHIVE_KEYS = ("hours",)
REHEARSALS = ("proven", "full")
#: The suite under which probes are recorded.
PROBES = "probes"
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Item:
    """One thing that must be so, with the condition that says it is."""

    name: str
    condition: str
    asked: Any
    stage: str
    title: str = ""
    kinds: tuple[str, ...] = ()
    hours: float | None = None
    reference: bool = True
    standing: bool = False
    digest: bool = False
    next: str = ""

    def applies(self, kind: str) -> bool:
        """Whether a deployment of this kind needs it; a cleanup needs what names it."""
        return kind in self.kinds if self.kinds else kind != "cleanup"


@dataclass(frozen=True)
class Kind:
    """What holds for all deployments of a kind."""

    windows: tuple[Window, ...] = ()
    minutes: float | None = None
    signature_hours: float | None = None
    apart: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Signature:
    """One decision of one person in one role."""

    items: tuple[str, ...]
    role: str
    by: str
    at: datetime
    reference: str = ""
    meant_for: tuple[str, ...] = ()
    database: str = ""
    digest: str = ""
    rejected: bool = False
    comment: str = ""


@dataclass
class Finding:
    """How one item stands."""

    name: str
    title: str
    stage: str
    state: str = "fulfilled"
    problem: str = ""
    next: str = ""
    signatures: list[dict[str, Any]] = field(default_factory=list)


def gate_verdict(definition: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether the deployment may go on beyond a stage, and everything that is missing.

    ``definition`` has ``items``, ``kinds``, ``people``, ``blackouts``, ``timezone``, ``shared_accounts``,
    ``signatures``, ``files`` (contents by path), ``absent`` (files that are not there) and ``survey`` (text).
    ``facts`` has ``kind``, ``stage``, ``now``, ``started_at``, ``operator``, ``deployment_id``, ``database``,
    ``pending`` (rows of pg_migrate), ``preflight`` and ``verify`` (results of checks and probes, None where they did
    not run), ``archive`` (the newest, or None), ``rehearsal`` (or None) and ``check_mode``, in which nothing is
    rehearsed.

    Keys of the verdict: ``ok``, ``code``, ``kind``, ``stage``, ``evaluated_at``, ``operator``, ``target`` (what a
    signature must be for), ``digest``, ``window``, ``items``, ``missing`` (sentences with what to do) and ``message``.
    """
    try:
        return _Evaluation(definition, facts).verdict()
    except HoldfastError as exc:
        sentence = "%s %s" % (exc.msg, exc.hint)
        return {
            "ok": False,
            "code": exc.code,
            "kind": str(facts.get("kind") or "standard"),
            "stage": str(facts.get("stage")),
            "evaluated_at": facts.get("now"),
            "operator": facts.get("operator"),
            "target": [],
            "digest": "",
            "window": None,
            "items": [],
            "missing": [sentence],
            "message": "%s: the gate cannot be understood, so it stays closed. %s" % (exc.code, sentence),
        }


class _Evaluation:
    """The definition, read, and the facts of this run."""

    def __init__(self, definition: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self.kind_name = str(facts.get("kind") or "standard")
        self.stage = str(facts.get("stage") or "ready")
        self.now = moment(facts["now"])
        self.operator = str(facts.get("operator") or "")
        self.database = str(facts.get("database") or "")
        rows = list(facts.get("pending") or [])
        self.target = ["cleanup"] if self.kind_name == "cleanup" else [str(row["version"]) for row in rows]
        self.digest = digest_of(rows)
        zone = str(definition.get("timezone") or "")
        self.items = parse_items(definition.get("items"))
        self.kind = self._kind(definition.get("kinds"), zone)
        self.blackouts = [
            parse_blackout(value, where="blackout %d" % position, default_zone=zone)
            for position, value in enumerate(_list(definition.get("blackouts"), "blackouts"), start=1)
        ]
        self.people = {
            str(role): [_person(name) for name in (names if isinstance(names, list) else [names])]
            for role, names in (definition.get("people") or {}).items()
        }
        self.shared = {_person(name) for name in definition.get("shared_accounts") or []}
        self.signatures, self.unreadable = read_signatures(definition)

    def _kind(self, values: Any, zone: str) -> Kind:
        kinds = parse_kinds(values, zone=zone, roles={role for item in self.items for role in _roles(item)})
        known = kinds or dict.fromkeys(KINDS, Kind())
        if self.kind_name not in known and self.kind_name != "cleanup":
            hint = "Kinds: %s." % ", ".join(known)
            raise invalid("gate_kind", "there is no kind %r of deployments." % self.kind_name, hint=hint)
        return known.get(self.kind_name, Kind())

    def verdict(self) -> dict[str, Any]:
        items = [item for item in self.items if item.applies(self.kind_name)]
        accepted: dict[str, list[tuple[str, str]]] = {}
        findings = [self._judge(item, accepted) for item in items]
        findings += self._unreadable() + self._four_eyes(accepted)
        window = self._window()
        if window and not window["ok"]:
            hint = "Wait for the window, or, if it cannot wait, deploy it as a kind that has none."
            findings.insert(0, Finding("change window", "", "open", "missing", window["problem"], hint))
        missing = [f for f in findings if f.state not in ("fulfilled", "waiting")]
        asked = sum(f.state != "waiting" for f in findings)
        sentences = [_sentence(finding) for finding in missing]
        return {
            "ok": not missing,
            "code": "gate_closed" if missing else "",
            "kind": self.kind_name,
            "stage": self.stage,
            "evaluated_at": self.now.isoformat(),
            "operator": self.operator,
            "target": self.target,
            "digest": self.digest,
            "window": window,
            "items": [vars(finding) for finding in findings],
            "missing": sentences,
            "message": self._message(sentences, asked),
        }

    def _message(self, sentences: Sequence[str], asked: int) -> str:
        what = "%s of %s" % (self.kind_name, self.database)
        if self.kind_name != "cleanup":
            what = "%s deployment of %s to %s" % (self.kind_name, ", ".join(self.target) or "nothing", self.database)
        if not sentences:
            return "The gate is open for the %s: %d of %d are fulfilled." % (what, asked, asked)
        untouched = " Nothing was touched." if self.stage != "go_live" else ""
        numbered = " ".join("(%d) %s" % pair for pair in enumerate(sentences, start=1))
        return "gate_closed: the %s is stopped, %d of %d are missing.%s %s" % (
            what,
            len(sentences),
            asked,
            untouched,
            numbered,
        )

    # Time

    def _window(self) -> dict[str, Any] | None:
        """Judge the window; before the new version is called good it no longer matters."""
        if self.stage == "go_live":
            return None
        blackouts = [b for b in self.blackouts if not b.kinds or self.kind_name in b.kinds]
        needs = timedelta(minutes=self.kind.minutes or 0)
        if self.stage != "open" and self.kind.minutes and self.facts.get("started_at"):
            gone = self.now - moment(self.facts["started_at"])
            needs -= gone
            if needs < timedelta(0):
                minutes = (gone.total_seconds() // 60, self.kind.minutes)
                return {
                    "ok": False,
                    "problem": "The run has taken %d of the %d minutes of its kind before it began." % minutes,
                }
        if not self.kind.windows and not blackouts:
            return None
        return judge_window(self.kind.windows, blackouts, now=self.now, needs=needs)

    # Items

    def _judge(self, item: Item, accepted: dict[str, list[tuple[str, str]]]) -> Finding:
        finding = Finding(item.name, item.title, item.stage, next=item.next)
        unknown = item.condition == "rehearsal" and self.facts.get("check_mode")
        if unknown or STAGES.index(item.stage) > STAGES.index(self.stage):
            finding.state = "waiting"
            return finding
        if item.condition == "signed_by":
            problems = [p for role in item.asked if (p := self._signed(item, role, finding, accepted))]
        else:
            problems = getattr(self, "_" + item.condition)(item)
        if problems:
            finding.state = "missing" if finding.state == "fulfilled" else finding.state
            finding.problem = " ".join(problems)
            finding.next = finding.next or self._next(item)
        else:
            finding.next = ""
        return finding

    def _next(self, item: Item) -> str:
        if item.condition != "signed_by":
            return {
                "checks": "See what the checks say, and mend it.",
                "probes": "See what the probes say, and mend it.",
                "archive": "Run playbooks/backup.yml.",
                "rehearsal": "Let the deployment rehearse: rehearse_mode=full.",
                "holds": "Mend what it is about.",
            }[item.condition]
        meant = "" if item.standing else ", for: %s" % _either(self.target)
        digest = ", digest: %s" % self.digest if item.digest else ""
        reference = ", reference: ..." if item.reference else ""
        return "Have it signed: {item: %s, role: %s, by: ..., at: ...%s%s%s}." % (
            item.name,
            _either(item.asked),
            reference,
            meant,
            digest,
        )

    def _signed(
        self, item: Item, role: str, finding: Finding, accepted: dict[str, list[tuple[str, str]]]
    ) -> str | None:
        """Return why nobody has validly signed an item in a role, or None; note who has."""
        own = [s for s in self.signatures if s.role == role and item.name in s.items]
        if not own:
            astray = sorted({name for s in self.signatures for name in s.items} - {other.name for other in self.items})
            typo = " There are signatures for %s, which are no items." % ", ".join(astray) if astray else ""
            return "Nobody has signed as %s.%s" % (role, typo)
        own.sort(key=lambda signature: signature.at)
        fitting = [s for s in own if self._wrong_target(item, s) is None]
        if not fitting:
            finding.state = "mismatched"
            return "%s signed as %s, but %s." % (own[-1].by, role, self._wrong_target(item, own[-1]))
        newest = fitting[-1]
        finding.signatures.append(
            {
                "role": role,
                "by": newest.by,
                "at": newest.at.isoformat(),
                "reference": newest.reference,
                "for": list(newest.meant_for),
                "comment": newest.comment,
                "rejected": newest.rejected,
            }
        )
        state, problem = self._unacceptable(item, newest)
        if problem:
            finding.state = state
            return "%s signed as %s, but %s." % (newest.by, role, problem)
        accepted.setdefault(role, []).append((newest.by, item.name))
        return None

    def _wrong_target(self, item: Item, signature: Signature) -> str | None:
        if signature.database and signature.database != self.database:
            return "for the database %s, not %s" % (signature.database, self.database)
        if item.standing:
            return None
        run = str(self.facts.get("deployment_id") or "")
        if run and run in signature.meant_for:
            return None
        if not signature.meant_for:
            return "does not say for which version"
        left = [version for version in self.target if version not in signature.meant_for]
        if left or not self.target:
            return "for %s, and not for %s" % (", ".join(signature.meant_for), ", ".join(left) or "this")
        return None

    def _unacceptable(self, item: Item, signature: Signature) -> tuple[str, str]:
        """Return the state of an item and why, where a signature that is meant for it does not do."""
        hours = item.hours if item.hours is not None else self.kind.signature_hours
        age = self.now - signature.at
        said = ": %s" % signature.comment.rstrip(".") if signature.comment else ""
        signers = self.people.get(signature.role)
        given = signature.digest or "none"
        rules = (
            (signature.rejected, "rejected", "said no" + said),
            (age < -CLOCK_SKEW, "missing", "at %s, which is not yet" % signature.at.isoformat()),
            (
                hours is not None and age > timedelta(hours=hours),
                "stale",
                "%s ago, and it holds for %g hours" % (_age(age), hours or 0),
            ),
            (item.reference and not signature.reference, "missing", "without a reference"),
            (
                item.digest and (not self.digest or signature.digest != self.digest),
                "mismatched",
                "for migrations with the digest %s, and these have %s" % (given, self.digest or "none"),
            ),
            (signers is not None and _person(signature.by) not in signers, "missing", "is not among those who may"),
        )
        return next(((state, problem) for broken, state, problem in rules if broken), ("", ""))

    def _checks(self, item: Item) -> list[str]:
        wanted, severities = item.asked
        return self._rows_hold(wanted, item.stage, severities=severities)

    def _probes(self, item: Item) -> list[str]:
        wanted = {"suites": [PROBES]} if "all" in item.asked else {"probes": list(item.asked)}
        return self._rows_hold(wanted, item.stage, severities=SEVERITIES["error"])

    def _rows_hold(self, wanted: Mapping[str, Sequence[str]], stage: str, *, severities: Sequence[str]) -> list[str]:
        """Return what is wrong with the named checks: each must have been made, and hold."""
        rows = self.facts.get("verify" if stage == "go_live" else "preflight")
        if rows is None:
            return ["No check has been made at this stage."]
        problems, broken = [], {}
        for key, names in wanted.items():
            for name in names:
                found = [row for row in rows if row.get("status") != "skipped" and _is_named(row, key, name)]
                counted = [row for row in found if key in ("names", "probes") or row.get("severity") in severities]
                if not found:
                    word = {"suites": "suite", "tags": "tag", "probes": "probe"}.get(key, "check")
                    problems.append("The %s %r was not asked." % (word, name))
                broken.update({str(row["name"]): row for row in counted if row.get("status") == "failed"})
        told = ["%s (%s)" % (name, str(row.get("message") or "").rstrip(".")) for name, row in broken.items()]
        return problems + (["These do not hold: %s." % "; ".join(told)] if told else [])

    def _archive(self, item: Item) -> list[str]:
        archive = self.facts.get("archive")
        if not archive:
            return ["There is no archive."]
        if archive.get("status", "good") != "good":
            return ["The newest archive, %s, is not good: %s." % (archive.get("path"), archive.get("reason"))]
        taken_at = archive.get("snapshot_at")
        if not taken_at:
            return ["When the archive %s was taken is not known." % archive.get("path")]
        age = self.now - moment(taken_at, naive_is_utc=True)
        if age > timedelta(hours=item.asked):
            return ["The newest archive is %s old, and at most %g hours are allowed." % (_age(age), item.asked)]
        return []

    def _rehearsal(self, item: Item) -> list[str]:
        rehearsal = self.facts.get("rehearsal") or {}
        if item.asked == "proven" and not rehearsal.get("proven"):
            return ["The way back has not been proven by a rehearsal."]
        if rehearsal.get("mode") != "full":
            return ["The deployment has not been rehearsed with all rows."]
        return []

    def _holds(self, item: Item) -> list[str]:
        return [] if item.asked is True else ["It does not hold."]

    # People

    def _four_eyes(self, accepted: Mapping[str, Sequence[tuple[str, str]]]) -> list[Finding]:
        findings = []
        for roles in self.kind.apart:
            where = " and ".join(roles)
            people: dict[str, tuple[str, str]] = {}
            for role in roles:
                names = {name for name, _item in accepted.get(role, ())}
                if role == DEPLOYER:
                    names = {self.operator}
                    if not self.operator or _person(self.operator) in self.shared:
                        problem = "Who deploys is not known: %r is no person." % self.operator
                        hint = "Say who: -e gate_operator=<name>."
                        findings.append(Finding("four eyes", where, "open", "missing", problem, hint))
                        continue
                for name in sorted(names):
                    other = people.setdefault(_person(name), (role, name))
                    if other[0] != role:
                        problem = "%s is %s and %s." % (name, other[0], role)
                        hint = "Have another person sign, or deploy."
                        findings.append(Finding("four eyes", where, "open", "missing", problem, hint))
        return findings

    def _unreadable(self) -> list[Finding]:
        hint = "Mend it; what cannot be read counts as not signed."
        return [Finding("signatures", "", "open", "missing", problem, hint) for problem in self.unreadable]


# Reading


def parse_items(values: Any) -> list[Item]:
    """Return the items; raises `HoldfastError` (``option_invalid``)."""
    items: list[Item] = []
    for position, value in enumerate(_list(values, "items"), start=1):
        named = value.get("name") if isinstance(value, Mapping) else None
        where = "item %d%s of the gate" % (position, " (%s)" % named if isinstance(named, str) else "")
        entry = Entry(value, where=where, keys=ITEM_KEYS)
        name = entry.text("name")
        found = [key for key in CONDITIONS if key in entry.given]
        if len(found) != 1:
            problem = "it asks %s." % (" and ".join(found) or "nothing")
            raise invalid(where, problem, hint="Name one of %s." % ", ".join(CONDITIONS))
        condition = found[0]
        stage = {"signed_by": "open", "holds": "open", "probes": "go_live"}.get(condition, "ready")
        hours = entry.number("hours", 0, low=0.01, high=87_600)
        item = Item(
            name=name,
            condition=condition,
            asked=_asked(entry, condition),
            stage=entry.choice("stage", STAGES, stage),
            title=entry.text("title", ""),
            kinds=entry.texts("kinds", choices=KINDS),
            hours=hours or None,
            reference=entry.flag("reference", True),
            standing=entry.flag("standing", False),
            digest=entry.flag("digest", False),
            next=entry.text("next", ""),
        )
        if condition not in ("signed_by", "holds") and item.stage == "open":
            raise entry.refusal(
                "stage", "machines have found nothing yet at this stage.", hint="Write ready or go_live."
            )
        if name in {other.name for other in items}:
            raise entry.refusal("name", "two items have this name.")
        items.append(item)
    return items


def _asked(entry: Entry, condition: str) -> Any:
    """Return what the condition of an item asks, in the form that its judgement takes."""
    if condition == "checks":
        inside = Entry(entry.given["checks"], where=entry.where + ", checks", keys=(*CHECKS_KEYS, "severity"))
        wanted: dict[str, Any] = {key: inside.texts(key) for key in CHECKS_KEYS if key in inside.given}
        if not any(wanted.values()):
            raise inside.refusal("names", "it names no check.")
        return wanted, SEVERITIES[inside.choice("severity", tuple(SEVERITIES), "error")]
    if condition == "archive":
        inside = Entry(entry.given["archive"], where=entry.where + ", archive", keys=ARCHIVE_KEYS)
        return inside.number("hours", low=0.01, high=87_600)
    if condition == "rehearsal":
        return entry.choice("rehearsal", REHEARSALS)
    if condition == "holds":
        return entry.flag("holds", False)
    words = entry.texts(condition)
    if not words:
        raise entry.refusal(condition, "it names nobody." if condition == "signed_by" else "it names nothing.")
    return words


def _roles(item: Item) -> tuple[str, ...]:
    return tuple(item.asked) if item.condition == "signed_by" else ()


def parse_kinds(values: Any, *, zone: str, roles: set[str]) -> dict[str, Kind]:
    """Return the kinds by name; raises `HoldfastError` (``option_invalid``)."""
    outer = Entry(values or {}, where="gate_kinds", keys=KINDS)
    kinds = {}
    for name, value in outer.given.items():
        entry = Entry(value, where="gate_kinds, %s" % name, keys=KIND_KEYS)
        apart = []
        for group in entry.entries("apart"):
            words = tuple(map(str, group)) if isinstance(group, (list, tuple)) else ()
            # A role that nobody signs in would keep nobody apart.
            unknown = [word for word in words if word != DEPLOYER and word not in roles]
            if len(words) < 2 or unknown:
                hint = "A list of lists of roles: %s." % ", ".join([DEPLOYER, *sorted(roles)])
                raise entry.refusal("apart", "it does not name two roles that sign or deploy.", hint=hint)
            apart.append(words)
        windows = tuple(
            parse_window(window, where="%s, window %d" % (entry.where, position), default_zone=zone)
            for position, window in enumerate(entry.entries("windows"), start=1)
        )
        kinds[str(name)] = Kind(
            windows=windows,
            minutes=entry.number("minutes", 0, low=1, high=100_000) or None,
            signature_hours=entry.number("signature_hours", 0, low=0.01, high=87_600) or None,
            apart=tuple(apart),
        )
    return kinds


def read_signatures(definition: Mapping[str, Any]) -> tuple[list[Signature], list[str]]:
    """Return the signatures of the inventory, of files and of a survey, and what of them cannot be read."""
    sources: list[tuple[str, Any]] = [("gate_signatures", definition.get("signatures"))]
    problems = []
    problems += ["The file %s is not there." % path for path in definition.get("absent") or []]
    sources += (definition.get("files") or {}).items()
    sources.append(("gate_survey_signatures", definition.get("survey")))
    signatures = []
    for name, source in sources:
        try:
            values = _documents(source)
        except (yaml.YAMLError, ValueError) as exc:
            mark = getattr(exc, "problem_mark", None)
            problems.append("%s%s is not a list in YAML." % (name, ", line %d" % (mark.line + 1) if mark else ""))
            continue
        for position, value in enumerate(values, start=1):
            try:
                signatures.append(parse_signature(value, where="%s, signature %d" % (name, position)))
            except HoldfastError as exc:
                problems.append("%s %s" % (exc.msg, exc.hint))
    return signatures, problems


def _documents(source: Any) -> list[Any]:
    if isinstance(source, str):
        source = yaml.safe_load(str(source))
    if isinstance(source, Mapping):
        source = source.get("signatures", [source])
    if source in (None, ""):
        return []
    if not isinstance(source, (list, tuple)):
        raise ValueError("not a list")
    return list(source)


def parse_signature(value: Any, *, where: str) -> Signature:
    """Return a signature; raises `HoldfastError` (``option_invalid``)."""
    entry = Entry(value, where=where, keys=SIGNATURE_KEYS)
    items = (*entry.texts("item"), *entry.texts("items"))
    if not items:
        raise entry.refusal("item", "it is missing.")
    at = entry.given.get("at")
    try:
        signed_at = moment(at)
    except ValueError as exc:
        raise entry.refusal("at", "%s." % exc, hint="Write for example 2026-11-20T18:00:00+01:00") from exc
    return Signature(
        items=items,
        role=entry.text("role"),
        by=entry.text("by").strip(),
        at=signed_at,
        reference=entry.text("reference", ""),
        meant_for=entry.texts("for"),
        database=entry.text("database", ""),
        digest=entry.text("digest", ""),
        rejected=entry.choice("decision", ("approved", "rejected"), "approved") == "rejected",
        comment=entry.text("comment", ""),
    )


def moment(value: Any, *, naive_is_utc: bool = False) -> datetime:
    """Return a time with its zone; raises ValueError where it has none, or is none."""
    try:
        text = str(value).strip().replace("Z", "+00:00")
        time = value if isinstance(value, datetime) else datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("it is no time") from None
    if time.tzinfo is None:
        if not naive_is_utc:
            raise ValueError("the time has no zone")
        time = time.replace(tzinfo=timezone.utc)
    return time


def digest_of(pending: Sequence[Mapping[str, Any]]) -> str:
    """Return a short digest of what is about to be applied, so that what is signed is what is deployed."""
    if not all(row.get("checksum") for row in pending):
        return ""
    text = "\n".join("%s %s" % (row["version"], row["checksum"]) for row in pending)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12] if pending else ""


def _list(value: Any, what: str) -> list[Any]:
    if value in (None, ""):
        return []
    if not isinstance(value, (list, tuple)):
        raise invalid("gate_%s" % what, "it is not a list.")
    return list(value)


def _person(name: Any) -> str:
    return str(name).strip().casefold()


def _is_named(row: Mapping[str, Any], key: str, name: str) -> bool:
    if key == "suites":
        return bool(row.get("suite") == name)
    if key == "tags":
        return name in (row.get("tags") or [])
    return bool(row.get("name") == name and (key == "names" or row.get("suite") == PROBES))


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else "[%s]" % ", ".join(words)


def _age(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return "%.0f days" % (hours / 24) if hours >= 72 else "%.1f hours" % hours


def _sentence(finding: Finding) -> str:
    name = "%s (%s)" % (finding.name, finding.title) if finding.title else finding.name
    return "%s: %s %s" % (name, finding.problem, finding.next)
