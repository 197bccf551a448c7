"""Policies that drive any environment with Mirage's action space; they know Gymnasium and not Mirage."""
