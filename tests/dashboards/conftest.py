"""A busy service, and a Prometheus that scrapes it: as long as the tests of one module, they take a good part of a machine."""

from collections.abc import Iterator

import pytest

from monitoring import Prometheus, Service, busy_service, eventually, prometheus
from postgres_servers import PostgresServer


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Service]:
    """The service under load."""
    with (
        postgres_server.database() as database,
        busy_service(tmp_path_factory.mktemp("service"), database.url) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, service: Service) -> Iterator[Prometheus]:
    """Prometheus, after it has scraped the service a few times and evaluated the rules on that."""
    with prometheus(tmp_path_factory.mktemp("prometheus"), service.address) as server:
        enough = 'count_over_time(job:tenantry_calls_failed:ratio_rate5m{job="tenantry"}[1m]) > 3'
        assert eventually(lambda: server.values(enough))
        yield server
