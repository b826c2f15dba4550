"""What is on the host and what is known of it when a prune is planned."""
