"""The two servers.

python -m bench.proposal --model DIR --port N     TCP on the loopback, uvicorn as it comes
python -m bench.proposal --model DIR --uds PATH   a Unix domain socket, and uvloop
"""

from __future__ import annotations

import argparse

import uvicorn

from bench.proposal.app import make_app


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--port", type=int)
    place.add_argument("--uds")
    options = parser.parse_args()
    app = make_app(options.model)
    # `loop` is named because uvicorn takes uvloop by itself where it is installed.
    if options.uds:
        uvicorn.run(app, uds=options.uds, loop="uvloop", log_level="warning")
    else:
        uvicorn.run(app, host="127.0.0.1", port=options.port, loop="asyncio", log_level="warning")


if __name__ == "__main__":
    main()
