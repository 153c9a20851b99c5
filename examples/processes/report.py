"""A short program beside the web application, as cron runs it: print how many messages each company has.

    0 6 * * * TENANTRY_DATA_DIR=/srv/data python examples/processes/report.py

The program works while the workers run, and also when none runs. cron also runs the commands of ``tenantry`` on the same directory:

    0 3 * * * tenantry snapshot create acme --data-dir /srv/data
"""

import asyncio

from tenantry import RegistryConfig, TenantRegistry


async def main() -> None:
    """Count the messages of each company."""
    async with TenantRegistry(RegistryConfig.from_environment()) as registry:
        for company in await registry.list():
            count = await registry.tenant(company.id).fetch_value("SELECT count(*) FROM messages")
            print(company.id, count)


if __name__ == "__main__":
    asyncio.run(main())
