"""Metrics, the page of a host, and what ships for Grafana and Prometheus."""
