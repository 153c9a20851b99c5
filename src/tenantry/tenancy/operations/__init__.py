"""What operators do to a tenant, in steps that a crash cannot leave half done."""
