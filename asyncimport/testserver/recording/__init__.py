"""Recordings of a real XNAT, to compare the test XNAT with: `proxy` writes one, `replay` sends it to another server.

A recording has no secrets and no names: `mask` takes them out before anything is written.
"""
