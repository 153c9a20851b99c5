"""How migrations run."""
