"""A configuration that changes while clients ask at full speed: no request fails."""

from __future__ import annotations

from spindle import services
from spindle.settings import load_settings
from tests.conftest import AUTHENTICATOR_PASSWORD, Spindle, thorough
from tests.test_cache import settings_of
from tests.test_downtime import WITHOUT_DAYS, clients

CACHED = [*WITHOUT_DAYS, "/api/v1/machine_util?order=machine,dt"]
PATHS = [*CACHED, "/health/ready"]


def pids(spindle: Spindle) -> dict[str, int | None]:
    found = services.service_states(load_settings(environ=spindle.environment))
    return {service.name: service.pid for service in found if service.name in ("nginx", "postgrest")}


def test_a_changed_setting_fails_no_request(expendable: Spindle) -> None:
    before = {path: expendable.get(path).body.decode() for path in PATHS}
    running = pids(expendable)
    with clients(expendable.port, PATHS) as load:
        # nginx's alone, and one that PostgREST reads again too
        for setting in ({"SERVE_STALE_HOURS": "1"}, {"API_MAX_ROWS": "50000"}):
            with settings_of(expendable, **setting):
                pass
    print("\n" + load.figures("four reloads"))
    assert [request for request in load.requests if request[3] != 200] == []
    assert {(path, body) for path, _, _, _, body in load.requests} == set(before.items())
    assert len(load.requests) > 100
    assert pids(expendable) == running


def test_postgrest_takes_over_what_it_can_without_a_new_start(expendable: Spindle) -> None:
    running, every = pids(expendable), len(expendable.rows("machine_changes"))
    assert every > 1000
    with settings_of(expendable, API_MAX_ROWS="1000"):
        assert len(expendable.rows("machine_changes")) == 1000
        assert pids(expendable) == running
    assert len(expendable.rows("machine_changes")) == every


@thorough
def test_a_new_start_of_postgrest_leaves_cached_answers(expendable: Spindle) -> None:
    """Some settings take one, here the login's password; for that second the answers are stale, if anything."""
    before, running = {path: expendable.get(path).body.decode() for path in CACHED}, pids(expendable)
    with clients(expendable.port, CACHED) as load:
        try:
            for password in ("another one", AUTHENTICATOR_PASSWORD):
                expendable.settings["AUTHENTICATOR_PASSWORD"] = password
                expendable.run("serve")
        finally:
            del expendable.settings["AUTHENTICATOR_PASSWORD"]
    assert {request[3] for request in load.requests} == {200}
    assert {(path, body) for path, _, _, _, body in load.requests} == set(before.items())
    assert pids(expendable)["postgrest"] != running["postgrest"]
