"""``python -m hypersdk.simulator``."""

from hypersdk.simulator.commandline import main

if __name__ == "__main__":
    raise SystemExit(main())
