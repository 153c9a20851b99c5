"""The connections between processes: sockets, frames, messages and errors."""
