"""What users need to test against tenantry."""
