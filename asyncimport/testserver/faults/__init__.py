"""Scripted faults: `actions` says what can go wrong, `schedule` which requests it strikes, `files` reads both.

`http.inject` carries them out.
"""
