"""The use case, free of HTTP and of any job engine: plan, preflight, export, verify, convert."""
