"""``python -m hypersdk.simulator``."""

try:
    from hypersdk.simulator.commandline import main
except ModuleNotFoundError as error:
    raise SystemExit(
        f"The simulator needs the Python package {error.name}, which this Python does not have. Install HyperSDK into"
        " it: pip install 'hypersdk[demo]', or in a clone pip install '.[demo]'"
    ) from None

if __name__ == "__main__":
    raise SystemExit(main())
