"""The proposal's servers: FastAPI and uvicorn around `mlx_lm`, as one would write them in a day.

They are contenders, and no part of the engine. Over TCP they are what the proposal calls "today",
over a Unix domain socket with uvloop what it calls "optimised".
"""
