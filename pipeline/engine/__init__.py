"""Stages, and what runs their tasks: this process, or Ray actors."""
