"""What operators do to a tenant, in steps that a crash cannot leave half done.

To add an operation of several steps: write a class with ``action``, ``run`` and ``finish`` in a file of its own, make it in
`tenantry.tenancy.compose`, where its finisher is passed to the runner too, and give `OperatorAPI` a method that runs it. Operations
that make or use copies of databases are in `tenantry.tenancy.snapshots`.
"""
