"""Inputs: subscriptions that drive a world, open it, and write what a robot sees into it."""
