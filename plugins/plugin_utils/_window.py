# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change windows: hours of weekdays in a time zone, over midnight too, without the dates that are blacked out.

Hours are those of the clock on the wall. Where a change of daylight saving time makes an hour twice, its first counts;
where it leaves one out, what would begin or end in it does so an hour later on that clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ansible_collections.holdfast.postgres.plugins.module_utils._core.entry import Entry

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WINDOW_KEYS = ("days", "from", "to", "timezone")
BLACKOUT_KEYS = ("date", "from", "to", "reason", "kinds", "timezone")
#: How far ahead the next opening is looked for.
HORIZON_DAYS = 60

Interval = tuple[datetime, datetime]


@dataclass(frozen=True)
class Window:
    """Hours that begin on some weekdays; what does not end later than it begins ends on the next day."""

    days: tuple[str, ...]
    begin_minute: int
    end_minute: int
    zone: ZoneInfo

    def on(self, day: date) -> Interval | None:
        """Return the window that begins on a day, in UTC, or None; one that a clock change swallowed is None, too."""
        if DAYS[day.weekday()] not in self.days:
            return None
        ends_later = self.end_minute > self.begin_minute
        begin = _moment(day, self.begin_minute, self.zone)
        end = _moment(day if ends_later else day + timedelta(days=1), self.end_minute, self.zone)
        return (begin, end) if begin < end else None


@dataclass(frozen=True)
class Blackout:
    """Dates, both included, on which nothing of some kinds happens."""

    first: date
    last: date
    zone: ZoneInfo
    reason: str = ""
    kinds: tuple[str, ...] = ()

    @property
    def interval(self) -> Interval:
        """Its begin and end in UTC."""
        return _moment(self.first, 0, self.zone), _moment(self.last + timedelta(days=1), 0, self.zone)


def _moment(day: date, minute: int, zone: ZoneInfo) -> datetime:
    """Return a time of the wall clock in UTC; minute 1440 is midnight at the end of the day."""
    day += timedelta(days=minute // 1440)
    local = datetime.combine(day, time(*divmod(minute % 1440, 60)), tzinfo=zone)
    return local.astimezone(timezone.utc)


def parse_window(value: Any, *, where: str, default_zone: str) -> Window:
    """Return a window; raises `HoldfastError` (``option_invalid``)."""
    entry = Entry(value, where=where, keys=WINDOW_KEYS)
    named = tuple(word.lower()[:3] for word in entry.texts("days"))
    if not set(named) <= set(DAYS):
        raise entry.refusal("days", "a weekday is unknown.", hint="Write some of: %s." % ", ".join(DAYS))
    return Window(named or DAYS, _minute(entry, "from"), _minute(entry, "to"), _zone(entry, default_zone))


def parse_blackout(value: Any, *, where: str, default_zone: str) -> Blackout:
    """Return a blackout, a single date being one of a day; raises `HoldfastError` (``option_invalid``)."""
    if not isinstance(value, dict):
        value = {"date": value}
    entry = Entry(value, where=where, keys=BLACKOUT_KEYS)
    single = "date" in entry.given
    first = _date(entry, "date" if single else "from")
    last = first if single or "to" not in entry.given else _date(entry, "to")
    if last < first:
        raise entry.refusal("to", "it ends before it begins.")
    zone = _zone(entry, default_zone)
    return Blackout(first, last, zone, entry.text("reason", ""), entry.texts("kinds"))


def _zone(entry: Entry, default: str) -> ZoneInfo:
    name = entry.text("timezone", default)
    if not name:
        raise entry.refusal("timezone", "it is missing.", hint="Write for example timezone: Europe/Amsterdam")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise entry.refusal(
            "timezone",
            "the zone %r is unknown on the controller." % name,
            hint="Write a name such as Europe/Amsterdam; the package tzdata has the zones.",
        ) from exc


def _minute(entry: Entry, key: str) -> int:
    """Return the minute of a time of the day; YAML reads 22:00 without quotes as the number 1320."""
    value = entry.given.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        hours, minutes = divmod(value, 60)
    else:
        parts = str(value).split(":")
        well_formed = len(parts) == 2 and all(part.isdecimal() and len(part) <= 2 for part in parts)
        hours, minutes = (int(parts[0]), int(parts[1])) if well_formed else (-1, 0)
    if not 0 <= hours * 60 + minutes <= 1440 or not 0 <= minutes <= 59:
        raise entry.refusal(key, "it is no time of the day.", hint='Write for example %s: "22:00"' % key)
    return hours * 60 + minutes


def _date(entry: Entry, key: str) -> date:
    value = entry.given.get(key)
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError as exc:
        raise entry.refusal(key, "it is no date.", hint="Write for example 2026-12-24") from exc


def judge_window(
    windows: Sequence[Window], blackouts: Sequence[Blackout], *, now: datetime, needs: timedelta
) -> dict[str, Any]:
    """Return whether there is time for what is about to begin.

    Keys: ``ok``, ``problem`` (empty when ok), ``open_until`` and ``opens_at`` (ISO 8601 in the zone of the first
    window, or None where there is no such time within the horizon). Without windows, only blackouts close.
    """
    zone: Any = windows[0].zone if windows else blackouts[0].zone if blackouts else timezone.utc
    dark = next((b for b in blackouts if b.interval[0] <= now < b.interval[1]), None)
    free = _free(windows, blackouts, now=now)
    current = next((interval for interval in free if interval[0] <= now < interval[1]), None)
    coming = next((begin for begin, end in free if begin > now and end - begin >= needs), None)
    verdict = {
        "ok": True,
        "problem": "",
        "open_until": _said(current[1], zone) if current and current[1] < _horizon(now) else None,
        "opens_at": _said(coming, zone) if coming else None,
    }
    if current and current[1] - now >= needs:
        return verdict
    again = "It opens %s." % verdict["opens_at"] if coming else "It does not open within %d days." % HORIZON_DAYS
    if dark:
        why = " (%s)" % dark.reason if dark.reason else ""
        problem = "%s to %s is blacked out%s. %s" % (dark.first, dark.last, why, again)
    elif current:
        left = int((current[1] - now).total_seconds() // 60)
        problem = "The window closes in %d minutes, at %s, and %d are needed. %s" % (
            left,
            verdict["open_until"],
            needs.total_seconds() // 60,
            again,
        )
    else:
        problem = "The change window is closed. %s" % again
    return {**verdict, "ok": False, "problem": problem}


def _horizon(now: datetime) -> datetime:
    return now + timedelta(days=HORIZON_DAYS)


def _free(windows: Sequence[Window], blackouts: Sequence[Blackout], *, now: datetime) -> list[Interval]:
    """Return the times in which something may happen, in order, adjoining ones joined, up to the horizon."""
    # A window of today's clock may have begun two dates ago in UTC.
    days = [now.date() + timedelta(days=offset) for offset in range(-2, HORIZON_DAYS + 2)]
    found = [window.on(day) for window in windows for day in days]
    joined: list[Interval] = []
    for begin, end in sorted(i for i in found if i) if windows else [(now - timedelta(days=2), _horizon(now))]:
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    for blackout in blackouts:
        dark_begin, dark_end = blackout.interval
        joined = [
            part
            for begin, end in joined
            for part in ((begin, min(end, dark_begin)), (max(begin, dark_end), end))
            if part[0] < part[1]
        ]
    return joined


def _said(moment: datetime, zone: Any) -> str:
    local = moment.astimezone(zone)
    return "%s %s" % (DAYS[local.weekday()].capitalize(), local.isoformat(timespec="minutes"))
