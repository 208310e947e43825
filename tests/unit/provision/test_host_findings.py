# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured on a host, what is refused and what an operator is told, with the numbers."""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys

import pytest
import yaml

from ansible_collections.holdfast.postgres.plugins.plugin_utils._host import GB, host_findings

ROLE = pathlib.Path(__file__).resolve().parents[3] / "roles" / "host_preflight"
WISHES = {
    name.removeprefix("host_preflight_"): value
    for name, value in yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8")).items()
}
FACTS = {
    "distribution": "Debian",
    "distribution_major_version": "12",
    "processor_vcpus": 8,
    "memtotal_mb": 15990,
    "swaptotal_mb": 2047,
}
KERNEL = {
    "vm.overcommit_memory": "2",
    "vm.overcommit_ratio": "80",
    "vm.swappiness": "1",
    "vm.nr_hugepages": "2100",
    "vm.dirty_background_ratio": "0",
    "vm.dirty_background_bytes": "268435456",
    "vm.zone_reclaim_mode": "0",
    "transparent_hugepage": "madvise",
}
PROBE = {
    "disks": [{"path": "/var/lib/postgresql", "size_bytes": 500 * GB, "free_bytes": 400 * GB, "free_inodes": 10**6}],
    "fsync": {"median_ms": 0.4, "p99_ms": 1.5, "max_ms": 3.0},
    "clock": {"synchronized": True, "max_error_ms": 12.5},
    "kernel": KERNEL,
    "listeners": [],
}


def findings(*, probe=None, facts=None, **wishes):
    return host_findings({**PROBE, **(probe or {})}, facts={**FACTS, **(facts or {})}, wishes={**WISHES, **wishes})


def refusal(**changes):
    found = findings(**changes)
    assert found["warnings"] == []
    (words,) = found["refusals"]
    return words


def warning(**changes):
    found = findings(**changes)
    assert found["refusals"] == []
    (words,) = found["warnings"]
    return words


def test_host_that_is_fit_has_neither():
    assert findings() == {"refusals": [], "warnings": []}


def test_all_refusals_come_at_once():
    found = findings(facts={"distribution": "Fedora", "processor_vcpus": 1, "memtotal_mb": 100}, min_processors=2)
    assert len(found["refusals"]) == 3


# System


@pytest.mark.parametrize(
    ("name", "major"), [("Debian", "11"), ("Debian", "13"), ("Debian", "n/a"), ("Ubuntu", "20"), ("Ubuntu", "24")]
)
def test_systems_that_are_known(name, major):
    assert findings(facts={"distribution": name, "distribution_major_version": major})["refusals"] == []


def test_systems_that_are_not():
    assert refusal(facts={"distribution": "Fedora"}) == "The system is Fedora, and the roles know Debian and Ubuntu."
    assert refusal(facts={"distribution_major_version": "10"}) == "The system is Debian 10, and at least 11 is needed."


def test_processors_and_memory():
    assert refusal(min_processors=16) == ("The host has 8 processors, and host_preflight_min_processors asks for 16.")
    assert refusal(min_memory_mb=16000) == (
        "The host has 15990 MB of memory, and host_preflight_min_memory_mb asks for 16000."
    )
    assert findings(min_processors=8, min_memory_mb=15990)["refusals"] == []


# Disks


def test_disk_that_is_too_small_or_too_full():
    assert refusal(disks=[{"path": "/var/lib/postgresql", "min_size_gb": 1900}]) == (
        "The disk of /var/lib/postgresql holds 500.0 GB, and 1900 GB are asked for in host_preflight_disks."
    )
    assert refusal(disks=[{"path": "/var/lib/postgresql", "min_free_gb": 400.5}]) == (
        "The disk of /var/lib/postgresql has free 400.0 GB, and 400.5 GB are asked for in host_preflight_disks."
    )


def test_slow_writes_are_a_warning_and_slower_ones_a_refusal():
    slow = {"fsync": {"median_ms": 12.34, "p99_ms": 40.0, "max_ms": 80.0}}
    words = (
        "A write reaches the disk of /var/lib/postgresql in 12.34 ms (median; 1 in 100 takes 40.00 ms), and more than "
        "10 ms are slow: every commit waits that long. Use a disk with a protected write cache for the WAL."
    )
    assert warning(probe=slow) == words
    # Said once, not twice.
    assert refusal(probe=slow, max_fsync_ms=10.0) == words
    assert warning(probe=slow, max_fsync_ms=20.0) == words
    assert findings(probe=slow, slow_fsync_ms=0)["warnings"] == []
    assert findings(probe={"fsync": {}}, max_fsync_ms=0.001) == {"refusals": [], "warnings": []}


# Ports


def test_port_that_is_taken():
    taken = {"listeners": [{"port": 5432, "processes": ["nginx"]}, {"port": 22, "processes": ["sshd"]}]}
    wish = {"port": 5432, "processes": ["postgres"]}
    assert refusal(probe=taken, ports=[wish]) == "Port 5432 is taken by nginx. Stop it, or choose another port."
    assert findings(probe=taken, ports=[{**wish, "processes": ["nginx"]}])["refusals"] == []
    assert findings(probe=taken, ports=[{"port": 6432}])["refusals"] == []
    unseen = {"listeners": [{"port": 5432, "processes": []}]}
    assert "taken by a process that cannot be seen" in refusal(probe=unseen, ports=[wish])


# Clock


def test_clock_is_a_warning_a_refusal_or_nothing():
    wrong = {"clock": {"synchronized": False, "max_error_ms": 16000.0}}
    words = (
        "The clock is not synchronised: times in logs, the ledger and certificates cannot be compared between hosts. "
        "Run chrony or systemd-timesyncd."
    )
    assert warning(probe=wrong) == words
    assert refusal(probe=wrong, clock="require") == words
    assert findings(probe=wrong, clock="ignore") == {"refusals": [], "warnings": []}


def test_clock_that_admits_a_large_error_or_cannot_be_read():
    assert warning(probe={"clock": {"synchronized": True, "max_error_ms": 6000.5}}) == (
        "The clock may be wrong by 6000.5 ms, and host_preflight_max_clock_error_ms is 5000."
    )
    assert warning(probe={"clock": {"synchronized": None, "error": "Operation not permitted"}}) == (
        "The state of the clock could not be read: Operation not permitted."
    )


# Kernel


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("vm.overcommit_memory", "0", "vm.overcommit_memory is 0: when memory runs out, the kernel kills a process"),
        ("vm.overcommit_memory", "1", "vm.overcommit_memory is 1: "),
        (
            "vm.swappiness",
            "60",
            "vm.swappiness is 60: the kernel moves memory of the server to disk before it gives up",
        ),
        ("transparent_hugepage", "always", "Transparent huge pages are always on: "),
        ("vm.dirty_background_ratio", "10", "vm.dirty_background_ratio is 10: 1599 MB of writes may gather before"),
        ("vm.zone_reclaim_mode", "1", "vm.zone_reclaim_mode is 1: "),
    ],
)
def test_kernel_settings_are_warnings_with_value_and_reason(setting, value, words):
    assert warning(probe={"kernel": {**KERNEL, setting: value}}).startswith(words)


def test_huge_pages_matter_on_large_hosts_only():
    none = {"kernel": {**KERNEL, "vm.nr_hugepages": "0"}}
    assert warning(probe=none, facts={"memtotal_mb": 65536}).startswith("vm.nr_hugepages is 0 with 65536 MB of memory")
    assert findings(probe=none)["warnings"] == []


def test_gathered_writes_matter_on_larger_hosts_only():
    ratio = {"kernel": {**KERNEL, "vm.dirty_background_ratio": "10"}}
    assert findings(probe=ratio, facts={"memtotal_mb": 4096})["warnings"] == []


def test_nothing_is_swapped_where_there_is_no_swap():
    eager = {"kernel": {**KERNEL, "vm.swappiness": "60"}}
    assert findings(probe=eager, facts={"swaptotal_mb": 0})["warnings"] == []


def test_kernel_without_such_a_setting_is_told_nothing():
    assert findings(probe={"kernel": {}})["warnings"] == []


# The probe


def test_probe_measures_this_machine_and_leaves_nothing_behind(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run(
            [sys.executable, str(ROLE / "files" / "probe.py"), "3", str(tmp_path / "not" / "there"), "/"],
            check=True,
            capture_output=True,
            text=True,
        )
        port = listener.getsockname()[1]
    measured = json.loads(done.stdout)
    assert [disk["path"] for disk in measured["disks"]] == [str(tmp_path / "not" / "there"), "/"]
    assert all(disk["size_bytes"] >= disk["free_bytes"] > 0 for disk in measured["disks"])
    assert 0 < measured["fsync"]["median_ms"] <= measured["fsync"]["p99_ms"] <= measured["fsync"]["max_ms"]
    assert measured["clock"]["synchronized"] in (True, False, None)
    assert "vm.swappiness" in measured["kernel"]
    assert port in [item["port"] for item in measured["listeners"]]
    assert list(tmp_path.iterdir()) == []
    host_findings(measured, facts=FACTS, wishes={**WISHES, "disks": [{"path": "/", "min_free_gb": 0}]})


def test_probe_without_writes_times_none(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROLE / "files" / "probe.py"), "0", str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout)["fsync"] == {}
