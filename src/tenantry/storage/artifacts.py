"""Functions on a database as one SQLite file, which is the form of copies, snapshots and bundles with every back end.

Each function runs its work on a thread. Cancelling a call stops the work; the caller stays responsible for the file. Only
`expected_tables`, `file_rows` and `filled_file` block: they are for another back end, which calls them on a thread.
"""

from tenantry.files.digests import file_sha256
from tenantry.files.durable_files import sync_file
from tenantry.storage.sqlite.foreign import adoption, foreign
from tenantry.storage.sqlite.foreign.schema_difference import SchemaDifference
from tenantry.storage.sqlite.maintenance import integrity, maintenance, outside_copy
from tenantry.storage.sqlite.maintenance.integrity import DatabaseReport
from tenantry.storage.sqlite.tenant_files import replacement
from tenantry.storage.sqlite.tenant_files.file_rows import FileRows, file_rows
from tenantry.storage.sqlite.tenant_files.filled_file import FilledFile, expected_tables, filled_file
from tenantry.storage.sqlite.tenant_files.preparation import Preparation
from tenantry.storage.sqlite.version import SQLITE_VERSION
from tenantry.threads import in_thread

__all__ = [
    "SQLITE_VERSION",
    "DatabaseReport",
    "FileRows",
    "FilledFile",
    "Preparation",
    "SchemaDifference",
    "assign_to",
    "check",
    "check_schema",
    "compare_adopted",
    "copy_file",
    "copy_outside",
    "digest",
    "expected_tables",
    "file_rows",
    "filled_file",
    "leave_one_file",
    "make_durable",
    "mark_applied",
    "owner_of",
]

check = in_thread(integrity.check)
digest = in_thread(file_sha256)
check_schema = in_thread(foreign.check_foreign)
compare_adopted = in_thread(adoption.compare_adopted)
mark_applied = in_thread(adoption.mark_applied)
copy_outside = in_thread(outside_copy.copy_outside)
copy_file = in_thread(replacement.copy_plain_file)
owner_of = in_thread(integrity.read_tenant_uid)
assign_to = in_thread(maintenance.assign_to_tenant)
make_durable = in_thread(sync_file)
leave_one_file = in_thread(maintenance.use_rollback_journal)
