"""What ships for Grafana and Prometheus."""
