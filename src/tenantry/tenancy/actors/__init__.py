"""The pool of open tenants, their actors, and their calls."""
