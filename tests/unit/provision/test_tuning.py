# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings that follow from memory, processors and disk, on small hosts and large ones."""

from __future__ import annotations

import re

import pytest

from ansible_collections.holdfast.postgres.plugins.plugin_utils._tuning import (
    GB,
    MB,
    as_size,
    postgres_tuning,
    rotates,
    size_bytes,
)
from tests.support.postgres_role import host, problems

MEMORY_GB = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
PROCESSORS = (1, 2, 3, 4, 8, 16, 64, 128)


def test_host_of_the_deployment_guides_gets_their_values():
    tuned = postgres_tuning(host(16384, 8))
    assert tuned == {
        "max_connections": 200,
        "shared_buffers": "4096MB",
        "effective_cache_size": "12288MB",
        "maintenance_work_mem": "1024MB",
        "work_mem": "20MB",
        "wal_buffers": "16MB",
        "max_wal_size": "2048MB",
        "min_wal_size": "1024MB",
        "checkpoint_completion_target": 0.9,
        "random_page_cost": 1.1,
        "effective_io_concurrency": 200,
        "max_worker_processes": 8,
        "max_parallel_workers": 8,
        "max_parallel_workers_per_gather": 4,
        "max_parallel_maintenance_workers": 4,
    }


def test_smallest_and_largest_hosts():
    small, large = postgres_tuning(host(1024, 1)), postgres_tuning(host(512 * 1024, 128))
    assert (small["shared_buffers"], small["work_mem"], small["maintenance_work_mem"]) == ("256MB", "1MB", "64MB")
    assert (small["wal_buffers"], small["max_wal_size"], small["min_wal_size"]) == ("7MB", "1024MB", "512MB")
    assert (small["max_worker_processes"], small["max_parallel_workers"]) == (8, 1)
    assert (large["shared_buffers"], large["effective_cache_size"]) == ("16384MB", "393216MB")
    assert (large["work_mem"], large["maintenance_work_mem"], large["wal_buffers"]) == ("846MB", "2048MB", "16MB")
    assert (large["max_wal_size"], large["max_worker_processes"]) == ("8192MB", 128)
    assert large["max_parallel_workers_per_gather"] == 4


@pytest.mark.parametrize("memory_gb", MEMORY_GB)
def test_what_the_role_works_out_never_exceeds_the_host(memory_gb):
    assert problems(facts=host(memory_gb * 1024)) == []
    tuned = postgres_tuning(host(memory_gb * 1024))
    assert size_bytes(tuned["shared_buffers"]) <= memory_gb * GB // 4
    assert size_bytes(tuned["effective_cache_size"]) < memory_gb * GB
    assert size_bytes(tuned["min_wal_size"]) < size_bytes(tuned["max_wal_size"]) <= 16 * GB
    # PostgreSQL takes no less than these (runtime-config-resource.html).
    assert size_bytes(tuned["work_mem"]) >= 64 * 1024
    assert size_bytes(tuned["wal_buffers"]) >= 32 * 1024


@pytest.mark.parametrize("setting", ["shared_buffers", "effective_cache_size", "maintenance_work_mem", "work_mem"])
def test_more_memory_never_means_less_of_anything(setting):
    sizes = [size_bytes(postgres_tuning(host(memory_gb * 1024))[setting]) for memory_gb in MEMORY_GB]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("processors", PROCESSORS)
def test_workers_follow_the_processors(processors):
    tuned = postgres_tuning(host(processors=processors))
    assert tuned["max_worker_processes"] == max(8, processors)
    assert tuned["max_parallel_workers"] == processors
    assert 1 <= tuned["max_parallel_workers_per_gather"] <= min(4, processors)
    assert tuned["max_parallel_maintenance_workers"] == tuned["max_parallel_workers_per_gather"]


def test_host_that_says_nothing_of_its_processors_has_one():
    assert postgres_tuning({"memtotal_mb": 1024})["max_parallel_workers"] == 1


# Disks


@pytest.mark.parametrize(
    ("disk", "rotational", "cost", "concurrency"),
    [("auto", "0", 1.1, 200), ("auto", "1", 4, 2), ("ssd", "1", 1.1, 200), ("hdd", "0", 4, 2)],
)
def test_kind_of_disk_decides_on_the_price_of_a_random_page(disk, rotational, cost, concurrency):
    tuned = postgres_tuning(host(rotational=rotational), disk=disk)
    assert (tuned["random_page_cost"], tuned["effective_io_concurrency"]) == (cost, concurrency)


def test_disk_below_the_data_directory_counts_and_no_other():
    facts = {
        "mounts": [
            {"mount": "/", "device": "/dev/sda1"},
            {"mount": "/var/lib/postgresql", "device": "/dev/nvme0n1p1"},
            {"mount": "/var/lib/post", "device": "/dev/sda2"},
        ],
        "devices": {
            "sda": {"rotational": "1", "partitions": {"sda1": {}, "sda2": {}}},
            "nvme0n1": {"rotational": "0", "partitions": {"nvme0n1p1": {}}},
        },
    }
    assert not rotates(facts, "/var/lib/postgresql/15/main")
    assert rotates(facts, "/var/lib/postgresql-old")
    assert rotates(facts, "/srv")


def test_mapped_device_counts_as_the_slowest_disk_and_an_unknown_one_as_solid():
    mounts = [{"mount": "/", "device": "/dev/mapper/vg-root"}]
    disks = {"sda": {"rotational": "1"}, "sdb": {"rotational": "0"}, "loop0": {"rotational": "1"}}
    assert rotates({"mounts": mounts, "devices": disks}, "/var/lib/postgresql")
    assert not rotates({"mounts": mounts, "devices": {"loop0": {"rotational": "1"}}}, "/var/lib/postgresql")
    assert not rotates({}, "/var/lib/postgresql")


# Overrides


def test_override_wins_and_what_depends_on_it_follows():
    plain, less = postgres_tuning(host()), postgres_tuning(host(), {"shared_buffers": "1GB", "max_connections": 100})
    assert less["shared_buffers"] == "1GB"
    assert less["max_connections"] == 100
    # (16 GB - 1 GB) / (3 x 100)
    assert (plain["work_mem"], less["work_mem"]) == ("20MB", "51MB")
    assert less["max_wal_size"] == "1024MB"
    assert postgres_tuning(host(), {"max_wal_size": "8GB"})["min_wal_size"] == "4096MB"
    assert postgres_tuning(host(), {"max_wal_size": "40MB"})["min_wal_size"] == "32MB"


def test_override_of_a_setting_that_the_role_does_not_know_is_kept():
    assert postgres_tuning(host(), {"jit": False})["jit"] is False


def test_bare_number_for_shared_buffers_counts_pages_as_in_postgresql():
    tuned = postgres_tuning(host(), {"shared_buffers": 131072})
    assert tuned["shared_buffers"] == 131072
    assert tuned["max_wal_size"] == "1024MB"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"shared_buffers": "4 gigs"}, "shared_buffers: '4 gigs' is not a size; PostgreSQL knows B, kB, MB, GB and TB"),
        ({"shared_buffers": "4gb"}, "shared_buffers: '4gb' is not a size"),
        ({"max_connections": 0}, "max_connections: 0 is no number of connections"),
        ({"max_connections": "many"}, "max_connections: 'many' is no number of connections"),
    ],
)
def test_override_that_means_nothing_is_refused_with_its_name(overrides, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        postgres_tuning(host(), overrides)


def test_clusters_of_one_host_share_its_memory():
    one, half = postgres_tuning(host(16384)), postgres_tuning(host(16384), clusters=2)
    assert size_bytes(half["shared_buffers"]) == size_bytes(one["shared_buffers"]) // 2
    assert half == postgres_tuning(host(8192))


def test_memory_that_is_named_counts_instead_of_the_hosts():
    assert postgres_tuning(host(65536), memory_mb=2048) == postgres_tuning(host(2048))


# Units


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        ("4GB", "8kB", 4 * GB),
        ("1.5 GB", "8kB", 3 * GB // 2),
        (" 64kB ", "", 64 * 1024),
        (16384, "8kB", 128 * MB),
        ("16384", "8kB", 128 * MB),
        (4096, "kB", 4 * MB),
        (80, "MB", 80 * MB),
        ("1TB", "", 1024 * GB),
        (512, "B", 512),
    ],
)
def test_sizes_are_read_as_postgresql_reads_them(value, unit, expected):
    assert size_bytes(value, unit=unit) == expected


@pytest.mark.parametrize("value", ["", "-1", "4G", "4gb", "4Mb", "kB", "1e3kB", None, True])
def test_what_postgresql_would_not_read_is_no_size(value):
    with pytest.raises(ValueError, match="is not a size"):
        size_bytes(value, unit="kB")


def test_sizes_are_spelled_in_whole_megabytes_or_kilobytes():
    assert [as_size(value) for value in (3.9 * MB, MB, MB - 1, 64 * 1024)] == ["3MB", "1MB", "1023kB", "64kB"]
