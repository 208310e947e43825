# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a swap refuses before it talks to a server, and how it counts its time."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.holdfast.postgres.plugins.module_utils._core.errors import HoldfastError
from ansible_collections.holdfast.postgres.plugins.module_utils._switchover.swap import Deadline, SwapRequest, lock_key


def refusal_of(**options: Any) -> HoldfastError:
    request = SwapRequest(**{"live": "app", "replacement": "side", "confirm": "app", **options})
    with pytest.raises(HoldfastError) as refusal:
        request.validate(maintenance_db="postgres")
    return refusal.value


@pytest.mark.parametrize("confirm", [None, "", "App", "app ", "side"])
def test_confirmation_is_exact(confirm: str | None) -> None:
    error = refusal_of(confirm=confirm)
    assert error.code == "confirm_required" and "'app'" in error.msg


def test_confirmation_is_asked_for_before_anything_else_is_said() -> None:
    assert refusal_of(confirm=None, replacement="app", max_pause_s=-1).code == "confirm_required"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"replacement": "app"}, "option_invalid"),
        ({"retired_name": "app"}, "option_invalid"),
        ({"retired_name": "side"}, "option_invalid"),
        ({"replacement": "postgres"}, "option_invalid"),
        ({"retired_name": "é" * 32}, "name_invalid"),
        ({"replacement": ""}, "name_invalid"),
        ({"replacement": "a\x00b"}, "name_invalid"),
        ({"drain_timeout_s": -1}, "option_invalid"),
        ({"max_pause_s": 0}, "option_invalid"),
    ],
)
def test_requests_that_make_no_sense_are_refused(options: dict[str, Any], code: str) -> None:
    assert refusal_of(**options).code == code


def test_sensible_request_is_accepted() -> None:
    SwapRequest("app", "side", "app", retired_name="é" * 31, drain_timeout_s=0).validate(maintenance_db="postgres")


def test_lock_keys_are_stable_and_fit_the_server() -> None:
    # Another release of the collection must find the same lock.
    assert lock_key("rently_lending") == lock_key("rently_lending") != lock_key("rently_lending2")
    assert all(-(2**63) <= lock_key(name) < 2**63 for name in ("a", "é", "\udc80", "x" * 63))


def test_deadline_refuses_to_go_on_when_the_time_is_up() -> None:
    assert 0 < Deadline(60).left_s() <= 60
    with pytest.raises(HoldfastError) as refusal:
        Deadline(1, started=0).left_s()
    assert refusal.value.code == "timeout" and "more than 1 s (max_pause" in refusal.value.msg
