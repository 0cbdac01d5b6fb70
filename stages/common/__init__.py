"""What stages share: how they start and stop, their inputs, paths, features, threads and workers.

More than 12 entries, because each module is one of these concerns and no two belong together.
"""
