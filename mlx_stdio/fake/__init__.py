"""`mlx-stdio fake`: an engine without MLX, weights or a device, for the tests of hosts.

The wire, the session, the checks of parameters, deadlines and the end of the process are the real
ones; what the engine's thread would do, a script does (`docs/fake.md`), or an echo.
"""
