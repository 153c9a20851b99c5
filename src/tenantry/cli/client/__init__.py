"""The commands' clients of the admin API, over a network or in this process."""
