"""Settings: each mistake is an error that names the key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spindle.errors import SettingsError
from spindle.settings import ROOT, load_settings

NO_FILE = {"SPINDLE_ENV_FILE": "/dev/null"}


def load(**keys: str):
    return load_settings(environ=NO_FILE | keys)


def test_nothing_set_means_the_embedded_demo_plant() -> None:
    settings = load()
    assert settings.embedded_results
    assert settings.demo_plant
    assert settings.gateway_url == "http://127.0.0.1:8000"
    assert settings.default_machine == "branosera"
    assert settings.state_dir == ROOT / ".spindle"


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"GATEWAY_PORT": "http"}, "GATEWAY_PORT"),
        ({"GATEWAY_PORT": "70000"}, "GATEWAY_PORT"),
        ({"STALE_AFTER_HOURS": "never"}, "STALE_AFTER_HOURS"),
        ({"STALE_AFTER_HOURS": "nan"}, "STALE_AFTER_HOURS"),
        ({"DEFAULT_MACHINE": "lathe"}, "DEFAULT_MACHINE"),
        ({"DB_HOST": "db.example"}, "DB_USER"),
        ({"DB_HOST": "db.example", "DB_USER": "u", "DB_PORT": "0"}, "DB_PORT"),
        ({"DB_HOST": "db.example", "DB_USER": "u", "DB_SSLMODE": "yes"}, "DB_SSLMODE"),
        ({"AGG_DB_NAME": "results", "AGG_DB_USER": "u"}, "DB_HOST or DB_NAME"),
        ({"DB_HOST": "h", "DB_USER": "u", "AGG_DB_HOST": "h", "AGG_DB_USER": "u"}, "AGG_DB_NAME"),
        ({"DB_HOST": "h", "DB_USER": "u", "AGG_DB_NAME": "n"}, "AGG_DB_USER"),
        ({"DB_HOST": "h", "DB_USER": "u", "DB_TAMESA_PORT": "x"}, "DB_TAMESA_PORT"),
    ],
)
def test_mistakes_name_the_key(keys: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as error:
        load(**keys)
    assert error.value.advice


def test_unknown_key_in_the_file_is_an_error(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("GATEWAY_PROT=8001\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="GATEWAY_PROT"):
        load_settings(environ={"SPINDLE_ENV_FILE": str(env_file)})


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("GATEWAY_PORT=8001\nSTALE_AFTER_HOURS=5\n", encoding="utf-8")
    settings = load_settings(environ={"SPINDLE_ENV_FILE": str(env_file), "GATEWAY_PORT": "8002"})
    assert (settings.gateway_port, settings.stale_after_hours) == (8002, 5.0)


def test_one_database_named_means_the_default_machine() -> None:
    settings = load(DB_NAME="plant", DB_USER="reader", AGG_DB_NAME="plant", AGG_DB_USER="admin")
    assert list(settings.production) == ["branosera"]
    assert settings.production["branosera"].same_database(settings.results)
    assert not settings.embedded_results


def test_a_server_means_every_machine_in_the_database_of_the_seed() -> None:
    settings = load(DB_HOST="logs", DB_USER="reader", DB_TAMESA_HOST="other", DB_TAMESA_NAME="t")
    found = {machine: (source.host, source.dbname, source.user) for machine, source in settings.production.items()}
    assert found == {"branosera": ("logs", "2207", "reader"), "tamesa": ("other", "t", "reader")}
    assert settings.embedded_results


def test_passwords_are_in_no_text() -> None:
    settings = load(DB_HOST="h", DB_USER="u", DB_PASSWORD="hush", AUTHENTICATOR_PASSWORD="hush")
    assert "hush" not in repr(settings)
    assert "hush" not in settings.production["branosera"].public()


def test_every_key_is_in_the_example() -> None:
    from spindle.access import ACCESS_KEYS
    from spindle.settings import CONNECTION_PARTS, PLAIN_KEYS

    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    documented = set(re.findall(r"^#?([A-Z_]+)=", text, re.MULTILINE))
    of_connections = {f"{prefix}_{part}" for prefix in ("DB", "AGG_DB") for part in CONNECTION_PARTS}
    expected = PLAIN_KEYS | ACCESS_KEYS | of_connections
    assert expected <= documented
    assert documented - expected == {"DB_TAMESA_HOST", "DB_TAMESA_NAME"}
