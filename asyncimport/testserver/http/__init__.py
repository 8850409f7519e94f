"""XNAT's REST interface over a site: `app` takes a request, `routes` finds its handler.

Each handler's docstring names the XNAT class that it imitates. `inject` carries out faults.
"""
