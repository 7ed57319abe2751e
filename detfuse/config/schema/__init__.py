"""The generic half of the check: a configuration of parts against the signatures of their targets, read from source.

It knows Hydra's groups and defaults lists, and no key, group or part by name: what a command takes is read from the
shipped files (:mod:`.frame`) and handed over in a :class:`.keys.Schema`.
"""
