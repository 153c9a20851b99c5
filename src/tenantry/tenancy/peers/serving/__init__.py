"""The owner's side: serves the calls and operations of other processes."""
