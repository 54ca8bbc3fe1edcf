"""Models: from a name to a folder, from a folder to weights, and which of them stay resident.

Nothing in this package knows a request.
"""
