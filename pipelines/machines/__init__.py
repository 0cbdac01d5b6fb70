"""Points of a sweep or study on several machines: docs/machines.md.

``pool.py`` runs on the first machine and sends the points, ``point_flow.py`` on the workers.
"""
