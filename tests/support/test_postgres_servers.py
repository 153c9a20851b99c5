"""The servers that the tests start: they run, they are shared, and they end with the processes that use them."""

import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import psycopg
import pytest

import postgres_servers
from disruptions import make_synchronous
from needs import need
from postgres_servers import (
    GIVEN_URL,
    Database,
    PostgresServer,
    PostgresServers,
    private_replica,
    private_server,
    url_of,
)

pytestmark = pytest.mark.anyio

USER = textwrap.dedent(
    """
    import os, sys
    from postgres_servers import PostgresServers
    servers = PostgresServers()
    print(servers.server("18").base_url, flush=True)
    sys.stdin.read()
    os.abort()
    """
)


def test_each_server_gives_a_database(each_postgres_server: PostgresServer, each_postgres_database: Database):
    """A database is empty, the role may do everything, and a pooler leads to the same database."""
    pooled_url = each_postgres_database.url.replace("&tenantry_pooled=true", "")
    with (
        psycopg.connect(each_postgres_database.direct_url) as direct,
        psycopg.connect(pooled_url) as connected,
    ):
        assert direct.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
        assert (
            connected.execute("SELECT current_database()").fetchone()
            == direct.execute("SELECT current_database()").fetchone()
        )
    assert each_postgres_database.is_pooled == (each_postgres_server.pooler_url is not None)


def test_servers_are_shared_and_end_with_their_users(tmp_path: Path):
    """Two processes of a run use one server, which is gone after both have crashed."""
    need(GIVEN_URL is None, "the server is not started by the tests: unset TENANTRY_TEST_POSTGRES_DSN")
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(Path(postgres_servers.__file__).parent),
        "PYTEST_XDIST_TESTRUNUID": uuid.uuid4().hex,
    }
    users = [
        subprocess.Popen(
            [sys.executable, "-c", USER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            cwd=tmp_path,
        )
        for _ in range(2)
    ]
    urls = {user.stdout.readline().strip() for user in users if user.stdout is not None}
    (url,) = urls
    with psycopg.connect(url) as connection:
        for user in users:
            user.communicate()
        # The server closes the connection when it stops.
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT pg_sleep(60)")


async def test_a_server_that_the_test_runs():
    """A test may crash a server, start it again, and promote its synchronous replica."""
    with private_server() as primary:
        primary.start()
        with private_replica(primary, "second") as replica:
            replica.start()
            with psycopg.connect(url_of(primary), autocommit=True) as connection:
                await make_synchronous(connection, "second")
                connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
            primary.stop("immediate")
            replica.promote()
            for server in (replica, primary):
                if server is primary:
                    primary.start()
                with psycopg.connect(url_of(server)) as connection:
                    assert connection.execute("SELECT number FROM kept").fetchone() == (1,)


def test_servers_are_started_once(postgres_servers: PostgresServers):
    """A server that runs is not started again."""
    assert postgres_servers.server() is postgres_servers.server()
