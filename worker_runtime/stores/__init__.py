"""Where jobs are kept: one protocol, and a store for each way of keeping them."""
