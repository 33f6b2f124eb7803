"""Makers of sound and damaged data, for tests and benchmarks; nothing else imports this."""
