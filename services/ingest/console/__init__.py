"""The console at /console: what is late, what failed and why, and how to put it right. Rendered here, without a build.

page.py      one row per page or action: who may ask for it, and the name it has in the audit log
guard.py     what stands before each row: session, role, CSRF, audit
render.py    templates to answers; live.py: what changes while somebody looks
wiring.py    every page with what it needs; the other modules are the pages
"""
