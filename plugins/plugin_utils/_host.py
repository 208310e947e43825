# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What speaks against a host, and what an operator should know of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

GB = 1024**3


def host_findings(
    probe: Mapping[str, Any], *, facts: Mapping[str, Any], wishes: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return ``refusals`` and ``warnings`` about a host, each a sentence with its number and what to do.

    `probe` is the output of the role's probe.py, `wishes` are the variables of the role without their prefix.
    """
    clock = list(_clock(probe.get("clock") or {}, wishes))
    required = wishes["clock"] == "require"
    return {
        "refusals": [*_system(facts, wishes), *_disks(probe, wishes), *_ports(probe, wishes)]
        + [*_fsync(probe, wishes, refusal=True)]
        + (clock if required else []),
        "warnings": [*_fsync(probe, wishes, refusal=False), *_kernel(probe.get("kernel") or {}, facts)]
        + (clock if wishes["clock"] == "warn" else []),
    }


def _system(facts: Mapping[str, Any], wishes: Mapping[str, Any]) -> Iterator[str]:
    name, major = facts["distribution"], str(facts["distribution_major_version"])
    oldest = wishes["distributions"].get(name)
    if oldest is None:
        yield "The system is %s, and the roles know %s." % (name, " and ".join(sorted(wishes["distributions"])))
    # A testing release names itself instead of a number.
    elif major.isdigit() and int(major) < int(oldest):
        yield "The system is %s %s, and at least %s is needed." % (name, major, oldest)
    processors = int(facts.get("processor_vcpus") or 1)
    if processors < int(wishes["min_processors"]):
        yield "The host has %d processors, and host_preflight_min_processors asks for %s." % (
            processors,
            wishes["min_processors"],
        )
    if int(facts["memtotal_mb"]) < int(wishes["min_memory_mb"]):
        yield "The host has %s MB of memory, and host_preflight_min_memory_mb asks for %s." % (
            facts["memtotal_mb"],
            wishes["min_memory_mb"],
        )


def _disks(probe: Mapping[str, Any], wishes: Mapping[str, Any]) -> Iterator[str]:
    found = {disk["path"]: disk for disk in probe.get("disks") or []}
    for wish in wishes["disks"]:
        disk = found[wish["path"]]
        for key, words in (("size", "holds"), ("free", "has free")):
            least = float(wish.get("min_%s_gb" % key, 0))
            if disk[key + "_bytes"] < least * GB:
                yield "The disk of %s %s %.1f GB, and %g GB are asked for in host_preflight_disks." % (
                    wish["path"],
                    words,
                    disk[key + "_bytes"] / GB,
                    least,
                )


def _ports(probe: Mapping[str, Any], wishes: Mapping[str, Any]) -> Iterator[str]:
    found = {listener["port"]: listener["processes"] for listener in probe.get("listeners") or []}
    for wish in wishes["ports"]:
        names = found.get(int(wish["port"]))
        if names is not None and not set(names) & set(wish.get("processes") or []):
            yield "Port %s is taken by %s. Stop it, or choose another port." % (
                wish["port"],
                ", ".join(names) or "a process that cannot be seen",
            )


def _fsync(probe: Mapping[str, Any], wishes: Mapping[str, Any], *, refusal: bool) -> Iterator[str]:
    measured = probe.get("fsync") or {}
    if not measured:
        return
    limit = float(wishes["max_fsync_ms"] if refusal else wishes["slow_fsync_ms"])
    if limit and measured["median_ms"] > limit:
        if not refusal and 0 < float(wishes["max_fsync_ms"]) < measured["median_ms"]:
            return
        yield (
            "A write reaches the disk of %s in %.2f ms (median; 1 in 100 takes %.2f ms), and more than %g ms are slow: "
            "every commit waits that long. Use a disk with a protected write cache for the WAL."
            % (wishes["disks"][0]["path"], measured["median_ms"], measured["p99_ms"], limit)
        )


def _clock(clock: Mapping[str, Any], wishes: Mapping[str, Any]) -> Iterator[str]:
    if clock.get("synchronized") is False:
        yield (
            "The clock is not synchronised: times in logs, the ledger and certificates cannot be compared between "
            "hosts. Run chrony or systemd-timesyncd."
        )
    elif clock.get("synchronized") is None:
        yield "The state of the clock could not be read: %s." % clock.get("error", "no answer")
    elif float(clock.get("max_error_ms") or 0) > float(wishes["max_clock_error_ms"]):
        yield "The clock may be wrong by %g ms, and host_preflight_max_clock_error_ms is %s." % (
            clock["max_error_ms"],
            wishes["max_clock_error_ms"],
        )


def _kernel(kernel: Mapping[str, str], facts: Mapping[str, Any]) -> Iterator[str]:
    if kernel.get("vm.overcommit_memory", "2") != "2":
        yield (
            "vm.overcommit_memory is %s: when memory runs out, the kernel kills a process of the server, and every "
            "session ends. With 2, and vm.overcommit_ratio at 80 or more where there is little swap, an allocation "
            "fails instead." % kernel["vm.overcommit_memory"]
        )
    # Without swap there is nowhere to move it to.
    if int(kernel.get("vm.swappiness", "0")) > 10 and int(facts.get("swaptotal_mb", 1)) > 0:
        yield (
            "vm.swappiness is %s: the kernel moves memory of the server to disk before it gives up cache. Set it to 1."
            % kernel["vm.swappiness"]
        )
    if int(kernel.get("vm.nr_hugepages", "1")) == 0 and int(facts["memtotal_mb"]) >= 16384:
        yield (
            "vm.nr_hugepages is 0 with %s MB of memory: page tables of many sessions cost memory that huge pages save. "
            "`postgres -C shared_memory_size_in_huge_pages` says how many a cluster needs." % facts["memtotal_mb"]
        )
    if kernel.get("transparent_hugepage") == "always":
        yield (
            "Transparent huge pages are always on: the kernel stalls sessions while it gathers pages. "
            "Set /sys/kernel/mm/transparent_hugepage/enabled to madvise."
        )
    if int(kernel.get("vm.dirty_background_ratio", "0")) >= 10 and int(facts["memtotal_mb"]) >= 8192:
        yield (
            "vm.dirty_background_ratio is %s: %d MB of writes may gather before the kernel begins to write them, and a "
            "checkpoint then waits for all of them. Set vm.dirty_background_bytes to 268435456."
            % (
                kernel["vm.dirty_background_ratio"],
                int(facts["memtotal_mb"]) * int(kernel["vm.dirty_background_ratio"]) // 100,
            )
        )
    if kernel.get("vm.zone_reclaim_mode", "0") != "0":
        yield (
            "vm.zone_reclaim_mode is %s: the kernel drops cache while other nodes have memory. Set it to 0."
            % kernel["vm.zone_reclaim_mode"]
        )
