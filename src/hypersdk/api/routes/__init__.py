"""One module per resource. A route without a guard of ``security`` does not start: see ``app.guarded_routes``."""
