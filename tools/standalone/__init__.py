"""The standalone build: a folder that runs the engine where no Python is installed."""
