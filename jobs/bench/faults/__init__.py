"""Fault drills: what a run loses when something dies, and how it scales."""
