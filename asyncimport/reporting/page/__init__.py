"""The page of a run: a report that needs nothing but itself, and the live page with the same content.

`content.py` says what is on it, `render.py` makes HTML of that, `live.py` follows the events of a run, and `server.py`
shows that to browsers. Charts are drawn by uPlot (MIT, `static/uplot.js`, version 1.6.32 from the npm registry).
"""
