"""Open tenants: the pool, one actor for each, and the calls that go through it."""
