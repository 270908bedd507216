"""The daemon's database, chosen by a URL: SQLite for one host, PostgreSQL for several."""
