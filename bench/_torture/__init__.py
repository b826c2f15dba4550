"""What `bench.torture` is made of."""
