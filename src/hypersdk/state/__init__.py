"""The daemon's database: what users see and what programs rely on. SQLite on one host, PostgreSQL for several, by one
URL."""
