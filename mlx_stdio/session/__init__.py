"""The session: which request is in flight, cancel, deadlines, the life and the end of the process.

It joins the wire, the typed protocol and the engine; nothing in it touches arrays.
"""
