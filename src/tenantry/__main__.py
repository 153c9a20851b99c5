"""``python -m tenantry``: the command line."""

from tenantry_command import main

main()
