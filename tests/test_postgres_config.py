"""The settings of a PostgreSQL database: read from one URL, and never shown with the password."""

import pickle
import traceback

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from tenantry import PostgresConfig
from tenantry.postgres_config import sentence_without_url

PASSWORD = "horse-battery"


def test_options_in_the_url_are_settings():
    """Tenantry's options are taken out of the URL, and libpq's stay in it, in their order."""
    config = PostgresConfig(
        url=f"postgresql://app:{PASSWORD}@db.example/tenants?sslmode=require&tenantry_pooled=true&tenantry_roles=on"
        "&tenantry_connections_max=40&connect_timeout=3&tenantry_connect_timeout_seconds=2.5"
        "&tenantry_tenants_per_connection_max=10&tenantry_connection_age_seconds_max=60"
    )
    assert config == PostgresConfig(
        url=SecretStr(f"postgresql://app:{PASSWORD}@db.example/tenants?sslmode=require&connect_timeout=3"),
        is_pooled=True,
        roles=True,
        connections_max=40,
        connect_timeout_seconds=2.5,
        tenants_per_connection_max=10,
        connection_age_seconds_max=60,
    )


def test_a_text_is_a_configuration():
    """A model with such a field takes the URL alone, as an environment variable gives it."""

    class Settings(BaseModel):
        model_config = ConfigDict(hide_input_in_errors=True)
        database: PostgresConfig

    assert Settings.model_validate({"database": "postgres://h/d"}).database.address.database == "d"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://app:{PASSWORD}@db1,db2:5433/tenants", "app@db1,db2:5433/tenants"),
        ("postgresql://app@/tenants?host=/run/postgresql&port=6543", "app@/run/postgresql:6543/tenants"),
        ("postgresql://%2Frun%2Fpostgresql/tenants?user=app", "app@/run/postgresql/tenants"),
        ("postgresql://[::1]:5433/tenants", "[::1]:5433/tenants"),
        ("postgresql:///tenants", "(default host)/tenants"),
        (f"postgresql://app:{PASSWORD}@db/?dbname=x", "app@db/x"),
        (f"postgresql://app:{PASSWORD}@db", "app@db/app"),
        ("postgresql://app@db1,db2/x?port=1", "app@db1:1,db2:1/x"),
    ],
)
def test_the_address_is_shown_without_the_password(url: str, shown: str):
    """Operators see the role, the hosts and the database."""
    assert str(PostgresConfig(url=url).address) == shown


@pytest.mark.parametrize(
    "url",
    [
        *("", "db.example", "mysql://app:horse@h/d", "host=db password=horse"),
        *("postgresql://app:ho@rse@h/d", "postgresql://app:ho/rse@h/d", "postgresql://app:ho#rse@h/d"),
        *("postgresql://app:ho?rse@h/d", "postgresql://app:ho[rse@h/d", "postgresql://app:ho%rse@h/d"),
        *("postgresql://h:horse/d", "postgresql://h1,h2,h3:1/d?port=1,2", "postgresql://h/d/horse"),
        *("postgresql://h/d?tenantry_horse=1", "postgresql://h/d?tenantry_pooled=horse"),
        *(
            "postgresql://h/d?tenantry_pooled=1&tenantry_pooled=1",
            "postgresql://h/d?tenantry_connections_max=1",
        ),
        "postgresql://h/d?tenantry_connect_timeout_seconds=nan",
    ],
)
def test_a_url_that_cannot_be_read(url: str):
    """The refusal says what to change, and repeats nothing that may be a part of the password."""
    with pytest.raises(ValidationError) as refused:
        PostgresConfig(url=url)
    shown = "".join(traceback.format_exception(refused.value))
    assert "horse" not in shown
    assert "rse@h" not in shown


def test_an_option_in_the_url_and_beside_it():
    """Nobody has to know which of the two counts."""
    with pytest.raises(ValidationError, match="is_pooled is in the URL and beside it"):
        PostgresConfig(url="postgresql://h/d?tenantry_pooled=true", is_pooled=False)


def test_the_password_is_not_shown():
    """No way to print the settings shows the password; a copy in another process still connects."""
    config = PostgresConfig(url=f"postgresql://app:{PASSWORD}@h/d")
    for text in (repr(config), str(config), config.model_dump_json(), repr(config.address), f"{config!r:>9}"):
        assert PASSWORD not in text
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:horse%40battery@h/d",
        "postgresql://app@h/d?password=horse%40battery",
        "postgresql://app@h/d?sslpassword=horse%40battery",
    ],
)
def test_the_messages_of_a_driver_are_without_the_password(url: str):
    """A driver's message becomes one line; the password would be left out however the driver wrote it."""
    message = "refused: horse@battery,\n horse%40battery,  " + url
    shown = sentence_without_url(PostgresConfig(url=url), message)
    assert "horse" not in shown
    assert shown.startswith("refused: …, ")


def test_connections_for_all_batches_and_some_operations():
    """By default nobody waits for a connection: every batch that may run has one."""
    assert PostgresConfig(url="postgresql://h/d").connections_max_of(8, 4) == 16
    assert PostgresConfig(url="postgresql://h/d", connections_max=5).connections_max_of(8, 4) == 5
