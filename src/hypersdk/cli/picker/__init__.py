"""The full-screen picker: search, mark and configure, over inventories of ten thousand machines."""
