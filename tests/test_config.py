"""Settings: where they come from, that they stay, and that a wrong one is refused with what to change."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from open_file_limits import open_files_limited_to
from tenantry import RegistryConfig, TenantRegistry
from tenantry.config import PersistenceConfig, SQLiteConfig
from tenantry.environment import PREFIX
from tenantry.errors import SettingsError

# What no process needs more of, or less.
OUT_OF_BOUNDS = [
    ("open_tenants_max", 0),
    ("open_tenants_max", 1_000_001),
    ("readers_per_tenant", 0),
    ("readers_per_tenant", 17),
    ("idle_timeout_seconds", 0),
    ("idle_timeout_seconds", 86_401),
    ("idle_timeout_seconds", float("nan")),
    ("idle_timeout_seconds", float("inf")),
    ("pool_waiters_max", 0),
    ("pool_wait_timeout_seconds", -1),
    ("mailbox_requests_max", 0),
    ("batch_requests_max", 0),
    ("batch_requests_max", 4097),
    ("call_timeout_seconds", 0),
    ("call_timeout_seconds", "soon"),
    ("transaction_timeout_seconds", 0),
    ("write_threads", 0),
    ("read_threads", 65),
    ("write_jobs_max", 0),
    ("read_jobs_max", 257),
    ("durability", "off"),
    ("engine", "c"),
    ("delete_grace_seconds", -1),
    ("delete_grace_seconds", float("inf")),
    ("delete_grace_seconds", 1e300),
    ("idempotency_retention_seconds", 0),
    ("idempotency_retention_seconds", 366 * 86_400 + 1),
    ("idempotency_retention_seconds", float("nan")),
    ("fleet_retention_seconds", 0),
    ("catalog_poll_interval_seconds", 0),
    ("catalog_poll_interval_seconds", 1.5),
    ("shutdown_timeout_seconds", 0),
]


@pytest.mark.parametrize(("field", "value"), OUT_OF_BOUNDS)
def test_refuses_values_out_of_bounds(field: str, value: object):
    """Every number has a bound, and the refusal names the field."""
    with pytest.raises(ValidationError, match=field):
        RegistryConfig(data_dir="data", **{field: value})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"batch_requests_max": 65, "mailbox_requests_max": 64},
            r"batch_requests_max \(65\) is larger than mailbox_requests_max \(64\): lower the first or raise the second",
        ),
        (
            {"transaction_timeout_seconds": 31, "call_timeout_seconds": 30},
            r"transaction_timeout_seconds \(31\) is longer than call_timeout_seconds \(30\), .* lower the first or raise",
        ),
        (
            {"pool_wait_timeout_seconds": 40, "call_timeout_seconds": 30},
            r"pool_wait_timeout_seconds \(40\) is longer than call_timeout_seconds \(30\), .* lower the first or raise",
        ),
    ],
    ids=["batch", "transaction", "pool wait"],
)
def test_refuses_wrong_combinations(fields: dict[str, int], sentence: str):
    """Settings that contradict each other are refused with a sentence that says what to change."""
    with pytest.raises(ValidationError, match=sentence):
        RegistryConfig(data_dir="data", **fields)


def test_the_bounds_themselves_are_allowed():
    """A limit is the last allowed value, not the first refused one."""
    config = RegistryConfig(
        data_dir="data",
        batch_requests_max=64,
        mailbox_requests_max=64,
        call_timeout_seconds=30,
        transaction_timeout_seconds=30,
        pool_wait_timeout_seconds=30,
        catalog_poll_interval_seconds=1,
        delete_grace_seconds=0,
        idempotency_retention_seconds=366 * 86_400,
    )
    assert config.batch_requests_max == config.mailbox_requests_max


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's own environment is read."""
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def test_the_environment_fills_what_is_not_given(monkeypatch: pytest.MonkeyPatch):
    """An operator sets what the program left open; what the program says wins."""
    monkeypatch.setenv("TENANTRY_DATA_DIR", "/srv/tenantry")
    monkeypatch.setenv("TENANTRY_OPEN_TENANTS_MAX", "7")
    monkeypatch.setenv("TENANTRY_IDLE_TIMEOUT_SECONDS", "1.5")
    monkeypatch.setenv("TENANTRY_DURABILITY", "normal")
    monkeypatch.setenv("TENANTRY_ENGINE", "python")
    config = RegistryConfig.from_environment(idle_timeout_seconds=2)
    assert config.data_dir == Path("/srv/tenantry")
    assert (config.open_tenants_max, config.idle_timeout_seconds, config.durability) == (7, 2, "normal")
    assert config.engine == "python"


def test_only_from_environment_reads_the_environment(monkeypatch: pytest.MonkeyPatch):
    """A program that gives its settings itself does not depend on where it is started."""
    monkeypatch.setenv("TENANTRY_OPEN_TENANTS_MAX", "7")
    monkeypatch.setenv("TENANTRY_MISSPELT", "7")
    with open_files_limited_to(4096):
        assert RegistryConfig(data_dir="data") == TenantRegistry("data").config
        assert TenantRegistry(Path("data")).config.open_tenants_max == 512


def test_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch):
    """A value that cannot be used stops the start; the error names the variable, and an argument by its own name."""
    monkeypatch.setenv("TENANTRY_OPEN_TENANTS_MAX", "many")
    with pytest.raises(
        SettingsError, match="TENANTRY_OPEN_TENANTS_MAX: Input should be a valid integer"
    ) as caught:
        RegistryConfig.from_environment(data_dir="data", read_threads=0)
    assert "; read_threads: Input should be greater" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TENANTRY_OPEN_TENANT_MAX", "TENANTRY_OPEN_TENANTS_MAX"),
        ("TENANTRY_KEY", "TENANTRY_API_KEY"),
        ("TENANTRY_SCHEMA", "TENANTRY_SCHEMAS"),
        ("TENANTRY_data_dir", "TENANTRY_DATA_DIR"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_known_one(
    name: str, nearest: str, monkeypatch: pytest.MonkeyPatch
):
    """A misspelt variable stops the start, instead of leaving a default in force that the operator has changed."""
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"{name}, which .* is {nearest};"):
        RegistryConfig.from_environment(data_dir="data")


def test_other_known_variables_are_accepted(monkeypatch: pytest.MonkeyPatch):
    """The commands' variables, empty ones, and those that Kubernetes makes of a service's name do not stop the start."""
    monkeypatch.setenv("TENANTRY_API_KEY", "secret")
    monkeypatch.setenv("TENANTRY_OPEN_TENANTS_MAX", "")
    monkeypatch.setenv("TENANTRY_SERVICE_HOST", "10.0.0.11")
    monkeypatch.setenv("TENANTRY_SERVICE_PORT_HTTP", "8321")
    monkeypatch.setenv("TENANTRY_PORT_8321_TCP_ADDR", "10.0.0.11")
    assert RegistryConfig.from_environment(data_dir="data") == RegistryConfig(data_dir="data")


SECRET_URL = "postgresql://app:hunter2@db.example/tenants"


def test_databases_come_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    """One variable for the database of the catalog and of new tenants, and one for each further database."""
    monkeypatch.setenv("TENANTRY_DATABASE", SECRET_URL)
    monkeypatch.setenv("TENANTRY_DATABASES__east", "postgresql://east.example/tenants?tenantry_pooled=true")
    monkeypatch.setenv("TENANTRY_DATABASES__WEST_1", "postgresql://west.example/tenants")
    monkeypatch.setenv("TENANTRY_DATABASES__north", "")
    config = RegistryConfig.from_environment(data_dir="data")
    assert list(config.all_databases) == ["postgres", "west_1", "east"]
    assert config.databases["east"].is_pooled
    assert (config.catalog_backend, config.new_tenants_backend) == ("postgres", "postgres")
    assert config.open_tenants_max == 10_000


def test_new_tenants_stay_files_unless_the_settings_say_so():
    """Further databases move neither the catalog nor new tenants; ``default_backend`` moves new tenants alone."""
    east = {"east": SECRET_URL}
    config = RegistryConfig(data_dir="data", databases=east)
    assert (config.catalog_backend, config.new_tenants_backend, config.open_tenants_max) == (
        *("sqlite", "sqlite"),
        512,
    )
    config = RegistryConfig(data_dir="data", databases=east, default_backend="east")
    assert (config.catalog_backend, config.new_tenants_backend, config.open_tenants_max) == (
        *("sqlite", "east"),
        10_000,
    )
    config = RegistryConfig(data_dir="data", database=SECRET_URL, default_backend="sqlite")
    assert (config.catalog_backend, config.new_tenants_backend, config.open_tenants_max) == (
        *("postgres", "sqlite"),
        512,
    )


@pytest.mark.parametrize("backend", ["east", "postgres"])
def test_the_default_back_end_is_configured(backend: str):
    """A default that no setting names stops the start, with the variable to set."""
    variable = {"east": "TENANTRY_DATABASES__east", "postgres": "TENANTRY_DATABASE"}[backend]
    with pytest.raises(ValidationError, match=f"have only sqlite: name one of these, or set {variable}"):
        RegistryConfig(data_dir="data", default_backend=backend)


@pytest.mark.parametrize("name", ["sqlite", "postgres", "East", "1st", "a-b", "", "x" * 32])
def test_names_of_databases(name: str):
    """A name is a word that fits in a variable's name, and not the name of another back end."""
    with pytest.raises(ValidationError, match=f"{name!r} cannot be the name of a database"):
        RegistryConfig(data_dir="data", databases={name: SECRET_URL})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TENANTRY_DATABASE_", "TENANTRY_DATABASE"),
        ("TENANTRY_DATABASES", "TENANTRY_DATABASE"),
        ("TENANTRY_DATABASES__", "TENANTRY_DATABASES__…"),
        ("TENANTRY_DATABASE__east", "TENANTRY_DATABASES__…"),
    ],
)
def test_a_misspelt_database_is_refused(name: str, nearest: str, monkeypatch: pytest.MonkeyPatch):
    """A misspelt name of a database does not leave the tenants in files; its value is not repeated."""
    monkeypatch.setenv(name, SECRET_URL)
    with pytest.raises(SettingsError, match=f"{name}, which .* is {nearest};") as caught:
        RegistryConfig.from_environment(data_dir="data")
    assert "hunter2" not in str(caught.value)


def test_two_variables_of_one_database(monkeypatch: pytest.MonkeyPatch):
    """Names of entries are in lower case, and none is chosen by chance."""
    monkeypatch.setenv("TENANTRY_DATABASES__east", SECRET_URL)
    monkeypatch.setenv("TENANTRY_DATABASES__EAST", SECRET_URL)
    with pytest.raises(SettingsError, match="two variables for TENANTRY_DATABASES__east"):
        RegistryConfig.from_environment(data_dir="data")


@pytest.mark.parametrize("url", ["mysql://app:hunter2@db/tenants", "postgresql://app:hunter2@x@db/tenants"])
def test_no_error_and_no_repr_shows_the_password(url: str, monkeypatch: pytest.MonkeyPatch):
    """The URL of a database is a secret, in messages and in the details of a refusal."""
    config = RegistryConfig(data_dir="data", database=SECRET_URL, databases={"east": SECRET_URL})
    assert "hunter2" not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"
    for fields in ({"database": url}, {"databases": {"east": url}}):
        with pytest.raises(ValidationError) as refused:
            RegistryConfig(data_dir="data", **fields)
        assert "hunter2" not in f"{refused.value} {refused.value!r} {refused.value.errors()}"
    monkeypatch.setenv("TENANTRY_DATABASES__east", url)
    with pytest.raises(SettingsError, match="TENANTRY_DATABASES__east: the URL") as caught:
        RegistryConfig.from_environment(data_dir="data")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("variable", ["TENANTRY_DATABASE", "TENANTRY_DATABASES__east"])
@pytest.mark.parametrize("option", ["tenantry_pooled=maybe", "tenantry_connections_max=0"])
def test_a_value_in_a_url_that_is_not_valid(variable: str, option: str, monkeypatch: pytest.MonkeyPatch):
    """The error names the variable and the option, as the user wrote them."""
    monkeypatch.setenv(variable, f"{SECRET_URL}?{option}")
    with pytest.raises(SettingsError, match=f"{variable}: {option.partition('=')[0]}: ") as caught:
        RegistryConfig.from_environment(data_dir="data")
    assert "hunter2" not in str(caught.value)


def test_a_data_directory_is_required():
    """There is no default place for other people's data."""
    with pytest.raises(ValidationError, match="data_dir"):
        RegistryConfig()
    with pytest.raises(SettingsError, match="TENANTRY_DATA_DIR: Field required"):
        RegistryConfig.from_environment()
    with pytest.raises(ValidationError, match="the path is empty: name a directory"):
        TenantRegistry("")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (RegistryConfig(data_dir="data"), "open_tenants_max"),
        (SQLiteConfig(path="x.db"), "path"),
        (PersistenceConfig(), "backend"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_settings_stay_as_they_are(config: BaseModel, field: str):
    """Settings are frozen: what was checked together stays together."""
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, field, 1)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (RegistryConfig, {"data_dir": "data", "open_tenant_max": 3}),
        (SQLiteConfig, {"path": "x.db", "wal": True}),
        (PersistenceConfig, {"back_end": "sqlite"}),
    ],
)
def test_unknown_settings_are_refused(settings: type[BaseModel], fields: dict[str, object]):
    """A misspelt setting is refused, not ignored."""
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        settings(**fields)


@pytest.mark.parametrize(
    "path", ["", "  ", "a\0b", "file:x.db", "file:x.db?mode=ro", "../x.db", "a/../../x.db"]
)
def test_paths_that_could_surprise_are_refused(path: str):
    """A path is a plain path: no URI, no way up, no NUL, and not nothing."""
    with pytest.raises(ValidationError, match="path"):
        SQLiteConfig(path=path)


def test_paths_that_are_none():
    """What is neither text nor a path is refused by its type."""
    with pytest.raises(ValidationError, match="valid string"):
        SQLiteConfig(path=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["x.db", ":memory:", "/srv/x.db", Path("/srv/x.db")])
def test_paths_are_kept_as_text(path: str | Path):
    """Text and `Path` are both taken; inside it is text."""
    config = SQLiteConfig(path=path)  # type: ignore[arg-type]
    assert config.path == str(path)
    assert (config.wal_mode, config.journal_size_limit) == (True, 67_108_864)


def test_the_thread_budget_is_computed():
    """An operator sees how many threads the settings cost: those that write, those that read, and the catalog's."""
    assert RegistryConfig(data_dir="data", write_threads=3, read_threads=2).threads_max == 6


@pytest.mark.parametrize(
    ("given", "fitted"),
    [
        ({"call_timeout_seconds": 5}, {"transaction_timeout_seconds": 5, "pool_wait_timeout_seconds": 5}),
        ({"mailbox_requests_max": 8}, {"batch_requests_max": 8}),
    ],
)
def test_a_limit_alone_lowers_the_defaults_under_it(given: dict[str, float], fitted: dict[str, float]):
    """One setting contradicts nothing that nobody asked for."""
    config = RegistryConfig(data_dir="data", **given)
    assert {name: getattr(config, name) for name in fitted} == fitted


def test_a_limit_from_the_environment_lowers_them_too(monkeypatch: pytest.MonkeyPatch):
    """The environment is text; it is fitted like an argument."""
    monkeypatch.setenv("TENANTRY_CALL_TIMEOUT_SECONDS", "2.5")
    assert RegistryConfig.from_environment(data_dir="data").transaction_timeout_seconds == 2.5


def test_the_data_directory_does_not_follow_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A relative path means the directory of the moment it was given in."""
    monkeypatch.chdir(tmp_path)
    assert RegistryConfig(data_dir="data").data_dir == tmp_path / "data"
