"""Spindle's orchestration: settings, services, sources and refreshes. It computes no metric; dbt models do."""
