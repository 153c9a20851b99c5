"""The operations that operators run on tenants. An operation that a crash interrupts is finished or rolled back.

To add an operation with several steps, write a class with ``action``, ``run`` and ``finish`` in a new module. Construct the
operation in `tenantry.tenancy.compose`, and pass its ``finish`` method to the runner. Then add a method to `OperatorAPI`. Operations
that make or use copies of databases are in `tenantry.tenancy.snapshots`.
"""
