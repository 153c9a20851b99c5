"""Schema packs: named sets of migrations, with the repositories and connection functions that belong to them."""
