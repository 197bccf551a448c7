"""Services and actions: what a caller waits for."""
