"""What stages share: start and stop, inputs, paths, features, threads, memory and workers.

More than 12 entries, because each module is one of these concerns and no two belong together.
"""
